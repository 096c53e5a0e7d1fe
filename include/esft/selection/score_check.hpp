// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `check_scores`: a policy believes a score table only after every value was checked.

#include <esft/core/error.hpp>
#include <esft/core/score_table.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

namespace esft {

/// Refuses tables that cannot come from a scorer; the message names layer and expert.
/// @throws error (bad_input)
inline void check_scores(const score_table& table) {
  const auto refuse = [](const std::string& what) { throw error(error_category::bad_input, "score table: " + what); };
  if (table.layers.empty()) refuse("it has no layer, so there is nothing to select from");
  for (const auto& [which, layer] : table.layers) {
    const std::string where = "layer " + std::to_string(which.value);
    if (layer.scores.empty()) refuse(where + " has no expert");
    for (std::size_t e = 0; e < layer.scores.size(); ++e) {
      if (std::isfinite(layer.scores[e]) && layer.scores[e] >= 0) continue;
      refuse(where + ", expert " + std::to_string(e) + " has score " + std::to_string(layer.scores[e]) +
             ", not a finite number >= 0; score the experts again");
    }
    if (layer.counts.empty()) continue;
    if (layer.counts.size() != layer.scores.size() || layer.total_count <= 0) {
      refuse(where + " has " + std::to_string(layer.counts.size()) + " counts over a total of " + std::to_string(layer.total_count) +
             " for " + std::to_string(layer.scores.size()) + " scores");
    }
    for (std::size_t e = 0; e < layer.counts.size(); ++e) {
      if (layer.counts[e] < 0 || layer.counts[e] > layer.total_count) {
        refuse(where + ", expert " + std::to_string(e) + " has count " + std::to_string(layer.counts[e]) + " of " +
               std::to_string(layer.total_count));
      }
    }
  }
}

}  // namespace esft
