// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Expert-specialised fine-tuning: the selected routed experts are trained, everything else is frozen.

#include <esft/core/error.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/peft/plan.hpp>

#include <algorithm>
#include <string>

namespace esft {

/// Trains the experts of a selection, and on request the shared experts and everything that is not an expert
/// (embedding, head, norms, attention, routers, dense layers). @source arXiv 2407.01906, section 3 and table 3
struct esft_plan {
  static constexpr std::string_view name = "esft";

  expert_set experts;
  bool shared_experts = false;
  bool non_expert_modules = false;

  /// @throws usage_error when the selection's layers are not exactly the model's MoE layers, or an expert does not exist:
  /// a selection that belongs to another model must not train something else in silence
  [[nodiscard]] trainable_set trainable(const parameter_inventory& model) const {
    trainable_set result;
    std::map<layer_index, int> available;
    for (const parameter_entry& entry : model) {
      const parameter_role role = entry.key.role;
      const bool routed = entry.experts > 0;
      const bool shared = role == parameter_role::shared_gate_up || role == parameter_role::shared_down;
      if (routed) available[entry.key.layer] = entry.experts;
      if ((shared && shared_experts) || (!shared && !routed && non_expert_modules)) result.whole.insert(entry.key);
    }
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
      result.experts[layer] = std::move(sorted);
    }
    for (const auto& [layer, count] : available) {
      if (!experts.layers.contains(layer))
        throw usage_error(where(layer) + " routes but is missing from the selection: give it a list, empty if none");
    }
    return result;
  }

 private:
  static std::string where(layer_index layer) { return "layer " + std::to_string(layer.value); }
};

}  // namespace esft
