// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `nfc`: canonical composition, the one Unicode normal form that tokenizers of this library apply.

#include <esft/data/tokenizers/unicode.hpp>
#include <esft/data/tokenizers/unicode_composition.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

/// The tables of composition, ready for look-ups.
class composition_tables {
 public:
  static constexpr std::uint32_t s_base = 0xac00, l_base = 0x1100, v_base = 0x1161, t_base = 0x11a7;
  static constexpr std::uint32_t l_count = 19, v_count = 21, t_count = 28, s_count = l_count * v_count * t_count;

  static const composition_tables& get() {
    static const composition_tables tables;
    return tables;
  }

  [[nodiscard]] std::uint8_t combining_class(std::uint32_t code) const { return combining_[code]; }
  /// Whether a text of such characters alone is its own normal form.
  [[nodiscard]] bool inert(std::uint32_t code) const { return inert_[code]; }

  void decompose(std::uint32_t code, std::vector<std::uint32_t>& out) const {
    if (code >= s_base && code < s_base + s_count) {
      const std::uint32_t s = code - s_base;
      out.push_back(l_base + s / (v_count * t_count));
      out.push_back(v_base + s % (v_count * t_count) / t_count);
      if (s % t_count != 0) out.push_back(t_base + s % t_count);
      return;
    }
    const auto found = parts_.find(code);
    if (found == parts_.end()) return out.push_back(code);
    decompose(found->second.first, out);
    if (found->second.second != 0) out.push_back(found->second.second);
  }

  /// The composed character, or 0.
  [[nodiscard]] std::uint32_t compose(std::uint32_t first, std::uint32_t second) const {
    if (first >= l_base && first < l_base + l_count && second >= v_base && second < v_base + v_count) {
      return s_base + ((first - l_base) * v_count + (second - v_base)) * t_count;
    }
    if (first >= s_base && first < s_base + s_count && (first - s_base) % t_count == 0 && second > t_base && second < t_base + t_count) {
      return first + (second - t_base);
    }
    const auto found = whole_.find(static_cast<std::uint64_t>(first) << 21U | second);
    return found == whole_.end() ? 0 : found->second;
  }

 private:
  composition_tables() : combining_(code_end, 0), inert_(code_end, true) {
    for (std::size_t i = 0; i < combining_runs.size(); ++i) {
      const std::uint32_t end = i + 1 < combining_runs.size() ? combining_runs[i + 1] >> 8U : invalid_byte_base;
      const auto value = static_cast<std::uint8_t>(combining_runs[i] & 255U);
      for (std::uint32_t code = combining_runs[i] >> 8U; code < end && value != 0; ++code) {
        combining_[code] = value;
        inert_[code] = false;
      }
    }
    constexpr std::uint64_t mask = (1U << 21U) - 1;
    for (const std::uint64_t entry : decompositions) {
      const auto composed = static_cast<std::uint32_t>(entry >> 42U & mask);
      const auto first = static_cast<std::uint32_t>(entry >> 21U & mask);
      const auto second = static_cast<std::uint32_t>(entry & mask);
      parts_.emplace(composed, std::pair(first, second));
      if (entry >> 63U != 0) {
        inert_[composed] = false;
      } else {
        whole_.emplace(entry & ((std::uint64_t{1} << 42U) - 1), composed);
        inert_[second] = false;
      }
    }
    std::fill(inert_.begin() + v_base, inert_.begin() + v_base + v_count, false);
    std::fill(inert_.begin() + t_base + 1, inert_.begin() + t_base + t_count, false);
  }

  std::vector<std::uint8_t> combining_;
  std::vector<bool> inert_;
  std::unordered_map<std::uint32_t, std::pair<std::uint32_t, std::uint32_t>> parts_;
  std::unordered_map<std::uint64_t, std::uint32_t> whole_;
};

/// Puts marks into canonical order: stable, by combining class, between characters of class 0.
inline void order_marks(std::vector<std::uint32_t>& codes, const composition_tables& tables) {
  const auto by_class = [&](std::uint32_t a, std::uint32_t b) { return tables.combining_class(a) < tables.combining_class(b); };
  for (auto from = codes.begin(); from != codes.end();) {
    const auto begin = std::find_if(from, codes.end(), [&](std::uint32_t code) { return tables.combining_class(code) != 0; });
    from = std::find_if(begin, codes.end(), [&](std::uint32_t code) { return tables.combining_class(code) == 0; });
    std::stable_sort(begin, from, by_class);
  }
}

/// Joins each mark with the last starter before it, unless a mark in between blocks it.
inline void compose_marks(std::vector<std::uint32_t>& codes, const composition_tables& tables) {
  std::size_t starter = codes.size();  // none yet
  std::size_t kept = 0;
  for (const std::uint32_t code : codes) {
    const std::uint8_t own = tables.combining_class(code);
    if (starter < kept) {
      const bool adjacent = kept == starter + 1;
      const std::uint8_t before = adjacent ? std::uint8_t{0} : tables.combining_class(codes[kept - 1]);
      const bool reachable = adjacent || before < own;
      const std::uint32_t composed = reachable ? tables.compose(codes[starter], code) : 0;
      if (composed != 0) {
        codes[starter] = composed;
        continue;
      }
    }
    if (own == 0) starter = kept;
    codes[kept++] = code;
  }
  codes.resize(kept);
}

}  // namespace detail

/// Canonical composition of a text; bytes that are no UTF-8 stay as they are.
/// @source Unicode Standard Annex 15; the data are those of the reference (see tools/unicode)
/// @cost one look-up a character for text that is composed already
inline std::string nfc(std::string_view text) {
  const auto& tables = detail::composition_tables::get();
  bool changes = false;
  for (std::size_t at = 0; at < text.size() && !changes;) {
    const auto [code, length] = detail::next_code(text, at);
    changes = !tables.inert(code);
    at += length;
  }
  if (!changes) return std::string(text);
  std::vector<std::uint32_t> codes;
  codes.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const auto [code, length] = detail::next_code(text, at);
    tables.decompose(code, codes);
    at += length;
  }
  detail::order_marks(codes, tables);
  detail::compose_marks(codes, tables);
  std::string result;
  result.reserve(text.size());
  for (const std::uint32_t code : codes) detail::append_code(result, code);
  return result;
}

}  // namespace esft
