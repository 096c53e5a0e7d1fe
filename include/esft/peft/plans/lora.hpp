// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// LoRA: low-rank factors beside frozen matrices, of any set of linear maps, of all routed experts or of selected ones only.

#include <esft/peft/low_rank_targets.hpp>
#include <esft/peft/plan.hpp>
#include <esft/peft/selected_experts.hpp>

#include <optional>

namespace esft {

/// Trains factors of one rank beside the target matrices; every element of the model itself is frozen, routers included.
/// Where `experts` is given, only these routed experts get factors: what ESFT selects, adapted by LoRA.
/// @source LoRA, arXiv 2106.09685; on the most used experts only: MoE-Sieve, arXiv 2603.24044
/// @deviation gate and up are one matrix [2I, D] with one A: r (3 I + 2 D) elements an expert, where separate matrices would have
/// r (3 I + 3 D)
struct lora_plan {
  static constexpr std::string_view name = "lora";

  low_rank_options how;
  std::set<parameter_role> targets{};   ///< empty: every linear map of the model but routers and the head
  std::optional<expert_set> experts{};  ///< absent: all

  /// @throws usage_error when a target is no matrix or matches nothing in the model, when a selection comes without experts among the
  /// targets or belongs to another model, or when an option is out of range
  [[nodiscard]] trainable_set trainable(const parameter_inventory& model) const {
    expect_low_rank_options(how);
    std::map<layer_index, std::vector<expert_index>> selected;
    if (experts) selected = experts_in_model(*experts, model);
    std::set<parameter_role> unmatched = targets_to_match(targets);
    trainable_set result;
    for (const parameter_entry& entry : model) {
      const bool wanted = targets.empty() ? adapted_by_default(entry.key.role) : targets.contains(entry.key.role);
      if (!wanted) continue;
      if (entry.rows == 0) throw usage_error(low_rank_name_of(entry.key.role) + " is no matrix: it cannot have low-rank factors");
      unmatched.erase(entry.key.role);
      low_rank_target target{how, {}};
      for (int e = 0; e < entry.experts && !experts; ++e) target.experts.emplace_back(e);
      if (entry.experts > 0 && experts) target.experts = selected[entry.key.layer];
      if (entry.experts == 0 || !target.experts.empty()) result.low_rank.emplace(entry.key, std::move(target));
    }
    const bool on_experts =
        targets.empty() || targets.contains(parameter_role::expert_gate_up) || targets.contains(parameter_role::expert_down);
    if (experts && !on_experts)
      throw usage_error("a selection of experts comes without experts among the targets: add them, or leave it out");
    expect_matched(unmatched);
    return result;
  }
};

}  // namespace esft
