// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What a policy needs to mean something on one scorer's numbers where nobody says it, when p would mean nothing on them, and what is said
/// to a policy that does not take it.

#include "format.hpp"

#include <esft/core/error.hpp>
#include <esft/core/score_table.hpp>
#include <esft/relevance/scorers.hpp>
#include <esft/selection/policies.hpp>

#include <algorithm>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>

namespace esft::tool {

/// The p that a scorer's numbers are meant for as they are: of the scorers of the paper; absent for others, which sum to anything.
[[nodiscard]] inline std::optional<double> usual_p(const std::string& scorer) {
  std::optional<double> p;
  visit_by_name(builtin_scorers{}, scorer, [&]<class Scorer>() {
    if constexpr (requires { Scorer::usual_p; }) p = Scorer::usual_p;
  });
  return p;
}

/// Scores without a usual p are compared as shares of their layer.
[[nodiscard]] inline policy_arguments with_defaults(policy_arguments given, const std::string& scorer) {
  const std::optional<double> usual = usual_p(scorer);
  if (!given.p) given.p = usual.value_or(token_selection_ratio::usual_p);
  if (!usual && !given.normalization) given.normalization = score_normalization::layer_sum;
  return given;
}

/// A score that has a usual p is compared whatever it sums to, as the official code does; of others a sum above 1 says that p would mean
/// nothing.
/// @throws usage_error where `Policy` would compare p with scores that are no shares of one
template <class Policy>
void require_shares(const policy_arguments& given, const std::string& scorer, const score_table& table) {
  if (!Policy::compares_p || usual_p(scorer) || given.normalization != score_normalization::none) return;
  for (const auto& [layer, content] : table.layers) {
    const double sum = std::accumulate(content.scores.begin(), content.scores.end(), 0.0);
    if (sum <= 1 + 1e-6) continue;
    throw usage_error("the " + scorer + " scores of layer " + std::to_string(layer.value) + " sum to " + significant(sum, 3) +
                      ", so they are no shares of one that p could be compared with: leave normalization out, or choose layer-sum");
  }
}

/// @throws usage_error where `Policy` does not take `argument`, which the user `said` in these words
template <class Policy>
void require_taken(std::string_view argument, const std::string& said) {
  if (std::find(Policy::takes.begin(), Policy::takes.end(), argument) != Policy::takes.end()) return;
  std::string taken;
  for (const std::string_view name : Policy::takes) taken += (taken.empty() ? "" : ", ") + std::string(name);
  throw usage_error("the policy " + std::string(Policy::name) + " does not take " + said + "; it takes " +
                    (taken.empty() ? "no options" : taken));
}

}  // namespace esft::tool
