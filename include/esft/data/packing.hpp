// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `pack`: lays documents into rows of a fixed length; `append_row`: writes such a row into a `token_batch`.

#include <esft/core/contract.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/data/token_source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace esft {

/// How documents share rows.
enum class packing_mode {
  whole,  ///< a document stays in one row (best fit); for tasks, whose answers need their prompts
  split,  ///< documents follow each other and are cut where a row ends; for long text, no padding but in the last row
};

/// What happens in mode `whole` to a document longer than a row.
enum class long_document {
  divide,  ///< cut into pieces; a later piece does not see an earlier one
  tail,    ///< keep only its last tokens, where the answer is
};

struct packing_options {
  std::size_t length = 256;  ///< tokens a row
  packing_mode mode = packing_mode::whole;
  long_document too_long = long_document::divide;
};

/// Tokens [begin, begin + count) of one document. Inside its row a piece is a document of its own: nothing outside it is attended to.
struct piece {
  std::size_t document = 0;
  std::size_t begin = 0;
  std::size_t count = 0;
};

/// What packing did with the documents. Nothing is lost silently.
struct packing_report {
  std::size_t documents = 0;         ///< documents given
  std::size_t empty = 0;             ///< of those, without any token: left out
  std::size_t divided = 0;           ///< of those, in more than one piece
  std::size_t shortened = 0;         ///< of those, whose beginning was dropped (`long_document::tail`)
  std::size_t tokens = 0;            ///< tokens placed
  std::size_t longest = 0;           ///< tokens of the longest piece: positions that a model must know
  std::size_t dropped_tokens = 0;    ///< tokens not placed
  std::size_t padding = 0;           ///< tokens of padding
  std::size_t learned_tokens = 0;    ///< labels that carry loss
};

/// Rows of pieces. Every row has at least one piece, so none is padding alone.
class packed_rows {
 public:
  explicit packed_rows(std::size_t length) : length_(length) {}

  [[nodiscard]] std::size_t size() const noexcept { return rows_.size(); }
  [[nodiscard]] std::size_t length() const noexcept { return length_; }
  [[nodiscard]] std::span<const piece> row(std::size_t i) const { return rows_.at(i); }
  [[nodiscard]] const packing_report& report() const noexcept { return report_; }
  [[nodiscard]] packing_report& report() noexcept { return report_; }

  /// Opens a row and returns its number.
  std::size_t open() {
    rows_.emplace_back();
    return rows_.size() - 1;
  }
  void place(std::size_t row, const piece& part) {
    rows_.at(row).push_back(part);
    report_.longest = std::max(report_.longest, part.count);
  }

 private:
  std::size_t length_;
  std::vector<std::vector<piece>> rows_;
  packing_report report_;
};

namespace detail {

/// Whether the token after position `i` is a label that carries loss.
inline bool next_is_learned(const training_sample& sample, std::size_t i) {
  return i + 1 < sample.tokens.size() && sample.learned[i + 1] != 0;
}

/// Puts a piece into the fullest row that still has room for it; the oldest of those that are equally full.
class best_fit {
 public:
  explicit best_fit(packed_rows& rows) : rows_(rows) {}

  void place(const piece& part) {
    const auto found = room_.lower_bound(part.count);
    std::size_t row = 0;
    std::size_t left = rows_.length();
    if (found == room_.end()) {
      row = rows_.open();
    } else {
      left = found->first;
      row = found->second;
      room_.erase(found);
    }
    rows_.place(row, part);
    if (left > part.count) room_.emplace(left - part.count, row);
  }

 private:
  packed_rows& rows_;
  std::multimap<std::size_t, std::size_t> room_;  // free tokens -> row
};

/// Puts pieces one after the other, cutting them where a row ends.
class cut_at_row_end {
 public:
  explicit cut_at_row_end(packed_rows& rows) : rows_(rows) {}

  /// Returns how many pieces it took.
  std::size_t place(piece part) {
    std::size_t pieces = 0;
    while (part.count > 0) {
      if (left_ == 0) {
        row_ = rows_.open();
        left_ = rows_.length();
      }
      const std::size_t count = std::min(left_, part.count);
      rows_.place(row_, {part.document, part.begin, count});
      part.begin += count;
      part.count -= count;
      left_ -= count;
      ++pieces;
    }
    return pieces;
  }

