// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `routing_record`: what one MoE layer decided for some tokens. The observer of a forward pass produces it, scorers consume it.

#include <esft/core/strong_index.hpp>

#include <cstdint>
#include <span>

namespace esft {

/// Stands in the place of an expert's id in a slot that stays empty: a token over an expert's capacity, or a null expert's.
inline constexpr std::int32_t no_expert = -1;

/// Routing decisions of one layer for T tokens, in host memory, borrowed for the duration of a call.
/// A sample never spans two records: a scorer may finish a sample's mean at the end of the record.
struct routing_record {
  layer_index layer;
  int experts = 0;                       ///< E, routed experts of the layer
  int active = 0;                        ///< K, routed experts per token (shared experts not counted)
  std::span<const std::int32_t> ids;     ///< @shape [T, K], K distinct values in [0, E) per row, or `no_expert`
  std::span<const float> weights;        ///< @shape [T, K], the factor on the expert's output (after renormalisation and scaling)
  std::span<const std::int32_t> sample;  ///< @shape [T], sample number of each token, -1 for padding; empty: all tokens are one sample
};

}  // namespace esft
