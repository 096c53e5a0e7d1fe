// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `split_class`: a set of characters in a split pattern, such as `[^\r\n\p{L}]`.

#include <esft/data/tokenizers/unicode.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

namespace esft {

/// Classes of Unicode and ranges of code points, or everything else. Add members, then `seal`, then ask.
class split_class {
 public:
  void add(class_set classes) { classes_ |= classes; }
  void add(std::uint32_t first, std::uint32_t last) { ranges_.emplace_back(first, last); }
  void negate() { negated_ = true; }

  /// Sorts and joins the ranges and writes down the answers for ASCII.
  void seal() {
    std::sort(ranges_.begin(), ranges_.end());
    std::vector<range> joined;
    for (const range& next : ranges_) {
      if (!joined.empty() && next.first <= joined.back().second) {
        joined.back().second = std::max(joined.back().second, next.second);
      } else {
        joined.push_back(next);
      }
    }
    ranges_ = std::move(joined);
    for (std::uint32_t code = 0; code < ascii_.size(); ++code) ascii_[code] = look_up(code);
  }

  /// @pre `seal` was called after the last change
  [[nodiscard]] bool contains(std::uint32_t code) const { return code < ascii_.size() ? ascii_[code] : look_up(code); }

 private:
  using range = std::pair<std::uint32_t, std::uint32_t>;  // both ends included

  [[nodiscard]] bool look_up(std::uint32_t code) const {
    const bool of_class = (static_cast<unsigned>(classes_) >> (*table_)[code] & 1U) != 0;
    return (of_class || in_range(code)) != negated_;
  }
  [[nodiscard]] bool in_range(std::uint32_t code) const {
    const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), code, [](std::uint32_t c, const range& r) { return c < r.first; });
    return after != ranges_.begin() && code <= std::prev(after)->second;
  }

  const std::vector<std::uint8_t>* table_ = &detail::character_classes();
  class_set classes_ = 0;
  std::vector<range> ranges_;
  bool negated_ = false;
  std::array<bool, 128> ascii_{};
};

/// Class sets by the names that patterns give them.
inline constexpr class_set letter_classes =
    set_of(character_class::lu, character_class::ll, character_class::lt, character_class::lm, character_class::lo);
inline constexpr class_set number_classes = set_of(character_class::nd, character_class::nl, character_class::no);
inline constexpr class_set mark_classes = set_of(character_class::m);
inline constexpr class_set punctuation_classes = set_of(character_class::pc, character_class::p);
inline constexpr class_set space_classes = set_of(character_class::space);

}  // namespace esft
