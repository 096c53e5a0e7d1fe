// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Text as code points, and the classes of code points that split patterns are made of.

#include <esft/core/utf8.hpp>
#include <esft/data/tokenizers/unicode_categories.hpp>

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// General categories of Unicode, joined where no pattern tells them apart; white space is a class of its own and no other one.
enum class character_class : std::uint8_t { other, lu, ll, lt, lm, lo, m, nd, nl, no, pc, p, s, space };

/// A set of character classes.
using class_set = std::uint16_t;

constexpr class_set set_of(std::same_as<character_class> auto... members) {
  return static_cast<class_set>((0U | ... | (1U << static_cast<unsigned>(members))));
}

namespace detail {

/// A byte that is no UTF-8 stands for itself above the code points: text in any encoding survives the round trip.
inline constexpr std::uint32_t invalid_byte_base = 0x110000U;
inline constexpr std::uint32_t code_end = invalid_byte_base + 256U;

/// A function and no lambda: GCC would try to evaluate that one while compiling, at five seconds in every translation unit.
inline std::vector<std::uint8_t> make_character_classes() {
  std::vector<std::uint8_t> classes(code_end, 0);
  for (std::size_t i = 0; i < category_runs.size(); ++i) {
    const std::uint32_t end = i + 1 < category_runs.size() ? category_runs[i + 1] >> 4U : invalid_byte_base;
    std::fill(classes.begin() + (category_runs[i] >> 4U), classes.begin() + end, static_cast<std::uint8_t>(category_runs[i] & 15U));
  }
  return classes;
}

/// Class of every code point, in one byte each: splitting looks up every character of a text several times.
inline const std::vector<std::uint8_t>& character_classes() {
  static const std::vector<std::uint8_t> table = make_character_classes();
  return table;
}

/// Appends what `next_code` read: a character, or a byte that was none.
inline void append_code(std::string& out, std::uint32_t code) {
  if (code >= invalid_byte_base) {
    out += static_cast<char>(static_cast<unsigned char>(code - invalid_byte_base));
  } else {
    append_utf8(out, code);
  }
}

/// The code point at `at`, and how many bytes it takes.
struct code_at {
  std::uint32_t code;
  std::size_t length;
};
inline code_at next_code(std::string_view text, std::size_t at) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[at + i])); };
  switch (utf8_sequence_length(text, at)) {
    case 1: return {byte(0), 1};
    case 2: return {(byte(0) & 31U) << 6U | (byte(1) & 63U), 2};
    case 3: return {(byte(0) & 15U) << 12U | (byte(1) & 63U) << 6U | (byte(2) & 63U), 3};
    case 4: return {(byte(0) & 7U) << 18U | (byte(1) & 63U) << 12U | (byte(2) & 63U) << 6U | (byte(3) & 63U), 4};
    default: return {invalid_byte_base + byte(0), 1};
  }
}

}  // namespace detail

/// Code points of a text and where each begins; `starts` has one element more, the size of the text.
struct code_sequence {
  std::vector<std::uint32_t> codes;
  std::vector<std::size_t> starts;

  explicit code_sequence(std::string_view text) {
    codes.reserve(text.size());
    starts.reserve(text.size() + 1);
    for (std::size_t at = 0; at < text.size();) {
      const auto [code, length] = detail::next_code(text, at);
      codes.push_back(code);
      starts.push_back(at);
      at += length;
    }
    starts.push_back(text.size());
  }
};

}  // namespace esft
