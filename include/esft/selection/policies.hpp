// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `builtin_policies`: the policies that the tool offers and the law suite runs on.

#include <esft/core/type_list.hpp>
#include <esft/selection/policies/all.hpp>
#include <esft/selection/policies/bottom_like.hpp>
#include <esft/selection/policies/global_budget.hpp>
#include <esft/selection/policies/intersection_of_tasks.hpp>
#include <esft/selection/policies/p_for_budget.hpp>
#include <esft/selection/policies/random_like.hpp>
#include <esft/selection/policies/top_fraction.hpp>
#include <esft/selection/policies/top_k.hpp>
#include <esft/selection/policies/top_p.hpp>
#include <esft/selection/policies/top_p_groups.hpp>
#include <esft/selection/policies/union_of_tasks.hpp>

namespace esft {

/// Every policy of this library, in the order in which the tool lists them.
using builtin_policies = type_list<top_p, top_k, top_fraction, global_budget, p_for_budget, random_like, bottom_like, union_of_tasks,
                                   intersection_of_tasks, all_experts, top_p_groups>;

}  // namespace esft
