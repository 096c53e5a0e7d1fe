// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of moe/: routers, dispatch and the Mixture-of-Experts layer.

#include <esft/moe/balance_across_layers.hpp>
#include <esft/moe/balance_loss.hpp>
#include <esft/moe/capacity.hpp>
#include <esft/moe/choice.hpp>
#include <esft/moe/clamped_swiglu.hpp>
#include <esft/moe/dispatch.hpp>
#include <esft/moe/expert_bias.hpp>
#include <esft/moe/expert_outputs.hpp>
#include <esft/moe/layer.hpp>
#include <esft/moe/low_rank_experts.hpp>
#include <esft/moe/low_rank_mixture.hpp>
#include <esft/moe/placed_routes.hpp>
#include <esft/moe/router.hpp>
#include <esft/moe/routers.hpp>
#include <esft/moe/shared_gate.hpp>
#include <esft/moe/weigh_given_row.hpp>
