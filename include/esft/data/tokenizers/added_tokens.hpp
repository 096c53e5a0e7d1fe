// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `added_token_finder`: cuts the added tokens out of a text.

#include <esft/core/tokenizer_record.hpp>
#include <esft/data/tokenizers/unicode.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

inline bool is_class(std::uint32_t code, class_set classes) {
  return (static_cast<unsigned>(classes) >> character_classes()[code] & 1U) != 0;
}

/// What the reference calls a word character: letters, marks, decimal digits, connectors, joiners, and letters in circles or squares.
inline bool is_word_code(std::uint32_t code) {
  using enum character_class;
  const auto in = [code](std::uint32_t low, std::uint32_t high) { return code >= low && code <= high; };
  return is_class(code, set_of(lu, ll, lt, lm, lo, m, nd, nl, pc)) || in(0x200cU, 0x200dU) || in(0x24b6U, 0x24e9U) ||
         in(0x1f130U, 0x1f149U) || in(0x1f150U, 0x1f169U) || in(0x1f170U, 0x1f189U);
}
inline bool is_space_code(std::uint32_t code) { return is_class(code, set_of(character_class::space)); }

/// Where the last character of `text[0, end)` begins. @pre end > 0
inline std::size_t previous_start(std::string_view text, std::size_t end) {
  for (std::size_t length = 4; length > 1; --length) {
    if (length <= end && utf8_sequence_length(text, end - length) == length) return end - length;
  }
  return end - 1;
}

}  // namespace detail

/// Finds tokens by their content: the leftmost first, of several at one place the longest.
class added_token_finder {
 public:
  /// A token and the text by which it is found.
  void add(const added_token& token, std::string content) {
    if (content.empty()) return;
    starts_[static_cast<unsigned char>(content.front())] = true;
    entries_.push_back({std::move(content), token});
  }
  /// Call after the last `add`.
  void seal() {
    std::stable_sort(entries_.begin(), entries_.end(), [](const entry& a, const entry& b) { return a.content < b.content; });
  }

  /// Calls `text(begin, end)` for what lies between tokens and `token(id)` for each of them, in order.
  /// `skip_special`: special tokens are text like any other.
  template <class Text, class Token>
  void split(std::string_view whole, bool skip_special, Text&& text, Token&& token) const {
    std::size_t done = 0;
    for (std::size_t at = 0; at < whole.size();) {
      const entry* found = starts_[static_cast<unsigned char>(whole[at])] ? longest(whole, at) : nullptr;
      if (found == nullptr) {
        ++at;
        continue;
      }
      std::size_t begin = at;
      std::size_t end = at = at + found->content.size();  // a refused match is passed over whole
      if (skip_special && found->token.special) continue;
      if (found->token.single_word && touches_word(whole, begin, end)) continue;
      if (found->token.lstrip) {
        while (begin > 0 && detail::is_space_code(detail::next_code(whole, detail::previous_start(whole, begin)).code)) {
          begin = detail::previous_start(whole, begin);
        }
        begin = std::max(begin, done);  // a token before may have taken the space already
      }
      if (found->token.rstrip) {
        while (end < whole.size() && detail::is_space_code(detail::next_code(whole, end).code)) end += detail::next_code(whole, end).length;
      }
      if (done < begin) text(done, begin);
      token(found->token.id);
      done = end;
    }
    if (done < whole.size()) text(done, whole.size());
  }

 private:
  struct entry {
    std::string content;
    added_token token;
  };

  /// Narrows the sorted contents byte by byte, as a trie would.
  [[nodiscard]] const entry* longest(std::string_view whole, std::size_t at) const {
    const entry* found = nullptr;
    std::span<const entry> left = entries_;
    for (std::size_t depth = 0; at + depth < whole.size() && !left.empty(); ++depth) {
      const auto wanted = static_cast<unsigned char>(whole[at + depth]);
      const auto byte = [depth](const entry& e) { return static_cast<unsigned char>(e.content[depth]); };
      // the shortest is the first, and it was taken: what remains is longer than `depth`
      const auto low = std::partition_point(left.begin(), left.end(), [&](const entry& e) { return byte(e) < wanted; });
      const auto high = std::partition_point(low, left.end(), [&](const entry& e) { return byte(e) == wanted; });
      left = {low, high};
      while (!left.empty() && left.front().content.size() == depth + 1) {
        found = &left.front();
        left = left.subspan(1);
      }
    }
    return found;
  }

  static bool touches_word(std::string_view whole, std::size_t begin, std::size_t end) {
    const bool before = begin > 0 && detail::is_word_code(detail::next_code(whole, detail::previous_start(whole, begin)).code);
    return before || (end < whole.size() && detail::is_word_code(detail::next_code(whole, end).code));
  }

  std::vector<entry> entries_;
  std::array<bool, 256> starts_{};
};

}  // namespace esft
