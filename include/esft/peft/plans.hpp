// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The built-in plans. One line here gives a plan its law suite and its row in `esft list plans`.

#include <esft/core/type_list.hpp>
#include <esft/peft/plans/esft.hpp>
#include <esft/peft/plans/full.hpp>
#include <esft/peft/plans/hilo.hpp>
#include <esft/peft/plans/hybrid.hpp>
#include <esft/peft/plans/lora.hpp>

namespace esft {

using builtin_plans = type_list<esft_plan, full_plan, lora_plan, hilo_plan, hybrid_plan>;

}  // namespace esft
