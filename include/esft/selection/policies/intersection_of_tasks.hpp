// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `intersection_of_tasks`: the experts that all of several selections name, usually one for each task.

#include <esft/core/error.hpp>
#include <esft/selection/like_check.hpp>
#include <esft/selection/normalization.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/score_check.hpp>

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// What several tasks have in common. A layer may end up empty, which a plan accepts.
/// The table's scores decide only the order in which the experts are listed.
class intersection_of_tasks {
 public:
  static constexpr std::string_view name = "intersection";

  explicit intersection_of_tasks(std::vector<expert_set> others = {}) : others_(std::move(others)) {}
  [[nodiscard]] static intersection_of_tasks from(const policy_arguments& given) { return intersection_of_tasks(given.like); }

  /// @throws error (bad_input) for a broken table; usage_error without any selection, or if one is of another model
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    if (others_.empty()) {
      throw usage_error("the policy " + std::string(name) + " needs like at least once: the selections to combine, one for each task");
    }
    for (const expert_set& other : others_) check_like(name, other, table);
    expert_set selected;
    for (const auto& [index, layer] : table.layers) {
      std::vector<std::size_t> votes(layer.scores.size());
      for (const expert_set& other : others_) {
        for (const expert_index expert : other.layers.at(index)) ++votes[static_cast<std::size_t>(expert.value)];
      }
      std::vector<expert_index>& experts = selected.layers[index];
      for (const expert_index expert : evidence_order(layer)) {
        const auto e = static_cast<std::size_t>(expert.value);
        if (votes[e] == others_.size()) experts.push_back(expert);
      }
    }
    return selected;
  }

 private:
  std::vector<expert_set> others_;
};

}  // namespace esft
