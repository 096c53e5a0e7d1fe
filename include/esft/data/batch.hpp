// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `batch_schedule`: the batch of a training step as a pure function of (seed, step); `evaluation_batches`: every row once.

#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>
#include <esft/core/rng.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/data/mixing.hpp>
#include <esft/data/packing.hpp>
#include <esft/data/token_source.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

inline std::vector<std::size_t> shuffled(std::size_t size, const counter_rng& rng) {
  std::vector<std::size_t> order(size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  shuffle(order, rng);
  return order;
}

/// @throws usage_error for a batch whose tokens cannot be counted in 31 bits
inline void expect_batch_size(std::size_t rows, std::size_t length) {
  constexpr std::size_t limit = std::numeric_limits<std::int32_t>::max();
  if (length <= limit && rows <= limit / std::max<std::size_t>(1, length)) return;
  throw usage_error("a batch of " + std::to_string(rows) + " rows of " + std::to_string(length) +
                    " tokens is too large: it can have 2^31 - 1 tokens at most; take fewer or shorter rows");
}

}  // namespace detail

/// Documents packed once in an order drawn from the seed; their rows come in a new order each epoch, without end.
/// Packing once keeps the number of rows the same in all epochs, so any row of the stream is found without walking there.
template <token_source Source = std::vector<training_sample>>
class packed_dataset {
 public:
  /// @param stream number of this data set among those with the same seed, below 2^24
  /// @throws esft::error (bad_input) if no token carries loss: there would be nothing to learn
  packed_dataset(Source source, const packing_options& options, std::uint64_t seed, std::uint64_t stream = 0)
      : source_(std::move(source)), rows_(options.length), seed_(seed), stream_(stream << 40U) {
    ESFT_EXPECTS(stream < (1ULL << 24U), "data sets are numbered below 2^24");
    const auto order = detail::shuffled(source_.size(), generator(0));
    rows_ = pack(source_, std::span<const std::size_t>(order), options);
    if (rows_.report().learned_tokens == 0) {
      throw error(error_category::bad_input, "the data set has " + std::to_string(source_.size()) + " documents and no token to learn; "
                  "give it at least one text of two tokens, or one completion or assistant turn that is not masked");
    }
  }

  [[nodiscard]] const Source& source() const noexcept { return source_; }
  [[nodiscard]] std::size_t rows() const noexcept { return rows_.size(); }
  [[nodiscard]] std::size_t length() const noexcept { return rows_.length(); }
  [[nodiscard]] const packing_report& report() const noexcept { return rows_.report(); }

  /// Row `n` of the endless stream; n / rows() is the epoch. Keeps the order of the last epoch asked for: not for two threads at once.
  [[nodiscard]] std::span<const piece> row(std::uint64_t n) const {
    const std::uint64_t epoch = n / rows_.size() + 1;  // 0 drew the order of packing
    if (epoch != cached_epoch_) {
      cached_order_ = detail::shuffled(rows_.size(), generator(epoch));
      cached_epoch_ = epoch;
    }
    return rows_.row(cached_order_[static_cast<std::size_t>(n % rows_.size())]);
  }

 private:
  [[nodiscard]] counter_rng generator(std::uint64_t epoch) const { return {seed_, rng_stream::shuffle, stream_ + epoch}; }

  Source source_;
  packed_rows rows_;
  std::uint64_t seed_;
  std::uint64_t stream_;
  mutable std::uint64_t cached_epoch_ = 0;
  mutable std::vector<std::size_t> cached_order_;
};

