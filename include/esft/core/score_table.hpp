// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `score_table`: the relevance of every routed expert to a task, per layer.

#include <esft/core/strong_index.hpp>

#include <cstdint>
#include <map>
#include <vector>

namespace esft {

/// Scores of the experts of one layer.
struct layer_scores {
  std::vector<double> scores;         ///< @shape [E]; finite, >= 0
  std::vector<std::int64_t> counts;   ///< @shape [E] or empty: exact numerators, scores[e] = counts[e] / total_count
  std::int64_t total_count = 0;       ///< common denominator of `counts`; 0 where there are none
};

/// Relevance scores [L, E], keyed by absolute layer index; dense layers are absent.
struct score_table {
  std::map<layer_index, layer_scores> layers;
  std::int64_t tokens = 0;  ///< real tokens observed
};

}  // namespace esft
