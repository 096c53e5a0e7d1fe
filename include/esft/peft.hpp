// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of peft/: plans: from selected experts to what is trained.

#include <esft/peft/low_rank_allocation.hpp>
#include <esft/peft/plan.hpp>
#include <esft/peft/plans.hpp>
