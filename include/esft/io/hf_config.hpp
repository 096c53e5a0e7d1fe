// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `hf_config`: the plain record of a Hugging Face `config.json` of the model families that esft trains.

#include <esft/core/query_key_norm.hpp>
#include <esft/core/shape.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace esft {

/// Largest values that a configuration may name; far above every published model, far below what could overflow.
struct config_limits {
  static constexpr index experts = 4096;
  static constexpr index layers = 4096;
  static constexpr index width = index{1} << 20U;
  static constexpr index vocabulary = index{1} << 24U;
  static constexpr index positions = index{1} << 31U;
};


/// Configuration of a decoder-only mixture-of-experts model, with one name per fact whatever the family calls it.
struct hf_config {
  std::string model_type;  ///< "deepseek", "qwen3_moe" or "olmoe"
  index vocab_size = 0;
  index hidden_size = 0;          ///< D
  index intermediate_size = 0;    ///< width of the dense MLP layers
  index num_hidden_layers = 0;
  index num_attention_heads = 0;
  index num_key_value_heads = 0;
  index head_dim = 0;
  index max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000;
  bool tie_word_embeddings = false;
  query_key_norm qk_norm = query_key_norm::none;

  index num_experts = 0;            ///< E, routed experts per layer
  index num_experts_per_tok = 0;    ///< K
  index num_shared_experts = 0;     ///< shared experts, stored as one MLP of width num_shared_experts * moe_intermediate_size
  index moe_intermediate_size = 0;  ///< I, width of one expert
  index first_k_dense_replace = 0;  ///< layers below this are dense
  index moe_layer_freq = 1;         ///< deepseek: a layer is MoE where its index is a multiple
  index decoder_sparse_step = 1;    ///< qwen3_moe: a layer is MoE where its index plus one is a multiple
  std::vector<index> mlp_only_layers;  ///< qwen3_moe: layers that are dense in any case
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;
  double aux_loss_alpha = 0;        ///< coefficient of the load-balance loss used in pre-training

  std::string torch_dtype;  ///< element type of the checkpoint, for information; empty if not given
  std::optional<index> bos_token_id;
  std::optional<index> eos_token_id;  ///< the first where the file lists several
  std::optional<index> pad_token_id;

  /// Whether a decoder layer routes to experts. @pre 0 <= layer < num_hidden_layers
  [[nodiscard]] bool is_moe_layer(index layer) const {
    for (const index dense : mlp_only_layers) {
      if (dense == layer) return false;
    }
    return layer >= first_k_dense_replace && layer % moe_layer_freq == 0 && (layer + 1) % decoder_sparse_step == 0;
  }

  /// All contradictions and illegal values at once, one sentence each; empty for a usable configuration.
  [[nodiscard]] std::vector<std::string> validate() const {
    std::vector<std::string> problems;
    const auto require = [&](bool holds, const std::string& sentence) {
      if (!holds) problems.push_back(sentence);
    };
    const auto in_range = [&](const char* name, index value, index low, index high) {
      require(value >= low && value <= high, std::string(name) + " is " + std::to_string(value) + ", must lie in [" +
                                                 std::to_string(low) + ", " + std::to_string(high) + "]");
    };
    const bool known = model_type == "deepseek" || model_type == "qwen3_moe" || model_type == "olmoe";
    require(known, "model_type '" + model_type + "' is not supported");
    in_range("vocab_size", vocab_size, 1, config_limits::vocabulary);
    in_range("hidden_size", hidden_size, 1, config_limits::width);
    in_range("intermediate_size", intermediate_size, 1, config_limits::width);
    in_range("num_hidden_layers", num_hidden_layers, 1, config_limits::layers);
    in_range("num_attention_heads", num_attention_heads, 1, config_limits::width);
    in_range("num_key_value_heads", num_key_value_heads, 1, config_limits::width);
    in_range("head_dim", head_dim, 1, config_limits::width);
    in_range("max_position_embeddings", max_position_embeddings, 1, config_limits::positions);
    in_range("number of routed experts", num_experts, 1, config_limits::experts);
    in_range("num_experts_per_tok", num_experts_per_tok, 1, config_limits::experts);
    in_range("number of shared experts", num_shared_experts, 0, config_limits::experts);
    in_range("expert width", moe_intermediate_size, 1, config_limits::width);
    in_range("first_k_dense_replace", first_k_dense_replace, 0, config_limits::layers);
    in_range("moe_layer_freq", moe_layer_freq, 1, config_limits::layers);
    in_range("decoder_sparse_step", decoder_sparse_step, 1, config_limits::layers);
    require(num_experts_per_tok <= num_experts, "num_experts_per_tok " + std::to_string(num_experts_per_tok) + " exceeds the " +
                                                    std::to_string(num_experts) + " routed experts");
    require(num_key_value_heads < 1 || num_attention_heads % num_key_value_heads == 0,
            "num_attention_heads " + std::to_string(num_attention_heads) + " is no multiple of num_key_value_heads " +
                std::to_string(num_key_value_heads));
    require(model_type == "qwen3_moe" || head_dim * num_attention_heads == hidden_size,
            "hidden_size " + std::to_string(hidden_size) + " must be num_attention_heads " + std::to_string(num_attention_heads) +
                " times head_dim " + std::to_string(head_dim) + " in this family");
    require(head_dim % 2 == 0, "head_dim " + std::to_string(head_dim) + " is odd; rotary embedding turns pairs");
    require(rms_norm_eps > 0 && rms_norm_eps < 1, "rms_norm_eps must lie in (0, 1)");
    require(rope_theta >= 1 && rope_theta < 1e12, "rope_theta must lie in [1, 1e12)");
    require(routed_scaling_factor > 0 && routed_scaling_factor < 1e6, "routed_scaling_factor must lie in (0, 1e6)");
    require(aux_loss_alpha >= 0 && aux_loss_alpha < 1e6, "aux_loss_alpha must lie in [0, 1e6)");
    for (const index layer : mlp_only_layers) in_range("a layer of mlp_only_layers", layer, 0, num_hidden_layers - 1);
    const auto token = [&](const char* name, const std::optional<index>& id) {
      if (id) in_range(name, *id, 0, vocab_size - 1);
    };
    token("bos_token_id", bos_token_id);
    token("eos_token_id", eos_token_id);
    token("pad_token_id", pad_token_id);
    if (problems.empty()) {
      bool any = false;
      for (index layer = 0; layer < num_hidden_layers; ++layer) any = any || is_moe_layer(layer);
      require(any, "no layer has experts");
    }
    return problems;
  }

  friend bool operator==(const hf_config&, const hf_config&) = default;
};

}  // namespace esft
