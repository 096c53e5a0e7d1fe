// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `check_like`: a selection that a policy imitates or combines must fit the score table.

#include <esft/core/error.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/score_table.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// @throws usage_error if `like` names other layers than the table, or experts that a layer does not have, or one twice
inline void check_like(std::string_view policy, const expert_set& like, const score_table& table) {
  const auto refuse = [&](layer_index index, const std::string& what) {
    throw usage_error(std::string(policy) + ": layer " + std::to_string(index.value) + ": " + what +
                      "; give a selection (like) of the same model");
  };
  for (const auto& [index, experts] : like.layers) {
    const auto layer = table.layers.find(index);
    if (layer == table.layers.end()) refuse(index, "the other selection names it, the scores do not");
    std::vector<bool> seen(layer->second.scores.size());
    for (const expert_index expert : experts) {
      if (expert.value < 0 || static_cast<std::size_t>(expert.value) >= seen.size())
        refuse(index, "the other selection names expert " + std::to_string(expert.value) + ", there are " + std::to_string(seen.size()));
      if (seen[static_cast<std::size_t>(expert.value)])
        refuse(index, "the other selection names expert " + std::to_string(expert.value) + " twice");
      seen[static_cast<std::size_t>(expert.value)] = true;
    }
  }
  for (const auto& [index, layer] : table.layers) {
    if (!like.layers.contains(index)) refuse(index, "the scores name it, the other selection does not");
  }
}

}  // namespace esft
