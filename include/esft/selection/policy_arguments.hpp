// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `policy_arguments`: one record of everything that a built-in policy can be told, so that tools and benchmarks make all of them alike.

#include <esft/core/error.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/selection/normalization.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// What a caller who knows a policy by its name only has to say. A policy reads what it `takes`, its list of names, and leaves the rest alone.
struct policy_arguments {
  std::optional<double> p;             ///< share of the score to reach
  std::optional<int> k;                ///< experts a layer
  std::optional<double> fraction;      ///< share of a layer's experts
  std::optional<std::int64_t> budget;  ///< trained parameters over all layers
  std::int64_t expert_parameters = 1;  ///< parameters of one expert; 1 lets the budget count experts
  std::vector<expert_set> like;        ///< other selections: to imitate in size, or to combine
  std::uint64_t seed = 0;              ///< of what is drawn
  std::uint32_t draw = 0;              ///< number of the draw
  threshold_mode mode = threshold_mode::exact;
  std::optional<score_normalization> normalization;  ///< unset: what the policy prefers
  int min_experts = 0;                               ///< top-p: at least so many a layer
  int max_experts = 0;                               ///< top-p: at most so many a layer, 0: no limit
  std::optional<int> group;                          ///< neighbouring experts that are selected together
};

/// The value of an argument without which a policy means nothing. @throws usage_error that names the policy and the argument
template <class T>
[[nodiscard]] const T& required(const std::optional<T>& value, std::string_view policy, std::string_view argument,
                                std::string_view meaning) {
  if (value) return *value;
  throw usage_error("the policy " + std::string(policy) + " needs " + std::string(argument) + ": " + std::string(meaning));
}

/// The one selection that a policy imitates. @throws usage_error unless there is exactly one
[[nodiscard]] inline const expert_set& required_like(const policy_arguments& given, std::string_view policy) {
  if (given.like.size() == 1) return given.like.front();
  throw usage_error("the policy " + std::string(policy) +
                    " needs like exactly once, the selection whose number of experts it takes; it was given " +
                    std::to_string(given.like.size()) + " times");
}

/// A policy by its type: `Policy::from(arguments)` where it has options, else its default.
template <class Policy>
[[nodiscard]] Policy make_policy(const policy_arguments& given) {
  if constexpr (requires { Policy::from(given); }) {
    return Policy::from(given);
  } else {
    return Policy();
  }
}

}  // namespace esft
