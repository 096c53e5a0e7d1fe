// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `text_pipeline`: what happens to a text between added tokens before the model sees it: normalization and splitting.

#include <esft/core/tokenizer_record.hpp>
#include <esft/data/tokenizer.hpp>
#include <esft/data/tokenizers/nfc.hpp>
#include <esft/data/tokenizers/split_pattern_parser.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

namespace detail {
inline void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::size_t at = from.empty() ? std::string::npos : text.find(from);
  if (at == std::string::npos) return;
  std::string result;
  result.reserve(text.size() + text.size() / 2);
  std::size_t done = 0;
  for (; at != std::string::npos; at = text.find(from, done)) {
    result.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  text = std::move(result.append(text, done, std::string::npos));
}

/// Digits as the reference's `Digits` component knows them: its language follows a newer Unicode than its regular expressions do.
inline split_pattern digits_pattern(bool single) {
  split_item item;
  item.set.add(number_classes);
  item.set.add(0x11de0U, 0x11de9U);
  item.set.add(0x16ff4U, 0x16ff6U);
  item.set.seal();
  item.most = single ? 1 : split_pattern::unbounded;
  return split_pattern({{std::move(item)}});
}
}  // namespace detail

/// The normalizers and splitters of a tokenizer, compiled.
class text_pipeline {
 public:
  /// @throws esft::error (bad_input) for a pattern that is not understood
  explicit text_pipeline(const tokenizer_record& record)
      : normalizers_(record.normalizers), prefix_space_(record.prefix_space), metaspace_(record.metaspace) {
    for (const split_step& step : record.splits) {
      steps_.push_back({compile(step), step.keep_matches, step.keep_gaps});
    }
  }

  [[nodiscard]] std::string normalize(std::string_view text, text_position where = {}) const {
    std::string result(text);
    for (const normalizer_step& step : normalizers_) {
      switch (step.what) {
        case normalizer_step::kind::nfc: result = nfc(result); break;
        case normalizer_step::kind::prepend:
          if (!result.empty() && !where.continues) result.insert(0, step.to);
          break;
        case normalizer_step::kind::replace: detail::replace_all(result, step.from, step.to); break;
      }
    }
    return result;
  }

  /// Calls `piece(text)` for each piece of a normalized text.
  template <class Piece>
  void split(std::string text, text_position where, Piece&& piece) const {
    if (prefix_space_ && !where.continues && !text.starts_with(' ')) text.insert(0, 1, ' ');
    if (metaspace_) return split_at_spaces(std::move(text), where, piece);
    if (steps_.empty()) return piece(std::string_view(text));
    const code_sequence sequence(text);
    divide(0, sequence, {0, sequence.codes.size()}, [&](std::size_t begin, std::size_t end) {
      piece(std::string_view(text).substr(sequence.starts[begin], sequence.starts[end] - sequence.starts[begin]));
    });
  }

 private:
  static split_pattern compile(const split_step& step) {
    switch (step.what) {
      case split_step::kind::pattern: return parse_split_pattern(step.pattern);
      case split_step::kind::byte_level: return parse_split_pattern(byte_level_split_pattern);
      case split_step::kind::single_digits: return detail::digits_pattern(true);
      case split_step::kind::digits: break;
    }
    return detail::digits_pattern(false);
  }

  struct compiled_step {
    split_pattern pattern;
    bool keep_matches, keep_gaps;
  };

  /// Depth first, so that pieces come in the order of the text.
  template <class Piece>
  void divide(std::size_t depth, const code_sequence& sequence, std::pair<std::size_t, std::size_t> range, const Piece& piece) const {
    if (depth == steps_.size()) return piece(range.first, range.second);
    const compiled_step& now = steps_[depth];
    const auto codes = std::span<const std::uint32_t>(sequence.codes).subspan(range.first, range.second - range.first);
    now.pattern.split(codes, [&](std::size_t begin, std::size_t end, bool is_match) {
      if (is_match ? now.keep_matches : now.keep_gaps) divide(depth + 1, sequence, {range.first + begin, range.first + end}, piece);
    });
  }

  template <class Piece>
  void split_at_spaces(std::string text, text_position where, Piece& piece) const {
    const std::string& mark = metaspace_->replacement;
    detail::replace_all(text, " ", mark);
    const bool wanted = metaspace_->scheme == metaspace_step::prepend::always ||
                        (metaspace_->scheme == metaspace_step::prepend::first && where.begins_text);
    if (wanted && !where.continues && !text.starts_with(mark)) text.insert(0, mark);
    if (!metaspace_->split) return piece(std::string_view(text));
    for (std::size_t begin = 0; begin < text.size();) {
      const bool at_mark = text.compare(begin, mark.size(), mark) == 0;
      const std::size_t end = std::min(text.find(mark, at_mark ? begin + mark.size() : begin), text.size());
      piece(std::string_view(text).substr(begin, end - begin));
      begin = end;
    }
  }

  std::vector<normalizer_step> normalizers_;
  bool prefix_space_;
  std::optional<metaspace_step> metaspace_;
  std::vector<compiled_step> steps_;
};

}  // namespace esft
