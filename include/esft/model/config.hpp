// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `decoder_config`: the shape of a decoder-only MoE language model.

#include <esft/core/contract.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/expert_names.hpp>
#include <esft/core/fused_layout.hpp>
#include <esft/core/router_kind.hpp>
#include <esft/moe/clamped_swiglu.hpp>
#include <esft/nn/latent_attention.hpp>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace esft {

/// How a family's checkpoints name what others name differently.
struct checkpoint_names {
  expert_names experts = expert_name_styles.front();
  std::string shared = "shared_experts";  ///< the shared experts in the block
  bool query_latent = false;              ///< queries are made from a latent: q_b_proj
  std::string router = "gate";
  std::optional<fused_layout> together{};  ///< all experts of a layer are stored as one tensor
  friend bool operator==(const checkpoint_names&, const checkpoint_names&) = default;
};

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
  bool shared_gate = false;           ///< the shared experts have a gate of their own
  std::vector<bool> moe_layer;        ///< @shape [L] true where the layer routes
  router_kind router = router_kind::softmax;  ///< a sigmoid router comes with a bias on the choice in each layer
  index groups = 1;                   ///< groups of experts, of which a token uses the best `kept_groups`
  index kept_groups = 1;
  bool normalise_topk = false;        ///< gate weights divided by their sum over the selected experts
  double routed_scale = 1;            ///< factor on the gate weights
  bool tied_head = false;             ///< the head is the embedding
  double norm_epsilon = 1e-6;
  attention_config attention;
  index window = 0;                   ///< keys that a token sees in windowed layers, itself included
  std::vector<bool> windowed_layer{}; ///< @shape [L], or empty where no layer has a window
  bool expert_biases = false;         ///< routers and routed experts have biases
  swiglu_clamp clamp{};               ///< of the experts' activation
  latent_attention_config latent{};   ///< in place of plain attention where it exists
  index prediction_layers = 0;        ///< layers of a checkpoint behind the last one that predict further tokens: not loaded
  index max_positions = 0;            ///< longest sequence that the checkpoint claims to support
  dtype storage = dtype::float32;     ///< element type of the checkpoint; trained weights stay on this grid
  checkpoint_names names{};

  [[nodiscard]] bool windowed(std::size_t layer) const { return !windowed_layer.empty() && windowed_layer[layer]; }
};

/// A shape of your own, as it was given. What a checkpoint describes was checked when its `config.json` was read.
/// @throws contract_violation that says which extents contradict each other, or are missing
[[nodiscard]] inline decoder_config checked_shape(decoder_config c) {
  const auto has = [&](bool moe) { return std::find(c.moe_layer.begin(), c.moe_layer.end(), moe) != c.moe_layer.end(); };
  const auto layers = static_cast<std::size_t>(std::max<index>(0, c.layers));
  const attention_config& a = c.attention;
  ESFT_EXPECTS(c.vocabulary > 0 && c.width > 0 && c.layers > 0, "a model has a vocabulary, a width and layers");
  ESFT_EXPECTS(c.moe_layer.size() == layers, "moe_layer says of each layer whether it routes");
  ESFT_EXPECTS(c.windowed_layer.empty() || c.windowed_layer.size() == layers, "windowed_layer says it of each layer, or is empty");
  ESFT_EXPECTS(!has(true) || (c.experts > 0 && c.expert_width > 0 && c.active > 0), "MoE layers have experts, a width, and active ones");
  ESFT_EXPECTS(!has(false) || c.dense_width > 0, "dense layers have a width");
  ESFT_EXPECTS(a.heads > 0 && a.head_width > 0, "attention has heads, and they a width");
  ESFT_EXPECTS(c.latent.exists() || (a.key_value_heads > 0 && a.heads % a.key_value_heads == 0), "key_value_heads divides heads");
  return c;
}

}  // namespace esft
