// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `all_experts`: every routed expert of every layer, in ascending order.

#include <esft/selection/policy.hpp>
#include <esft/selection/score_check.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace esft {

/// Full expert tuning as a selection: the upper bound that every other policy is compared with.
class all_experts {
 public:
  static constexpr std::string_view name = "all";
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 0> takes{};

  /// @throws error (bad_input) for a broken table
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    expert_set selected;
    for (const auto& [which, layer] : table.layers) {
      std::vector<expert_index>& experts = selected.layers[which];
      for (std::size_t e = 0; e < layer.scores.size(); ++e) experts.emplace_back(static_cast<std::int32_t>(e));
    }
    return selected;
  }
};

}  // namespace esft