/// The training batches: step number in, batch out. Resuming needs the step number and the same data, options and seed; nothing else.
/// A batch may hold no label (all its rows inside one long prompt): the loss of such a batch is over zero tokens.
template <token_source Source = std::vector<training_sample>>
class batch_schedule {
 public:
  /// @pre as many sets as weights; all rows equally long; rows_per_batch > 0  @throws usage_error for 2^31 tokens a batch or more
  batch_schedule(std::vector<packed_dataset<Source>> sets, mixing_schedule mix, std::size_t rows_per_batch, std::int32_t pad_id)
      : sets_(std::move(sets)), mix_(std::move(mix)), rows_per_batch_(rows_per_batch), pad_id_(pad_id) {
    ESFT_EXPECTS(rows_per_batch_ > 0, "a batch has at least one row");
    ESFT_EXPECTS(!sets_.empty() && sets_.size() == mix_.sources(), "a mix has one weight a data set");
    detail::expect_batch_size(rows_per_batch_, length());
    for (const auto& set : sets_) ESFT_EXPECTS(set.length() == sets_.front().length(), "the rows of mixed data sets are equally long");
  }

  /// Only one data set.
  batch_schedule(packed_dataset<Source> set, std::size_t rows_per_batch, std::int32_t pad_id)
      : batch_schedule(one(std::move(set)), mixing_schedule(), rows_per_batch, pad_id) {}

  [[nodiscard]] std::size_t rows_per_batch() const noexcept { return rows_per_batch_; }
  [[nodiscard]] std::size_t length() const noexcept { return sets_.front().length(); }
  [[nodiscard]] std::size_t tokens_per_batch() const noexcept { return rows_per_batch_ * length(); }
  [[nodiscard]] const std::vector<packed_dataset<Source>>& sets() const noexcept { return sets_; }
  [[nodiscard]] const mixing_schedule& mix() const noexcept { return mix_; }

  /// The batch of `step` (from 0): rows [step, step + 1) * rows_per_batch of the endless mixed stream. Not for two threads at once.
  [[nodiscard]] token_batch batch(std::uint64_t step) const {
    token_batch result;
    for (std::size_t r = 0; r < rows_per_batch_; ++r) {
      const auto pick = mix_.at(step * rows_per_batch_ + r);
      const auto& set = sets_[pick.source];
      append_row(result, set.source(), set.row(pick.row), length(), pad_id_);
    }
    return result;
  }

 private:
  static std::vector<packed_dataset<Source>> one(packed_dataset<Source> set) {
    std::vector<packed_dataset<Source>> sets;
    sets.push_back(std::move(set));
    return sets;
  }

  std::vector<packed_dataset<Source>> sets_;
  mixing_schedule mix_;
  std::size_t rows_per_batch_;
  std::int32_t pad_id_;
};

/// Every row once, in the order of the documents: for evaluation and for scoring experts. The last batch may have fewer rows.
template <token_source Source = std::vector<training_sample>>
class evaluation_batches {
 public:
  evaluation_batches(Source source, const packing_options& options, std::size_t rows_per_batch, std::int32_t pad_id)
      : source_(std::move(source)), rows_(pack(source_, options)), rows_per_batch_(rows_per_batch), pad_id_(pad_id) {
    ESFT_EXPECTS(rows_per_batch_ > 0, "a batch has at least one row");
    rows_per_batch_ = std::min(rows_per_batch_, std::max<std::size_t>(1, rows_.size()));
    detail::expect_batch_size(rows_per_batch_, length());
  }

  /// Number of batches; 0 without documents.
  [[nodiscard]] std::size_t size() const noexcept { return (rows_.size() + rows_per_batch_ - 1) / rows_per_batch_; }
  [[nodiscard]] std::size_t length() const noexcept { return rows_.length(); }
  [[nodiscard]] const packed_rows& rows() const noexcept { return rows_; }
  [[nodiscard]] const packing_report& report() const noexcept { return rows_.report(); }

  /// @pre i < size()
  [[nodiscard]] token_batch operator[](std::size_t i) const {
    ESFT_EXPECTS(i < size(), "the batch exists");
    token_batch result;
    for (std::size_t r = i * rows_per_batch_; r < rows_.size() && r < (i + 1) * rows_per_batch_; ++r) {
      append_row(result, source_, rows_.row(r), rows_.length(), pad_id_);
    }
    return result;
  }

 private:
  Source source_;
  packed_rows rows_;
  std::size_t rows_per_batch_;
  std::int32_t pad_id_;
};

}  // namespace esft
