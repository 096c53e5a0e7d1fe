// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `weighted_frequency`: the share of every token's gate mass that each expert received.

#include <esft/relevance/layer_sums.hpp>
#include <esft/relevance/scorer.hpp>

#include <cstddef>
#include <string_view>

namespace esft {

/// The gate score after the chosen experts' weights were made to sum to 1 for each token, so that every token has one vote to divide,
/// however sure its router was. A layer sums to 1. Where the router renormalises, this is the gate score up to the routed scale.
/// A token whose weights are all 0 votes for nobody.
/// @eq f_e = (1/T) sum_t g_{t,e} / sum_{i in top-K(t)} g_{t,i} (pooled); per sample as in `average_gate_score`
/// @source REAP (arXiv 2510.13999) and its code: a baseline there, as a sum over tokens
class weighted_frequency {
 public:
  static constexpr std::string_view name = "weighted-frequency";

  weighted_frequency() = default;
  explicit weighted_frequency(scorer_options options) : options_(options) {}

  /// @throws whatever `check_record` throws; nothing was changed then
  void observe(const routing_record& record) {
    sums_.observe(record, options_.mean == sample_mean::per_sample, [&](std::size_t position) { return share_of_token(record, position); });
  }

  /// @pre both were made with the same options
  void merge(const weighted_frequency& other) {
    ESFT_EXPECTS(options_.mean == other.options_.mean, "merged scorers use the same mean");
    sums_.merge(other.sums_);
  }

  /// @throws error (bad_input) if a layer observed no real token
  [[nodiscard]] score_table scores() const { return mean_scores(sums_, options_.mean); }

 private:
  scorer_options options_;
  layer_sums<double> sums_;
};

}  // namespace esft
