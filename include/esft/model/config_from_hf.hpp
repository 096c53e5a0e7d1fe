// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// From the record of a `config.json` to the shape of our decoder, and back.

#include <esft/core/error.hpp>
#include <esft/io/hf_config.hpp>
#include <esft/model/config.hpp>

namespace esft {

/// @throws error (bad input) listing every contradiction at once
[[nodiscard]] inline decoder_config config_from_hf(const hf_config& hf, dtype storage) {
  const auto problems = hf.validate();
  if (!problems.empty()) {
    std::string all = "config.json does not describe a usable model:";
    for (const std::string& problem : problems) all += "\n  - " + problem;
    throw error(error_category::bad_input, all);
  }
  decoder_config config;
  config.vocabulary = hf.vocab_size;
  config.width = hf.hidden_size;
  config.layers = hf.num_hidden_layers;
  config.dense_width = hf.intermediate_size;
  config.expert_width = hf.moe_intermediate_size;
  config.experts = hf.num_experts;
  config.active = hf.num_experts_per_tok;
  config.shared_width = hf.num_shared_experts * hf.moe_intermediate_size + hf.shared_expert_intermediate_size;
  config.shared_gate = hf.shared_expert_gate && config.shared_width > 0;
  for (index layer = 0; layer < hf.num_hidden_layers; ++layer) config.moe_layer.push_back(hf.is_moe_layer(layer));
  config.normalise_topk = hf.norm_topk_prob;
  config.router = hf.router;
  config.groups = hf.num_groups;
  config.kept_groups = hf.kept_groups;
  // DeepSeek-V2's gate either divides by the sum or scales, never both; V3's does both
  const bool either = hf.model_type == "deepseek_v2" && hf.norm_topk_prob && hf.num_experts_per_tok > 1;
  config.routed_scale = either ? 1 : hf.routed_scaling_factor;
  config.tied_head = hf.tie_word_embeddings;
  config.norm_epsilon = hf.rms_norm_eps;
  config.attention = {hf.num_attention_heads, hf.num_key_value_heads, hf.head_dim,     hf.rope_theta,
                      hf.rms_norm_eps,        hf.qk_norm,             hf.rope_scaling, hf.qkv_bias,
                      hf.score_factor,        hf.output_bias, hf.attention_sinks};
  config.window = hf.sliding_window;
  config.windowed_layer = hf.windowed_layers;
  config.expert_biases = hf.expert_biases;
  config.clamp = {hf.swiglu_limit, hf.swiglu_alpha};
  if (hf.kv_lora_rank > 0) {
    config.latent = {.query_rank = hf.q_lora_rank,
                     .key_value_rank = hf.kv_lora_rank,
                     .plain_width = hf.qk_nope_head_dim,
                     .position_width = hf.qk_rope_head_dim,
                     .value_width = hf.v_head_dim};
  }
  config.names.query_latent = hf.q_lora_rank > 0;
  if (hf.model_type == "qwen2_moe") config.names.shared = "shared_expert";
  if (hf.model_type == "mixtral") config.names.experts = expert_name_styles[1];
  if (hf.model_type == "gpt_oss") config.names = {.router = "router", .together = fused_layout::interleaved};
  config.prediction_layers = hf.num_nextn_predict_layers;
  config.max_positions = hf.max_position_embeddings;
  config.storage = storage;
  return config;
}

}  // namespace esft
