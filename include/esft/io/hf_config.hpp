// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `hf_config`: the plain record of a Hugging Face `config.json` of the model families that esft trains.

#include <esft/core/query_key_norm.hpp>
#include <esft/core/rotary_scaling.hpp>
#include <esft/core/router_kind.hpp>
#include <esft/core/shape.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
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
  static constexpr std::array<std::string_view, 8> known_families{"deepseek",  "deepseek_v2", "deepseek_v3", "mixtral",
                                                                  "qwen2_moe", "qwen3_moe",   "olmoe",       "gpt_oss"};
  std::string model_type;  ///< one of `known_families`
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
  bool qkv_bias = false;           ///< qwen2_moe, gpt_oss
  bool output_bias = false;        ///< gpt_oss: attention's output has a bias as well
  bool attention_sinks = false;    ///< gpt_oss: each head has one
  index sliding_window = 0;        ///< gpt_oss: keys that a token sees in `windowed_layers`; 0 where no layer has a window
  std::vector<bool> windowed_layers;  ///< by layer, or empty where none has a window
  bool expert_biases = false;      ///< gpt_oss: routers and experts have biases
  double swiglu_limit = 0;         ///< gpt_oss: where the experts' activation is clamped; 0: it is plain SwiGLU
  double swiglu_alpha = 1.702;
  rotary_scaling rope_scaling{};
  double score_factor = 1;         ///< on attention scores: the square of DeepSeek's mscale

  index kv_lora_rank = 0;          ///< latent attention where positive; head_dim is then qk_nope_head_dim + qk_rope_head_dim
  index q_lora_rank = 0;           ///< 0: queries without a latent
  index qk_nope_head_dim = 0;
  index qk_rope_head_dim = 0;
  index v_head_dim = 0;

  index num_experts = 0;            ///< E, routed experts per layer
  index num_experts_per_tok = 0;    ///< K
  index num_shared_experts = 0;     ///< shared experts, stored as one MLP of width num_shared_experts * moe_intermediate_size
  index moe_intermediate_size = 0;  ///< I, width of one expert
  index first_k_dense_replace = 0;  ///< layers below this are dense
  index moe_layer_freq = 1;         ///< deepseek: a layer is MoE where its index is a multiple
  index decoder_sparse_step = 1;    ///< qwen3_moe: a layer is MoE where its index plus one is a multiple
  std::vector<index> mlp_only_layers;  ///< qwen3_moe: layers that are dense in any case
  index shared_expert_intermediate_size = 0;  ///< qwen2_moe: width of its one shared expert
  bool shared_expert_gate = false;            ///< qwen2_moe: the shared expert has a gate of its own
  router_kind router = router_kind::softmax;
  index num_groups = 1;             ///< groups of experts, of which a token uses the best `kept_groups`
  index kept_groups = 1;
  index num_nextn_predict_layers = 0;  ///< deepseek_v3: layers behind the last that predict further tokens; not loaded
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1;
  double aux_loss_alpha = 0;        ///< coefficient of the load-balance loss used in pre-training

  std::string torch_dtype;  ///< element type of the checkpoint, for information; empty if not given
  std::optional<index> bos_token_id;
  std::optional<index> eos_token_id;  ///< the first where the file lists several
  std::optional<index> pad_token_id;

  [[nodiscard]] bool known_family() const {
    return std::find(known_families.begin(), known_families.end(), model_type) != known_families.end();
  }
  /// The families for messages.
  [[nodiscard]] static std::string families() {
    std::string all;
    for (const std::string_view family : known_families) all += (all.empty() ? "" : ", ") + std::string(family);
    return all;
  }
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
    require(known_family(), "model_type '" + model_type + "' is not supported");
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
    const bool fixed_heads = model_type == "deepseek" || model_type == "qwen2_moe" || model_type == "olmoe";
    require(!fixed_heads || head_dim * num_attention_heads == hidden_size,
            "hidden_size " + std::to_string(hidden_size) + " must be num_attention_heads " + std::to_string(num_attention_heads) +
                " times head_dim " + std::to_string(head_dim) + " in this family");
    require(kv_lora_rank != 0 || head_dim % 2 == 0, "head_dim " + std::to_string(head_dim) + " is odd; rotary embedding turns pairs");
    require(kv_lora_rank == 0 || num_key_value_heads == num_attention_heads,
            "latent attention has as many key-value heads as heads; num_key_value_heads is " + std::to_string(num_key_value_heads));
    if (kv_lora_rank != 0) {
      in_range("kv_lora_rank", kv_lora_rank, 1, config_limits::width);
      in_range("q_lora_rank", q_lora_rank, 0, config_limits::width);
      in_range("qk_nope_head_dim", qk_nope_head_dim, 1, config_limits::width);
      in_range("qk_rope_head_dim", qk_rope_head_dim, 2, config_limits::width);
      in_range("v_head_dim", v_head_dim, 1, std::max<index>(1, head_dim));
      require(qk_rope_head_dim % 2 == 0, "qk_rope_head_dim " + std::to_string(qk_rope_head_dim) + " is odd; rotary embedding turns pairs");
    }
    in_range("shared_expert_intermediate_size", shared_expert_intermediate_size, 0, config_limits::width);
    in_range("num_nextn_predict_layers", num_nextn_predict_layers, 0, config_limits::layers);
    in_range("n_group", num_groups, 1, 64);
    in_range("topk_group", kept_groups, 1, num_groups);
    require(num_groups <= 1 || (num_experts % num_groups == 0 && num_experts / num_groups * kept_groups >= num_experts_per_tok),
            "the experts of " + std::to_string(kept_groups) + " of " + std::to_string(num_groups) +
                " groups of equal size must be at least num_experts_per_tok");
    require(router != router_kind::grouped_experts || num_groups < 1 || num_experts / num_groups * kept_groups == num_experts_per_tok,
            "tokens take whole groups of bound experts, so those of topk_group groups must be num_experts_per_tok");
    require(router != router_kind::sigmoid || num_groups < 1 || num_experts / num_groups >= 2,
            "groups rank by their two best experts, so that they have at least two");
    require(rms_norm_eps > 0 && rms_norm_eps < 1, "rms_norm_eps must lie in (0, 1)");
    require(rope_theta >= 1 && rope_theta < 1e12, "rope_theta must lie in [1, 1e12)");
    require(routed_scaling_factor > 0 && routed_scaling_factor < 1e6, "routed_scaling_factor must lie in (0, 1e6)");
    require(aux_loss_alpha >= 0 && aux_loss_alpha < 1e6, "aux_loss_alpha must lie in [0, 1e6)");
    in_range("sliding_window", sliding_window, windowed_layers.empty() ? 0 : 1, config_limits::positions);
    require(windowed_layers.empty() || windowed_layers.size() == static_cast<std::size_t>(std::max<index>(0, num_hidden_layers)),
            "layer_types has " + std::to_string(windowed_layers.size()) + " layers, num_hidden_layers is " +
                std::to_string(num_hidden_layers));
    require(swiglu_limit >= 0 && swiglu_limit < 1e6, "swiglu_limit must lie in (0, 1e6)");
    require(swiglu_alpha > 0 && swiglu_alpha < 1e6, "swiglu_alpha must lie in (0, 1e6)");
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
