// SPDX-License-Identifier: Apache-2.0
// DeepSeek-V2-Lite from its config.json, to the last parameter: counted from the layout, nothing is allocated.
#include <esft/backend/reference_backend.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/model/config_from_hf.hpp>
#include <esft/model/parameter_layout.hpp>
#include <esft/peft/low_rank_layers.hpp>
#include <esft/peft/plans.hpp>

#include <cstdint>
#include <optional>
#include <set>
#include <utility>

#include <gtest/gtest.h>

namespace published_sizes_tests {

using esft::expert_index;
using esft::layer_index;
using esft::parameter_role;

constexpr const char* v2_lite = R"({
  "architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false, "aux_loss_alpha": 0.001, "bos_token_id": 100000,
  "eos_token_id": 100001, "first_k_dense_replace": 1, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 10944,
  "kv_lora_rank": 512, "max_position_embeddings": 163840, "model_type": "deepseek_v2", "moe_intermediate_size": 1408,
  "moe_layer_freq": 1, "n_group": 1, "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false,
  "num_attention_heads": 16, "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": null,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-6,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                   "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "seq_aux": true, "tie_word_embeddings": false,
  "topk_group": 1, "topk_method": "greedy", "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 102400})";

esft::parameter_inventory inventory() {
  const auto config = esft::config_from_hf(esft::parse_hf_config(v2_lite, "config.json"), esft::dtype::bfloat16);
  return esft::inventory<esft::reference_backend<esft::bf16>>(config);
}

std::int64_t elements_of(const esft::parameter_inventory& model, const std::set<parameter_role>& roles = {}) {
  std::int64_t sum = 0;
  for (const auto& entry : model) sum += roles.empty() || roles.contains(entry.key.role) ? entry.elements : 0;
  return sum;
}

/// The first `count` of the 26 x 64 experts, layer by layer.
esft::expert_set first_experts(int count) {
  esft::expert_set result;
  for (int l = 1; l < 27; ++l) {
    auto& here = result.layers[layer_index{l}];
    for (int e = 0; e < 64 && count > 0; ++e, --count) here.emplace_back(e);
  }
  return result;
}

TEST(deepseek_v2_lite, has_the_published_number_of_parameters) {
  const auto model = inventory();
  EXPECT_EQ(elements_of(model), 15'706'484'224);
  EXPECT_EQ(elements_of(model, {parameter_role::shared_gate_up, parameter_role::shared_down}), 449'839'104);
}

TEST(deepseek_v2_lite, esft_trains_whole_experts_of_it) {
  const auto model = inventory();
  const auto trained = [&](int count) { return esft::trained_elements(esft::esft_plan{first_experts(count)}.trainable(model), model); };
  EXPECT_EQ(trained(1), 8'650'752);
  EXPECT_EQ(trained(1) * static_cast<std::int64_t>(sizeof(esft::bf16)), 17'301'504);
  EXPECT_EQ(trained(83), 718'012'416);   // what the published selection of a task holds
  EXPECT_EQ(trained(100), 865'075'200);  // the published adapter of the same task
}

TEST(deepseek_v2_lite, low_rank_factors_of_it) {
  const auto model = inventory();
  const auto factors = [&](const std::set<parameter_role>& targets, std::optional<esft::expert_set> experts = {}) {
    const esft::lora_plan plan{{.rank = 8, .alpha = 16}, targets, std::move(experts)};
    return esft::trained_elements(plan.trainable(model), model);
  };
  EXPECT_EQ(factors({parameter_role::query, parameter_role::key_value_a, parameter_role::key_value_b, parameter_role::attention_output}),
            27 * 131'584);
  // Gate and up are one matrix here and share their A (decision 0009): r (3 I + 2 D). As matrices of their own they would have two A's,
  // r (3 I + 3 D), which is what other tools count.
  EXPECT_EQ(factors({parameter_role::expert_gate_up, parameter_role::expert_down}, first_experts(1)), 66'560);
  esft::parameter_inventory apart;
  for (const auto role : {parameter_role::dense_gate_up, parameter_role::shared_gate_up}) {
    apart.push_back({{role, layer_index{0}}, 1408 * 2048, 0, 1408, 2048});
  }
  apart.push_back({{parameter_role::dense_down, layer_index{0}}, 2048 * 1408, 0, 2048, 1408});
  EXPECT_EQ(esft::trained_elements(esft::lora_plan{{.rank = 8}, {}, {}}.trainable(apart), apart), 82'944);
  EXPECT_EQ(esft::low_rank_extents(apart, {}).front().elements(1, 8), 82'944);
}

}  // namespace published_sizes_tests
