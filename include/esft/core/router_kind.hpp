// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `router_kind`: which of the published routers a checkpoint was trained with.

#include <cstdint>

namespace esft {

/// Routers that a `config.json` can ask for; the last is not of a published checkpoint but of those that `group_model` writes.
enum class router_kind : std::uint8_t {
  softmax,        ///< `softmax_topk_router`
  group_limited,  ///< `group_limited_router`: DeepSeek-V2
  sigmoid,        ///< `sigmoid_topk_router`, with a bias on the choice in each layer: DeepSeek-V3
  grouped_experts,  ///< `grouped_experts_router`
};

}  // namespace esft
