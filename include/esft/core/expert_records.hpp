// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What can be seen of single experts beside the routing: norms of their outputs, their weights, their gradients. Scorers consume them.

#include <esft/core/routing_record.hpp>
#include <esft/core/strong_index.hpp>

#include <cstdint>
#include <span>

namespace esft {

/// Routing decisions of one layer with the length of what each chosen expert answered. Borrowed for the duration of a call.
struct expert_output_record {
  routing_record routing;
  std::span<const float> norms;  ///< @shape [T, K], L2 norm of the chosen expert's output before its gate weight
};

/// The weights of one routed expert, row-major. Borrowed for the duration of a call.
struct expert_weights_record {
  layer_index layer;
  expert_index expert;
  int experts = 0;                 ///< E, routed experts of the layer
  std::int64_t width = 0;          ///< D
  std::int64_t inner = 0;          ///< I
  std::span<const float> gate_up;  ///< @shape [2I, D], gate rows first
  std::span<const float> down;     ///< @shape [D, I]
};

/// The same with the gradient of the mean loss over the learned tokens of one backward pass.
struct expert_gradient_record {
  expert_weights_record weights;
  std::span<const float> gate_up;  ///< @shape [2I, D], gradient
  std::span<const float> down;     ///< @shape [D, I], gradient
  std::int64_t tokens = 0;         ///< learned tokens of the pass
};

}  // namespace esft
