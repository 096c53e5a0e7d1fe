// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// ESFT and LoRA together: the most relevant experts are trained whole, the next ones through low-rank factors.

#include <esft/peft/plans/esft.hpp>
#include <esft/peft/plans/lora.hpp>

#include <algorithm>
#include <utility>

namespace esft {

/// Trains `whole` as `esft_plan` does and puts the factors of `factors` beside matrices that stay frozen. Of the experts that `factors`
/// names those that are trained whole get none: two selections of the same scores, one narrow and one wide, are all that it takes.
/// @source none: experts whole and factors each from their own paper, their combination is ours
struct hybrid_plan {
  static constexpr std::string_view name = "hybrid";

  esft_plan whole;
  lora_plan factors{.how = {}, .targets = {parameter_role::expert_gate_up, parameter_role::expert_down}, .experts = {}};

  /// @throws usage_error as the two plans do; when no expert is left for factors that are meant for experts; when a matrix that is no
  /// expert is to be trained and to have factors
  [[nodiscard]] trainable_set trainable(const parameter_inventory& model) const {
    trainable_set result = whole.trainable(model);
    bool meant_for_experts = false;
    bool left = false;
    for (auto& [key, target] : factors.trainable(model).low_rank) {
      low_rank_target kept = target;
      if (!target.experts.empty()) {
        meant_for_experts = true;
        const std::vector<expert_index>& trained = result.experts_of(key.layer);
        std::erase_if(kept.experts, [&](expert_index e) { return std::binary_search(trained.begin(), trained.end(), e); });
        if (kept.experts.empty()) continue;
        left = true;
      } else if (result.trains(key)) {
        throw usage_error("layer " + std::to_string(key.layer.value) + ": " + low_rank_name_of(key.role) +
                          " is trained whole and is to have factors: leave it out of the targets");
      }
      result.low_rank.emplace(key, std::move(kept));
    }
    if (meant_for_experts && !left)
      throw usage_error("every expert that is to have factors is trained whole already: select more for the factors");
    return result;
  }
};

}  // namespace esft
