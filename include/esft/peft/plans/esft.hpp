// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Expert-specialised fine-tuning: the selected routed experts are trained, everything else is frozen.

#include <esft/peft/plan.hpp>
#include <esft/peft/selected_experts.hpp>

namespace esft {

/// Trains the experts of a selection, and on request the shared experts and everything that is not an expert
/// (embedding, head, norms, attention, routers, dense layers). @source arXiv 2407.01906, section 3 and table 3
struct esft_plan {
  static constexpr std::string_view name = "esft";

  expert_set experts;
  bool shared_experts = false;
  bool non_expert_modules = false;

  /// @throws usage_error when the selection does not belong to this model
  [[nodiscard]] trainable_set trainable(const parameter_inventory& model) const {
    trainable_set result;
    for (const parameter_entry& entry : model) {
      const parameter_role role = entry.key.role;
      const bool routed = entry.experts > 0;
      const bool shared = role == parameter_role::shared_gate_up || role == parameter_role::shared_down ||
                          role == parameter_role::shared_gate;
      if ((shared && shared_experts) || (!shared && !routed && non_expert_modules)) result.whole.insert(entry.key);
    }
    result.experts = experts_in_model(experts, model);
    return result;
  }
};

}  // namespace esft
