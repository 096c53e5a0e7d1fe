// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The concept `selection_policy`: which experts of every layer are worth training.

#include <esft/core/expert_set.hpp>
#include <esft/core/score_table.hpp>

#include <concepts>
#include <string_view>

namespace esft {

/// Chooses experts from scores. Laws (tests/selection/laws.cpp): every layer of the table has a key, ids are in range and distinct,
/// the same table gives the same set, and a table with a NaN or negative score is refused.
template <class P>
concept selection_policy = requires(const P& policy, const score_table& table) {
  { policy.select(table) } -> std::same_as<expert_set>;
  { P::name } -> std::convertible_to<std::string_view>;
};

}  // namespace esft
