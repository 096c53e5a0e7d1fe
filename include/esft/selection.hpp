// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of selection/: policies from scores to experts.

#include <esft/selection/budget.hpp>
#include <esft/selection/like_check.hpp>
#include <esft/selection/normalization.hpp>
#include <esft/selection/policies.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/rounding.hpp>
#include <esft/selection/score_check.hpp>
