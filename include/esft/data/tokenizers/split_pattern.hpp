// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `split_pattern`: the small regular language in which tokenizers say where a text is split, matched exactly.

#include <esft/data/tokenizers/split_class.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// One step of an alternative.
struct split_item {
  enum class kind : std::uint8_t {
    run,       ///< between `least` and `most` characters of a class, as many as possible first
    words,     ///< one of `words` in upper or lower case, the first that fits
    not_next,  ///< no character of the class follows
    line_end,  ///< the end of the text, or a newline, follows
  };
  kind what = kind::run;
  split_class set;
  std::size_t least = 1;
  std::size_t most = 1;
  std::vector<std::vector<std::uint32_t>> words;  ///< in lower case
};

/// A compiled pattern: alternatives of steps, no groups within groups, so that a match costs what it reads. Made by
/// `parse_split_pattern`. Not a general regular expression: what is not understood is refused, never approximated.
class split_pattern {
 public:
  static constexpr std::size_t no_match = static_cast<std::size_t>(-1);
  static constexpr std::size_t unbounded = static_cast<std::size_t>(-1);

  explicit split_pattern(std::vector<std::vector<split_item>> alternatives) : alternatives_(std::move(alternatives)) {}

  /// End of the match that begins at `at`, or `no_match`: of the alternatives the first that fits, as in Perl.
  [[nodiscard]] std::size_t match(std::span<const std::uint32_t> codes, std::size_t at) const {
    for (const std::vector<split_item>& steps : alternatives_) {
      const std::size_t end = follow(steps, codes, at);
      if (end != no_match) return end;
    }
    return no_match;
  }

  /// Calls `piece(begin, end, is_match)` for every match and every gap between matches, in order. @cost linear for every known pattern
  template <class Piece>
  void split(std::span<const std::uint32_t> codes, Piece&& piece) const {
    std::size_t gap = 0;
    for (std::size_t at = 0; at < codes.size();) {
      const std::size_t end = match(codes, at);
      if (end == no_match) {
        at = next_start(codes, at);
        continue;
      }
      if (gap < at) piece(gap, at, false);
      piece(at, end, true);
      at = gap = end;
    }
    if (gap < codes.size()) piece(gap, codes.size(), false);
  }

 private:
  [[nodiscard]] static std::size_t follow(std::span<const split_item> steps, std::span<const std::uint32_t> codes, std::size_t at) {
    if (steps.empty()) return at;
    const split_item& step = steps.front();
    const auto rest = steps.subspan(1);
    switch (step.what) {
      case split_item::kind::run: {
        std::size_t count = 0;
        while (count < step.most && at + count < codes.size() && step.set.contains(codes[at + count])) ++count;
        for (; count + 1 > step.least; --count) {
          const std::size_t end = follow(rest, codes, at + count);
          if (end != no_match) return end;
          if (count == 0) break;
        }
        return no_match;
      }
      case split_item::kind::words: {
        for (const auto& word : step.words) {
          if (!is_word(word, codes, at)) continue;
          const std::size_t end = follow(rest, codes, at + word.size());
          if (end != no_match) return end;
        }
        return step.least == 0 ? follow(rest, codes, at) : no_match;
      }
      case split_item::kind::not_next: {
        if (at < codes.size() && step.set.contains(codes[at])) return no_match;
        return follow(rest, codes, at);
      }
      case split_item::kind::line_end: return at == codes.size() || codes[at] == '\n' ? follow(rest, codes, at) : no_match;
    }
    return no_match;
  }

  static bool is_word(std::span<const std::uint32_t> word, std::span<const std::uint32_t> codes, std::size_t at) {
    if (codes.size() - at < word.size()) return false;
    for (std::size_t i = 0; i < word.size(); ++i) {
      if (lower(codes[at + i]) != word[i]) return false;
    }
    return true;
  }
  /// Case folding into ASCII: the long s and the Kelvin sign are letters of ASCII in disguise.
  static std::uint32_t lower(std::uint32_t code) {
    if (code >= 'A' && code <= 'Z') return code + ('a' - 'A');
    return code == 0x17fU ? 's' : code == 0x212aU ? 'k' : code;
  }

  /// Where to look next when nothing matches at `at`. A pattern that begins with a long run fails everywhere in the run at once; trying
  /// each place would take quadratic time.
  [[nodiscard]] std::size_t next_start(std::span<const std::uint32_t> codes, std::size_t at) const {
    std::size_t next = at + 1;
    if (alternatives_.size() != 1) return next;
    const split_item& first = alternatives_.front().front();
    if (first.what != split_item::kind::run || first.most != unbounded || first.least > 1 || !first.set.contains(codes[at])) return next;
    while (next < codes.size() && first.set.contains(codes[next])) ++next;
    return next;
  }

  std::vector<std::vector<split_item>> alternatives_;
};

}  // namespace esft
