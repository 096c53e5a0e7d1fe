// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `p_for_budget`: `top_p` with the largest p whose selection fits a parameter budget.

#include <esft/selection/budget.hpp>
#include <esft/selection/policies/top_p.hpp>

#include <array>
#include <cstdint>
#include <limits>
#include <string_view>

namespace esft {

/// Finds p by bisection over its 9 decimal places, which is exact because the selection only grows with p.
/// The selection is one of `top_p`, so it is per layer and comparable with the paper's; the budget is spent as far as one p for all layers
/// can.
class p_for_budget {
 public:
  static constexpr std::string_view name = "p-budget";
  static constexpr bool compares_p = true;
  static constexpr std::array<std::string_view, 3> takes{"budget", "expert-parameters", "normalization"};

  /// The default has no limit: p = 1. @throws usage_error for a budget below 1
  explicit p_for_budget(parameter_budget budget = {std::numeric_limits<std::int64_t>::max(), 1},
                        score_normalization normalization = score_normalization::layer_sum)
      : budget_(budget), normalization_(normalization) {
    check_budget(name, budget_);
  }
  [[nodiscard]] static p_for_budget from(const policy_arguments& given) {
    return p_for_budget({required(given.budget, name, "budget", "trained parameters over all layers"), given.expert_parameters},
                        given.normalization.value_or(score_normalization::layer_sum));
  }

  [[nodiscard]] expert_set select(const score_table& table) const { return select_within(table).experts; }

  /// The selection, its p and its cost; `exceeded()` if the budget is smaller than one expert a layer.
  /// @throws error (bad_input) for a broken table or a layer without any evidence
  [[nodiscard]] budgeted_selection select_within(const score_table& table) const {
    std::int64_t fits = 1;  // the smallest p takes one expert a layer: it is the answer even where it does not fit
    std::int64_t beyond = 1'000'000'001;
    while (beyond - fits > 1) {
      const std::int64_t middle = fits + (beyond - fits) / 2;
      (count(at(middle).select(table)) <= budget_.experts() ? fits : beyond) = middle;
    }
    budgeted_selection result;
    result.p = static_cast<double>(fits) / 1e9;
    result.experts = at(fits).select(table);
    result.spent = count(result.experts) * budget_.expert_parameters;
    result.budget = budget_.parameters;
    return result;
  }

 private:
  [[nodiscard]] top_p at(std::int64_t billionths) const {
    return top_p({.p = static_cast<double>(billionths) / 1e9, .normalization = normalization_});
  }
  static std::int64_t count(const expert_set& selected) { return static_cast<std::int64_t>(selected.size()); }

  parameter_budget budget_;
  score_normalization normalization_;
};

}  // namespace esft
