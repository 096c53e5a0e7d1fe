// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What policies share about evidence: the share of a layer's scores, the falling order, and the refusal of a layer without any.

#include <esft/core/error.hpp>
#include <esft/core/ranking.hpp>
#include <esft/core/score_table.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// How the cumulative score is compared with p.
enum class threshold_mode : std::uint8_t {
  exact,            ///< integers where the table has counts, otherwise double within 1e-9 of p; experts without evidence stay out
  official_compat,  ///< the float64 loop of the official code, rounding errors and zero-score experts included
};

/// What a score is compared as.
enum class score_normalization : std::uint8_t {
  none,       ///< the scores as they are, as in the paper
  layer_sum,  ///< a share of the layer's total, so that one number means the same for every router, scorer and layer
};

/// Experts from the most to the least evidence: by exact counts where there are any.
[[nodiscard]] inline std::vector<expert_index> evidence_order(const layer_scores& layer) {
  return layer.counts.empty() ? descending_order(std::span<const double>(layer.scores))
                              : descending_order(std::span<const std::int64_t>(layer.counts));
}

/// Sum of a layer's scores, added in the given order: in the falling one it does not depend on how the experts are numbered.
[[nodiscard]] inline double score_sum(const layer_scores& layer, std::span<const expert_index> order) {
  double sum = 0;
  for (const expert_index expert : order) sum += layer.scores[static_cast<std::size_t>(expert.value)];
  return sum;
}

/// @throws error (bad_input)
[[noreturn]] inline void refuse_without_evidence(std::string_view policy, layer_index which) {
  throw error(error_category::bad_input, std::string(policy) + ": layer " + std::to_string(which.value) +
                                             " has no expert with a score above 0, so nothing was observed there; score the experts again");
}

}  // namespace esft
