// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `builtin_policies`: the policies that the tool offers and the law suite runs on.

#include <esft/core/type_list.hpp>
#include <esft/selection/policies/all.hpp>
#include <esft/selection/policies/random_like.hpp>
#include <esft/selection/policies/top_k.hpp>
#include <esft/selection/policies/top_p.hpp>

namespace esft {

/// Every policy of this library, in the order in which the tool lists them.
using builtin_policies = type_list<top_p, top_k, random_like, all_experts>;

}  // namespace esft
