// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `sample_stability`: how large a sample must be until another one would have chosen the same experts.

#include <esft/analysis/overlap.hpp>
#include <esft/core/contract.hpp>
#include <esft/core/score_table.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace esft {

/// Two independent samples of one size.
struct stability_point {
  std::int64_t tokens = 0;  ///< of each sample, the smaller one if they differ
  double shared = 0;        ///< of the k highest experts, mean over layers
};

/// Shared top-k experts of two samples of a task as both grow, chunk by chunk. `first[i]` and `second[i]` are scorers that observed
/// only their own chunk: scorers merge by addition, so the whole curve costs one pass over the data.
/// @pre equally many chunks, at least one of each
/// @source arXiv 2407.01906, figure 8 and appendix C, with k = 6 of 64
template <class Scorer>
  requires requires(Scorer scorer, const Scorer& other) {
    scorer.merge(other);
    { other.scores() } -> std::same_as<score_table>;
  }
[[nodiscard]] std::vector<stability_point> sample_stability(std::span<const Scorer> first, std::span<const Scorer> second, std::size_t k) {
  ESFT_EXPECTS(!first.empty() && first.size() == second.size(), "both samples have equally many chunks, at least one");
  std::vector<stability_point> curve;
  Scorer one = first.front();
  Scorer other = second.front();
  for (std::size_t chunk = 0;;) {
    const score_table a = one.scores();
    const score_table b = other.scores();
    curve.push_back({std::min(a.tokens, b.tokens), overlap(top_experts(a, k), top_experts(b, k)).mean_shared()});
    if (++chunk == first.size()) return curve;
    one.merge(first[chunk]);
    other.merge(second[chunk]);
  }
}

}  // namespace esft
