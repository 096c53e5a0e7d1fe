// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `token_selection_ratio` (ESFT-Token): the share of all routing slots that each expert was given.

#include <esft/relevance/layer_sums.hpp>
#include <esft/relevance/scorer.hpp>

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace esft {

/// Selections of the expert divided by K times the tokens, K the number of *routed* experts per token. A layer sums to 1, and to less
/// where a router leaves slots empty.
/// In the pooled mean the integer counts travel with the scores, so that a policy can compare them exactly.
/// @eq r_e = (1/T) sum_t 1[e in top-K(t)] / K (pooled), or (1/S) sum_j (1/L_j) sum_{t in j} 1[e in top-K(t)] / K (per sample)
/// @source "Let the Expert Stick to His Last" (arXiv 2407.01906) eq. 7
/// @deviation the default is the pooled mean of the official code, not eq. 7 (tests/relevance/oracles.cpp); a chosen expert counts even
/// if its gate weight underflowed to 0, so that a layer always sums to 1
class token_selection_ratio {
 public:
  static constexpr std::string_view name = "token";
  static constexpr double usual_p = 0.2;  ///< the p that its scores are meant for, whatever a layer sums to

  token_selection_ratio() = default;
  explicit token_selection_ratio(scorer_options options) : options_(options) {}

  /// @throws whatever `check_record` throws; nothing was changed then
  void observe(const routing_record& record) {
    sums_.observe(record, options_.mean == sample_mean::per_sample, [](std::size_t) { return std::int64_t{1}; });
  }

  /// @pre both were made with the same options
  void merge(const token_selection_ratio& other) {
    ESFT_EXPECTS(options_.mean == other.options_.mean, "merged scorers use the same mean");
    sums_.merge(other.sums_);
  }

  /// @throws error (bad_input) if a layer observed no real token
  [[nodiscard]] score_table scores() const {
    score_table table;
    for (const auto& [which, layer] : sums_.complete()) {
      layer_scores& out = table.layers[which];
      if (options_.mean == sample_mean::pooled) {
        out.counts = layer.sum;
        out.total_count = layer.tokens * layer.active;
        for (const std::int64_t count : out.counts) out.scores.push_back(static_cast<double>(count) / static_cast<double>(out.total_count));
      } else {
        const double divisor = static_cast<double>(layer.samples) * static_cast<double>(layer.active);
        for (const double sum : layer.mean_sum) out.scores.push_back(sum / divisor);
      }
      table.tokens = layer.tokens;
    }
    return table;
  }

 private:
  scorer_options options_;
  layer_sums<std::int64_t> sums_;
};

}  // namespace esft
