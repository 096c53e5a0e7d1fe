// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `check_like`, `named_by`: selections that a policy imitates or combines must fit the score table.

#include <esft/core/error.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/score_table.hpp>
#include <esft/selection/normalization.hpp>
#include <esft/selection/score_check.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// @throws usage_error if `like` names other layers than the table, or experts that a layer does not have, or one twice
inline void check_like(std::string_view policy, const expert_set& like, const score_table& table) {
  const auto refuse = [&](layer_index which, const std::string& what) {
    throw usage_error(std::string(policy) + ": layer " + std::to_string(which.value) + ": " + what +
                      "; give a selection (like) of the same model");
  };
  for (const auto& [which, experts] : like.layers) {
    const auto layer = table.layers.find(which);
    if (layer == table.layers.end()) refuse(which, "the other selection names it, the scores do not");
    std::vector<bool> seen(layer->second.scores.size());
    for (const expert_index expert : experts) {
      if (expert.value < 0 || static_cast<std::size_t>(expert.value) >= seen.size())
        refuse(which, "the other selection names expert " + std::to_string(expert.value) + ", there are " + std::to_string(seen.size()));
      if (seen[static_cast<std::size_t>(expert.value)])
        refuse(which, "the other selection names expert " + std::to_string(expert.value) + " twice");
      seen[static_cast<std::size_t>(expert.value)] = true;
    }
  }
  for (const auto& [which, layer] : table.layers) {
    if (!like.layers.contains(which)) refuse(which, "the scores name it, the other selection does not");
  }
}

/// The experts that at least `least` of several selections name, in the order of the table's evidence.
/// @throws error (bad_input) for a broken table; usage_error without any selection, or if one is of another model
[[nodiscard]] inline expert_set named_by(std::string_view policy, const std::vector<expert_set>& others, std::size_t least,
                                         const score_table& table) {
  check_scores(table);
  if (others.empty()) {
    throw usage_error("the policy " + std::string(policy) + " needs like at least once: the selections to combine, one for each task");
  }
  for (const expert_set& other : others) check_like(policy, other, table);
  expert_set selected;
  for (const auto& [which, layer] : table.layers) {
    std::vector<std::size_t> votes(layer.scores.size());
    for (const expert_set& other : others) {
      for (const expert_index expert : other.layers.at(which)) ++votes[static_cast<std::size_t>(expert.value)];
    }
    std::vector<expert_index>& experts = selected.layers[which];
    for (const expert_index expert : evidence_order(layer)) {
      if (votes[static_cast<std::size_t>(expert.value)] >= least) experts.push_back(expert);
    }
  }
  return selected;
}

}  // namespace esft
