// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `bottom_like`: as many experts per layer as another selection has, the lowest-scoring ones.

#include <esft/core/ranking.hpp>
#include <esft/selection/like_check.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/score_check.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// The control at the other end of the score: equal budget per layer, the experts that the task needs least. Worst first.
class bottom_like {
 public:
  static constexpr std::string_view name = "bottom";
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 1> takes{"like"};

  explicit bottom_like(expert_set like = {}) : like_(std::move(like)) {}
  [[nodiscard]] static bottom_like from(const policy_arguments& given) { return bottom_like(required_like(given, name)); }

  /// @throws error (bad_input) for a broken table; usage_error if the other selection is of another model
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    check_like(name, like_, table);
    expert_set selected;
    for (const auto& [which, layer] : table.layers) {
      std::vector<expert_index> order = layer.counts.empty() ? ascending_order(std::span<const double>(layer.scores))
                                                             : ascending_order(std::span<const std::int64_t>(layer.counts));
      order.resize(like_.layers.at(which).size());
      selected.layers[which] = std::move(order);
    }
    return selected;
  }

 private:
  expert_set like_;
};

}  // namespace esft
