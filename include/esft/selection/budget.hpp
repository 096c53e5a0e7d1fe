// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `budgeted_selection`: what a policy with a budget selected, what it costs, and whether one expert a layer was already too much.

#include <esft/core/error.hpp>
#include <esft/core/expert_set.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace esft {

/// A limit on what is trained, over all layers together.
struct parameter_budget {
  std::int64_t parameters = 0;         ///< trained parameters
  std::int64_t expert_parameters = 1;  ///< of one expert, 3 D I for SwiGLU; 1: the budget counts experts

  /// Whole experts that fit.
  [[nodiscard]] std::int64_t experts() const noexcept { return parameters / expert_parameters; }
};

/// The answer to a budget. The rule that every layer has at least one expert comes first, so a budget below that is exceeded, and says so.
struct budgeted_selection {
  expert_set experts;
  std::int64_t spent = 0;   ///< parameters of the selected experts
  std::int64_t budget = 0;  ///< what was allowed
  double p = 0;             ///< threshold that was found; 0 where the policy has none

  [[nodiscard]] bool exceeded() const noexcept { return spent > budget; }
};

/// @throws usage_error for a budget that means nothing
inline void check_budget(std::string_view policy, const parameter_budget& budget) {
  constexpr std::int64_t most = 10'000'000'000'000;  // keeps every sum of experts far inside 64 bits
  if (budget.parameters >= 1 && budget.expert_parameters >= 1 && budget.expert_parameters <= most) return;
  throw usage_error(std::string(policy) + ": budget = " + std::to_string(budget.parameters) +
                    " with expert_parameters = " + std::to_string(budget.expert_parameters) +
                    " means nothing; both are at least 1, and an expert has at most 1e13 parameters");
}

}  // namespace esft
