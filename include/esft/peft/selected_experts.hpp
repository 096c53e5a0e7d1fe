// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A selection of experts against a model's inventory: whether it is one of this model, and the ids in ascending order.

#include <esft/core/error.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/trainable_set.hpp>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace esft {

/// Ascending ids of the selected experts of every MoE layer.
/// @throws usage_error when the selection's layers are not exactly the model's MoE layers, or an expert does not exist:
/// a selection that belongs to another model must not train something else in silence
[[nodiscard]] inline std::map<layer_index, std::vector<expert_index>> experts_in_model(const expert_set& experts,
                                                                                      const parameter_inventory& model) {
  const auto where = [](layer_index layer) { return "layer " + std::to_string(layer.value); };
  std::map<layer_index, int> available;
  for (const parameter_entry& entry : model) {
    if (entry.experts > 0) available[entry.key.layer] = entry.experts;
  }
  std::map<layer_index, std::vector<expert_index>> result;
  for (const auto& [layer, selected] : experts.layers) {
    const auto found = available.find(layer);
    if (found == available.end())
      throw usage_error(where(layer) + " is selected but has no routed experts: check the layer keys (absolute, from 0)");
    std::vector<expert_index> sorted = selected;
    std::sort(sorted.begin(), sorted.end());
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) throw usage_error(where(layer) + " names an expert twice");
    if (!sorted.empty() && (sorted.front().value < 0 || sorted.back().value >= found->second)) {
      throw usage_error(where(layer) + " has experts 0.." + std::to_string(found->second - 1) + ", the selection names expert " +
                        std::to_string(sorted.front().value < 0 ? sorted.front().value : sorted.back().value));
    }
    result[layer] = std::move(sorted);
  }
  for (const auto& [layer, count] : available) {
    if (!experts.layers.contains(layer))
      throw usage_error(where(layer) + " routes but is missing from the selection: give it a list, empty if none");
  }
  return result;
}

}  // namespace esft
