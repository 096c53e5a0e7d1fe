// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `decoder_config`: the shape of a decoder-only MoE language model.

#include <esft/core/dtype.hpp>
#include <esft/nn/attention.hpp>

#include <vector>

namespace esft {

/// Shape and constants of the whole model. Letters as in docs/notation.md.
struct decoder_config {
  index vocabulary = 0;               ///< V
  index width = 0;                    ///< D
  index layers = 0;                   ///< L
  index dense_width = 0;              ///< I of the dense layers
  index expert_width = 0;             ///< I of a routed expert
  index experts = 0;                  ///< E, routed experts per MoE layer
  index active = 0;                   ///< K, routed experts per token
  index shared_width = 0;             ///< I of the shared experts together, 0 for none
  std::vector<bool> moe_layer;        ///< @shape [L] true where the layer routes
  bool normalise_topk = false;        ///< gate weights divided by their sum over the selected experts
  double routed_scale = 1;            ///< factor on the gate weights
  bool tied_head = false;             ///< the head is the embedding
  double norm_epsilon = 1e-6;
  attention_config attention;
  index max_positions = 0;            ///< longest sequence that the checkpoint claims to support
  dtype storage = dtype::float32;     ///< element type of the checkpoint; trained weights stay on this grid
};

}  // namespace esft