 private:
  packed_rows& rows_;
  std::size_t row_ = 0;
  std::size_t left_ = 0;
};

}  // namespace detail

/// Packs the documents `order` names, in that order. Every token of every document is placed exactly once,
/// unless the report says otherwise.
/// @pre options.length > 0; marks and tokens of a document are as many
/// @cost n log(rows) for n documents
template <token_source Source>
[[nodiscard]] packed_rows pack(const Source& source, std::span<const std::size_t> order, const packing_options& options) {
  ESFT_EXPECTS(options.length > 0, "a row has at least one token");
  packed_rows rows(options.length);
  packing_report& report = rows.report();
  detail::best_fit best_fit(rows);
  detail::cut_at_row_end cut(rows);
  report.documents = order.size();
  for (const std::size_t document : order) {
    const training_sample& sample = source[document];
    const std::size_t size = sample.tokens.size();
    ESFT_EXPECTS(sample.learned.size() == size, "a sample has one mark a token");
    if (size == 0) {
      ++report.empty;
      continue;
    }
    std::size_t begin = 0;
    if (options.mode == packing_mode::split) {
      if (cut.place({document, 0, size}) > 1) ++report.divided;
    } else if (size <= options.length) {
      best_fit.place({document, 0, size});
    } else if (options.too_long == long_document::tail) {
      begin = size - options.length;
      ++report.shortened;
      best_fit.place({document, begin, options.length});
    } else {
      ++report.divided;
      for (std::size_t at = 0; at < size; at += options.length) best_fit.place({document, at, std::min(options.length, size - at)});
    }
    report.tokens += size - begin;
    report.dropped_tokens += begin;
    for (std::size_t i = begin; i < size; ++i) report.learned_tokens += detail::next_is_learned(sample, i) ? 1U : 0U;
  }
  report.padding = rows.size() * options.length - report.tokens;
  return rows;
}

/// Packs all documents in their own order.
template <token_source Source>
[[nodiscard]] packed_rows pack(const Source& source, const packing_options& options) {
  std::vector<std::size_t> order(source.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  return pack(source, std::span<const std::size_t>(order), options);
}

/// Appends one row: `length` tokens, padding at its end. Labels are shifted: a position's label is the token that follows it in its
/// document, also where the document goes on in another row, and `ignored_label` where it ends, where the next token is not learned,
/// and in padding. A padding token attends to itself only.
template <token_source Source>
void append_row(token_batch& batch, const Source& source, std::span<const piece> row, std::size_t length, std::int32_t pad_id) {
  const std::size_t end = batch.tokens.size() + length;
  ESFT_EXPECTS(end <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()), "a batch has fewer than 2^31 tokens");
  std::int32_t number = 0;
  for (auto seen = batch.sample.rbegin(); seen != batch.sample.rend(); ++seen) {
    if (*seen >= 0) {
      number = *seen + 1;
      break;
    }
  }
  for (const piece& part : row) {
    const training_sample& sample = source[part.document];
    const auto first = static_cast<std::int32_t>(batch.tokens.size());
    for (std::size_t k = 0; k < part.count; ++k) {
      const std::size_t i = part.begin + k;
      batch.tokens.push_back(sample.tokens[i]);
      batch.labels.push_back(detail::next_is_learned(sample, i) ? sample.tokens[i + 1] : ignored_label);
      batch.position.push_back(static_cast<std::int32_t>(k));
      batch.key_begin.push_back(first);
      batch.sample.push_back(number);
    }
    ++number;
  }
  ESFT_EXPECTS(batch.tokens.size() <= end, "the pieces of a row are together at most as long as the row");
  while (batch.tokens.size() < end) {
    batch.key_begin.push_back(static_cast<std::int32_t>(batch.tokens.size()));
    batch.tokens.push_back(pad_id);
    batch.labels.push_back(ignored_label);
    batch.position.push_back(0);
    batch.sample.push_back(-1);
  }
}

}  // namespace esft
