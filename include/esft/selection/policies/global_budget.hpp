// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `global_budget`: the experts with the largest share of their layer's score, whatever the layer, until a parameter budget is spent.

#include <esft/selection/budget.hpp>
#include <esft/selection/normalization.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/score_check.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

namespace esft {

/// Greedy over all layers at once: first the best expert of every layer, then the best of what is left, while it fits.
/// Layers whose routing is concentrated get few experts, flat ones many. Experts without evidence are not taken, so a budget may be left
/// over.
/// @source none: a global form of the per-layer rule. MoE-Sieve (arXiv 2603.24044) reports no gain of greedy budgets over one k for all
/// layers
class global_budget {
 public:
  static constexpr std::string_view name = "budget";
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 3> takes{"budget", "expert-parameters", "normalization"};

  /// The default has no limit: every expert that has evidence. @throws usage_error for a budget below 1
  explicit global_budget(parameter_budget budget = {std::numeric_limits<std::int64_t>::max(), 1},
                         score_normalization normalization = score_normalization::layer_sum)
      : budget_(budget), normalization_(normalization) {
    check_budget(name, budget_);
  }
  [[nodiscard]] static global_budget from(const policy_arguments& given) {
    return global_budget({required(given.budget, name, "budget", "trained parameters over all layers"), given.expert_parameters},
                         given.normalization.value_or(score_normalization::layer_sum));
  }

  [[nodiscard]] expert_set select(const score_table& table) const { return select_within(table).experts; }

  /// The selection with what it costs; `exceeded()` if the budget is smaller than one expert a layer.
  /// @throws error (bad_input) for a broken table or a layer without any evidence
  [[nodiscard]] budgeted_selection select_within(const score_table& table) const {
    check_scores(table);
    struct candidate {
      layer_index layer;
      expert_index expert;
      double share;
    };
    budgeted_selection result;
    result.budget = budget_.parameters;
    std::vector<candidate> left;
    std::int64_t count = 0;
    for (const auto& [which, layer] : table.layers) {
      const std::vector<expert_index> order = evidence_order(layer);
      const double sum = score_sum(layer, order);
      if (sum == 0) refuse_without_evidence(name, which);
      const double whole = normalization_ == score_normalization::layer_sum ? sum : 1.0;
      result.experts.layers[which] = {order.front()};
      ++count;
      for (std::size_t rank = 1; rank < order.size(); ++rank) {
        const double score = layer.scores[static_cast<std::size_t>(order[rank].value)];
        if (score > 0) left.push_back({which, order[rank], score / whole});
      }
    }
    // stable: equal shares stay in the order of layers, and inside a layer in its falling order
    std::stable_sort(left.begin(), left.end(), [](const candidate& a, const candidate& b) { return a.share > b.share; });
    for (const candidate& next : left) {
      if (count >= budget_.experts()) break;
      result.experts.layers[next.layer].push_back(next.expert);
      ++count;
    }
    result.spent = count * budget_.expert_parameters;
    return result;
  }

 private:
  parameter_budget budget_;
  score_normalization normalization_;
};

}  // namespace esft
