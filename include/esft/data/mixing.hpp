// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `mixing_schedule`: which source the n-th row comes from, so that every cycle holds the exact ratio.

#include <esft/core/contract.hpp>
#include <esft/core/rng.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace esft {

/// Mixes sources in whole-number weights, for example {3, 1} for three rows of the task and one of alignment data. In each cycle of
/// (sum of weights) rows, source s occurs exactly weights[s] times, in an order drawn from (seed, cycle). A pure function: nothing to save.
class mixing_schedule {
 public:
  /// Where a row comes from: the source, and the how-manieth row of that source it is (from 0, without end).
  struct pick {
    std::size_t source = 0;
    std::uint64_t row = 0;
  };

  /// @pre some weight is positive, and their sum is at most 65536
  mixing_schedule(std::vector<std::uint32_t> weights, std::uint64_t seed) : weights_(std::move(weights)), seed_(seed) {
    for (std::size_t s = 0; s < weights_.size(); ++s) {
      ESFT_EXPECTS(weights_[s] <= 65536U - cycle_.size(), "the weights of a mix sum to at most 65536");
      cycle_.insert(cycle_.end(), weights_[s], s);
    }
    ESFT_EXPECTS(!cycle_.empty(), "some weight of a mix is positive");
  }

  /// Only one source.
  explicit mixing_schedule() : mixing_schedule({1}, 0) {}

  [[nodiscard]] std::size_t sources() const noexcept { return weights_.size(); }
  /// Rows after which the ratio is exact.
  [[nodiscard]] std::size_t cycle_length() const noexcept { return cycle_.size(); }
  [[nodiscard]] const std::vector<std::uint32_t>& weights() const noexcept { return weights_; }

  /// The source of row `n` of the endless mixed stream. @cost O(cycle length)
  [[nodiscard]] pick at(std::uint64_t n) const {
    const std::uint64_t number = n / cycle_.size();
    const auto inside = static_cast<std::ptrdiff_t>(n % cycle_.size());
    std::vector<std::size_t> order = cycle_;
    shuffle(order, counter_rng(seed_, rng_stream::mixing, number));
    const std::size_t source = order[static_cast<std::size_t>(inside)];
    const auto before = static_cast<std::uint64_t>(std::count(order.begin(), order.begin() + inside, source));
    return {source, number * weights_[source] + before};
  }

 private:
  std::vector<std::uint32_t> weights_;
  std::uint64_t seed_;
  std::vector<std::size_t> cycle_;  // source s, weights_[s] times
};

}  // namespace esft
