// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `average_gate_score` (ESFT-Gate): the mean gate weight that each expert received.

#include <esft/relevance/layer_sums.hpp>
#include <esft/relevance/scorer.hpp>

#include <cstddef>
#include <string_view>

namespace esft {

/// Mean over tokens of the factor on the expert's output, 0 where it was not chosen.
/// Scores are absolute: where the router does not renormalise, a layer sums to less than 1, and the same p selects a larger part of it.
/// Sums are double, in the order of observation, so the same stream gives the same bits.
/// @eq g_e = (1/T) sum_t g_{t,e} (pooled), or (1/S) sum_j (1/L_j) sum_{t in j} g_{t,e} (per sample)
/// @source "Let the Expert Stick to His Last" (arXiv 2407.01906) eq. 6
/// @deviation the default is the pooled mean of the official code, not eq. 6; they agree for samples of equal length
/// (tests/relevance/oracles.cpp shows where they differ)
class average_gate_score {
 public:
  static constexpr std::string_view name = "gate";
  static constexpr double usual_p = 0.1;  ///< the p that its scores are meant for, whatever a layer sums to

  average_gate_score() = default;
  explicit average_gate_score(scorer_options options) : options_(options) {}

  /// @throws whatever `check_record` throws; nothing was changed then
  void observe(const routing_record& record) {
    sums_.observe(record, options_.mean == sample_mean::per_sample,
                  [&](std::size_t position) { return static_cast<double>(record.weights[position]); });
  }

  /// @pre both were made with the same options
  void merge(const average_gate_score& other) {
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
