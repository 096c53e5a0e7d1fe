// SPDX-License-Identifier: Apache-2.0
#include <esft/io/hf_config_json.hpp>

#include <cmath>
#include <string>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace hf_config_tests {

using esft::hf_config;
using esft::input_error_code;
using esft::test::expect_input_error;

const std::string common = R"("vocab_size":259,"hidden_size":64,"intermediate_size":128,"num_hidden_layers":4,"num_attention_heads":4,
  "max_position_embeddings":512,"num_experts_per_tok":2,"rms_norm_eps":1e-6,"hidden_act":"silu","use_cache":true,)";
const std::string deepseek =
    R"({"model_type":"deepseek",)" + common + R"("n_routed_experts":8,"n_shared_experts":2,"moe_intermediate_size":16,
  "first_k_dense_replace":1,"moe_layer_freq":1,"scoring_func":"softmax","aux_loss_alpha":0.001,"rope_scaling":null,"num_key_value_heads":2,"eos_token_id":[256,257],
  "bos_token_id":null,"attention_bias":false})";

hf_config parse(const std::string& text) { return esft::parse_hf_config(text, "config.json"); }
std::string with(std::string text, const std::string& member) { return text.insert(text.size() - 1, "," + member); }
std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at == std::string::npos) throw std::runtime_error("no " + from);
  return text.replace(at, from.size(), to);
}

TEST(hf_config, reads_deepseek) {
  const hf_config config = parse(deepseek);
  EXPECT_EQ(config.num_experts, 8);
  EXPECT_EQ(config.num_experts_per_tok, 2);
  EXPECT_EQ(config.num_shared_experts, 2);
  EXPECT_EQ(config.moe_intermediate_size, 16);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.num_key_value_heads, 2);
  EXPECT_EQ(config.eos_token_id, 256);
  EXPECT_FALSE(config.bos_token_id.has_value());
  EXPECT_EQ(config.qk_norm, esft::query_key_norm::none);
  EXPECT_FALSE(config.is_moe_layer(0));
  EXPECT_TRUE(config.is_moe_layer(1));
  EXPECT_EQ(config.aux_loss_alpha, 0.001);
}

TEST(hf_config, reads_qwen3_moe) {
  const hf_config config =
      parse(R"({"model_type":"qwen3_moe",)" + common + R"("num_experts":8,"moe_intermediate_size":16,"head_dim":32,"norm_topk_prob":true,
    "decoder_sparse_step":2,"mlp_only_layers":[3],"rope_theta":1000000,"sliding_window":null,"use_sliding_window":false,"tie_word_embeddings":true})");
  EXPECT_EQ(config.head_dim, 32) << "need not be hidden_size / heads in this family";
  EXPECT_EQ(config.qk_norm, esft::query_key_norm::per_head);
  EXPECT_TRUE(config.norm_topk_prob);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_FALSE(config.is_moe_layer(0));
  EXPECT_TRUE(config.is_moe_layer(1));
  EXPECT_FALSE(config.is_moe_layer(3));
}

TEST(hf_config, reads_olmoe) {
  const hf_config config = parse(R"({"model_type":"olmoe",)" + common +
                                 R"("num_experts":8,"clip_qkv":null,"rope_parameters":{"rope_type":"default","rope_theta":500000.0}})");
  EXPECT_EQ(config.moe_intermediate_size, 128) << "intermediate_size is the width of an expert";
  EXPECT_EQ(config.qk_norm, esft::query_key_norm::full_width);
  EXPECT_EQ(config.rope_theta, 500000);
  EXPECT_TRUE(config.is_moe_layer(0));
}

TEST(hf_config, reads_the_expert_count_under_its_older_and_newer_name) {
  const auto text = [](const std::string& counts) {
    return R"({"model_type":"qwen3_moe",)" + common + counts + R"("moe_intermediate_size":16,"rope_theta":1000000})";
  };
  EXPECT_EQ(parse(text(R"("num_experts":8,)")).num_experts, 8);
  EXPECT_EQ(parse(text(R"("num_local_experts":8,)")).num_experts, 8) << "transformers 5 writes this name";
  EXPECT_EQ(parse(text(R"("num_experts":8,"num_local_experts":8,)")).num_experts, 8);
  expect_input_error(input_error_code::inconsistent_config, [&] { parse(text(R"("num_experts":8,"num_local_experts":9,)")); });
  expect_input_error(input_error_code::inconsistent_config, [&] { parse(text("")); });
}

TEST(hf_config, writes_deepseek_so_that_it_reads_back) {
  hf_config config = parse(deepseek);
  config.routed_scaling_factor = 2.5;
  config.torch_dtype = "float32";
  EXPECT_EQ(parse(esft::write_hf_config(config)), config);
  config.num_experts_per_tok = 9;
  EXPECT_THROW(esft::write_hf_config(config), esft::contract_violation);
}

TEST(hf_config, refuses_features_it_would_compute_wrongly) {
  for (const char* member : {R"("rope_parameters":{"rope_type":"yarn","factor":40})", R"("rope_parameters":{"rope_type":"llama3"})",
                             R"("rope_parameters":{"rope_type":"default","partial_rotary_factor":0.5})", R"("attention_dropout":0.1)",
                             R"("clip_qkv":8.0)", R"("use_sliding_window":true)",
                             R"("n_group":8)", R"("topk_method":"noaux_tc")", R"("quantization_config":{"bits":4})",
                             R"("layer_types":["sliding_attention"])", R"("mlp_bias":true)"}) {
    expect_input_error(input_error_code::unsupported_feature, [&] { parse(with(deepseek, member)); }, "supported");
  }
  const auto expect_refused = [](const std::string& from, const std::string& to) {
    expect_input_error(input_error_code::unsupported_feature, [&] { parse(replaced(deepseek, from, to)); });
  };
  expect_refused(R"("rope_scaling":null)", R"("rope_scaling":{"type":"yarn"})");
  expect_refused(R"("attention_bias":false)", R"("attention_bias":true)");
  expect_refused(R"("softmax")", R"("sigmoid")");
  expect_refused(R"("silu")", R"("gelu")");
  expect_refused(R"("deepseek")", R"("deepseek_v9")");
  const std::string quantised = R"("quantization_config":{"quant_method":"fp8"})";
  expect_input_error(input_error_code::unsupported_feature, [&] { parse(with(deepseek, quantised)); }, "('fp8')");
}

TEST(hf_config, takes_what_says_the_same_in_other_words) {
  EXPECT_NO_THROW(parse(with(deepseek, R"("attention_dropout":0)")));  // 0 as well as 0.0
  EXPECT_NO_THROW(parse(with(deepseek, R"("attention_dropout":0.0)")));
  const std::string qwen = R"({"model_type":"qwen3_moe",)" + common + R"("num_experts":8,"moe_intermediate_size":16,"norm_topk_prob":true,
    "rope_theta":1000000})";
  EXPECT_NO_THROW(parse(with(qwen, R"("qkv_bias":false,"use_qk_norm":true,"shared_expert_intermediate_size":0)")));
  for (const char* other : {R"("qkv_bias":true)", R"("use_qk_norm":false)", R"("shared_expert_intermediate_size":64)"}) {
    expect_input_error(input_error_code::unsupported_feature, [&] { parse(with(qwen, other)); }, "not supported");
  }
}

TEST(hf_config, refuses_keys_that_nobody_knows_by_name) {
  EXPECT_NO_THROW(parse(with(deepseek, R"("initializer_range":0.5)"))) << "changes nothing that is computed";
  expect_input_error(input_error_code::unsupported_feature, [&] { parse(with(deepseek, R"("residual_multiplier":0.5)")); },
                     "'/residual_multiplier': is not known");
}

const std::string latent = R"({"model_type":"deepseek_v2",)" + common +
                           R"("n_routed_experts":8,"moe_intermediate_size":16,"kv_lora_rank":12,"q_lora_rank":null,"qk_nope_head_dim":6,
  "qk_rope_head_dim":4,"v_head_dim":5,"head_dim":4,"topk_method":"greedy","scoring_func":"softmax","norm_topk_prob":false,
  "rope_theta":10000,"rope_scaling":{"type":"yarn","factor":40,"beta_fast":32,"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707,
  "original_max_position_embeddings":4096}})";

TEST(hf_config, reads_latent_attention_with_yarn) {
  const hf_config config = parse(latent);
  EXPECT_EQ(config.head_dim, 10) << "not what transformers writes there";
  EXPECT_EQ(config.q_lora_rank, 0);
  EXPECT_EQ(config.router, esft::router_kind::softmax);
  EXPECT_EQ(config.rope_scaling.factor, 40);
  EXPECT_EQ(config.rope_scaling.magnitude, 1) << "the two scales divide each other away";
  EXPECT_NEAR(config.score_factor / std::sqrt(192.0), 0.1147213867929261, 1e-15) << "with the head width of DeepSeek-V2-Lite";
  const hf_config uneven = parse(replaced(latent, R"("mscale_all_dim":0.707)", R"("mscale_all_dim":0)"));
  EXPECT_NEAR(uneven.rope_scaling.magnitude, 1.2608037774058554, 1e-15);
  EXPECT_EQ(uneven.score_factor, 1);
  expect_input_error(input_error_code::unsupported_feature, [] { parse(replaced(latent, R"("yarn")", R"("linear")")); }, "rope_scaling");
  expect_input_error(input_error_code::inconsistent_config, [] { parse(replaced(latent, R"("v_head_dim":5)", R"("v_head_dim":11)")); },
                     "v_head_dim");
}

TEST(hf_config, reads_the_routers_of_deepseek) {
  const std::string grouped =
      replaced(latent, R"("topk_method":"greedy")", R"("topk_method":"group_limited_greedy","n_group":4,"topk_group":2)");
  EXPECT_EQ(parse(grouped).router, esft::router_kind::group_limited);
  EXPECT_EQ(parse(grouped).num_groups, 4);
  EXPECT_EQ(parse(grouped).kept_groups, 2);
  const std::string named = replaced(grouped, "group_limited_greedy", "esft_grouped_experts");
  const std::string bound = replaced(named, R"("topk_group":2)", R"("topk_group":1)");
  EXPECT_EQ(parse(bound).router, esft::router_kind::grouped_experts);
  expect_input_error(input_error_code::inconsistent_config, [&] { parse(replaced(bound, R"("topk_group":1)", R"("topk_group":2)")); },
                     "whole groups");
  hf_config simple = parse(with(deepseek, R"("topk_method":"esft_grouped_experts","n_group":4,"topk_group":1)"));
  EXPECT_EQ(simple.router, esft::router_kind::grouped_experts);
  simple.torch_dtype = "float32";
  EXPECT_EQ(parse(esft::write_hf_config(simple)), simple);
  expect_input_error(input_error_code::inconsistent_config, [&] { parse(replaced(grouped, R"("n_group":4)", R"("n_group":3)")); },
                     "groups");
  expect_input_error(input_error_code::inconsistent_config, [&] { parse(replaced(grouped, R"("n_group":4,)", "")); }, "n_group");
  std::string third = replaced(replaced(grouped, "deepseek_v2", "deepseek_v3"), "group_limited_greedy", "noaux_tc");
  third = replaced(third, R"("softmax")", R"("sigmoid")");
  EXPECT_EQ(parse(third).router, esft::router_kind::sigmoid);
  const std::string unsaid = replaced(third, R"("norm_topk_prob":false,)", "");
  EXPECT_TRUE(parse(unsaid).norm_topk_prob);  // as in its authors' class
  EXPECT_EQ(parse(unsaid).routed_scaling_factor, 2.5);
  const hf_config said = parse(with(third, R"("routed_scaling_factor":1.0)"));
  EXPECT_FALSE(said.norm_topk_prob);
  EXPECT_EQ(said.routed_scaling_factor, 1.0);
  expect_input_error(input_error_code::unsupported_feature, [&] { parse(replaced(third, R"("sigmoid")", R"("softmax")")); },
                     "scoring_func");
}

TEST(hf_config, reads_mixtral_and_qwen2_moe) {
  const hf_config mixtral = parse(R"({"model_type":"mixtral",)" + common + R"("num_local_experts":8,"num_key_value_heads":2,
    "sliding_window":null,"rope_theta":1000000.0,"router_aux_loss_coef":0.02})");
  EXPECT_TRUE(mixtral.norm_topk_prob);
  EXPECT_EQ(mixtral.moe_intermediate_size, 128);
  expect_input_error(input_error_code::unsupported_feature, [] {
    parse(R"({"model_type":"mixtral",)" + common + R"("num_local_experts":8,"sliding_window":4096})");
  }, "sliding_window");
  const std::string text = R"({"model_type":"qwen2_moe",)" + common + R"("num_experts":8,"moe_intermediate_size":16,
    "shared_expert_intermediate_size":48,"sliding_window":32768,"max_window_layers":21,"use_sliding_window":false,"rope_theta":1e6})";
  const hf_config qwen = parse(text);
  EXPECT_TRUE(qwen.qkv_bias);
  EXPECT_TRUE(qwen.shared_expert_gate);
  EXPECT_EQ(qwen.shared_expert_intermediate_size, 48);
  EXPECT_FALSE(parse(with(text, R"("qkv_bias":false)")).qkv_bias);
}

TEST(hf_config, reads_gpt_oss) {
  const std::string published =
      R"({"model_type":"gpt_oss",)" + common + R"("num_local_experts":8,"experts_per_token":2,"head_dim":32,"num_key_value_heads":2,
    "attention_bias":true,"sliding_window":128,"initial_context_length":4096,"swiglu_limit":7.0,"rope_theta":150000,"rope_scaling":
    {"rope_type":"yarn","factor":32.0,"beta_fast":32.0,"beta_slow":1.0,"original_max_position_embeddings":4096,"truncate":false},
    "layer_types":["sliding_attention","full_attention","full_attention","sliding_attention"]})";
  const hf_config config = parse(published);
  EXPECT_EQ(config.windowed_layers, (std::vector<bool>{true, false, false, true}));
  EXPECT_EQ(config.sliding_window, 128);
  EXPECT_TRUE(config.qkv_bias && config.output_bias && config.attention_sinks && config.expert_biases && config.norm_topk_prob);
  EXPECT_EQ(config.swiglu_limit, 7);
  EXPECT_EQ(config.swiglu_alpha, 1.702);
  EXPECT_EQ(config.moe_intermediate_size, 128);
  EXPECT_FALSE(config.rope_scaling.truncate);
  EXPECT_NEAR(config.rope_scaling.magnitude, 0.1 * std::log(32.0) + 1, 1e-12);
  const std::string layers = R"("layer_types":["sliding_attention","full_attention","full_attention","sliding_attention"])";
  EXPECT_EQ(parse(replaced(published, layers, R"("_name_or_path":"x")")).windowed_layers, (std::vector<bool>{true, false, true, false}))
      << "every other layer has a window, the first one has";
  const std::string full = R"("layer_types":["full_attention","full_attention","full_attention","full_attention"])";
  EXPECT_TRUE(parse(replaced(published, layers, full)).windowed_layers.empty());
  const auto expect_refused = [&](input_error_code code, const std::string& text, const std::string& word) {
    expect_input_error(code, [&] { parse(text); }, word);
  };
  expect_refused(input_error_code::unsupported_feature, replaced(published, "full_attention", "chunked_attention"), "chunked_attention");
  expect_refused(input_error_code::unsupported_feature, replaced(published, R"("experts_per_token":2)", R"("experts_per_token":3)"),
                 "experts_per_token");
  expect_refused(input_error_code::inconsistent_config, replaced(published, R"("full_attention",)", ""), "layer_types");
  expect_refused(input_error_code::inconsistent_config, replaced(published, R"("sliding_window":128,)", ""), "sliding_window");
  expect_refused(input_error_code::inconsistent_config, replaced(published, "rope_scaling", "_name_or_path"), "rope_scaling");
  expect_refused(input_error_code::unsupported_feature,
                 with(published, R"("quantization_config":{"quant_method":"mxfp4","modules_to_not_convert":[]})"), "mxfp4");
}

TEST(hf_config, lists_all_problems_at_once) {
  expect_input_error(input_error_code::inconsistent_config, [&] {
    parse(replaced(replaced(deepseek, R"("n_routed_experts":8)", R"("n_routed_experts":8.9)"), R"("vocab_size":259,)", ""));
  }, "n_routed_experts");
  try {
    parse(replaced(replaced(replaced(deepseek, R"("num_experts_per_tok":2)", R"("num_experts_per_tok":9)"), R"("num_key_value_heads":2)",
                            R"("num_key_value_heads":3)"),
                   R"("rms_norm_eps":1e-6)", R"("rms_norm_eps":0)"));
    FAIL();
  } catch (const esft::input_error& problem) {
    for (const char* part : {"num_experts_per_tok 9", "num_key_value_heads 3", "rms_norm_eps"}) {
      EXPECT_NE(std::string(problem.what()).find(part), std::string::npos) << problem.what();
    }
  }
}

TEST(hf_config, integers_must_be_integers_in_range) {
  for (const char* value : {"0", "-1", "9223372036854775808", "1e30", "8.9", "\"8\"", "true", "null", "4097"}) {
    SCOPED_TRACE(value);
    expect_input_error(
        input_error_code::inconsistent_config,
        [&] { parse(replaced(deepseek, R"("n_routed_experts":8)", std::string(R"("n_routed_experts":)") + value)); }, "experts");
  }
  for (const char* value : {"2", "255", "256", "257", "512", "4096"}) {
    EXPECT_NO_THROW(parse(replaced(deepseek, R"("n_routed_experts":8)", std::string(R"("n_routed_experts":)") + value))) << value;
  }
}

TEST(hf_config, a_token_that_there_is_not_is_said_in_several_ways) {
  for (const char* none : {"-1", "null", "[]"}) {
    EXPECT_FALSE(parse(with(deepseek, R"("pad_token_id":)" + std::string(none))).pad_token_id.has_value()) << none;
  }
  EXPECT_EQ(parse(with(deepseek, R"("pad_token_id":258)")).pad_token_id, 258);
  for (const char* wrong : {"-2", "259"}) {
    expect_input_error(
        input_error_code::inconsistent_config, [&] { parse(with(deepseek, R"("pad_token_id":)" + std::string(wrong))); }, "pad_token_id");
  }
}

TEST(hf_config, an_unsaid_rope_theta_is_the_family_s_own_or_an_error) {
  EXPECT_EQ(parse(deepseek).rope_theta, 1e4);
  EXPECT_EQ(parse(with(deepseek, R"("rope_theta":500)")).rope_theta, 500);
  expect_input_error(input_error_code::inconsistent_config, [&] { parse(with(deepseek, R"("rope_theta":0)")); }, "rope_theta");
  const std::string mixtral = R"({"model_type":"mixtral",)" + common + R"("num_local_experts":8})";
  EXPECT_EQ(parse(mixtral).rope_theta, 1e6);
  const std::string olmoe = R"({"model_type":"olmoe",)" + common + R"("num_experts":8})";
  EXPECT_EQ(parse(olmoe).rope_theta, 1e4);
  const std::string experts = R"("num_experts":8,"moe_intermediate_size":16,"shared_expert_intermediate_size":0})";
  for (const char* family : {"qwen2_moe", "qwen3_moe"}) {
    const std::string qwen = R"({"model_type":")" + std::string(family) + "\"," + common + experts;
    EXPECT_EQ(parse(with(qwen, R"("rope_theta":1000000)")).rope_theta, 1e6);
    EXPECT_EQ(parse(with(qwen, R"("rope_parameters":{"rope_type":"default","rope_theta":5000})")).rope_theta, 5000);
    expect_input_error(input_error_code::inconsistent_config, [&] { parse(qwen); }, "'/rope_theta': is missing");
    expect_input_error(
        input_error_code::inconsistent_config, [&] { parse(with(qwen, R"("rope_parameters":{"rope_type":"default"})")); }, "rope_theta");
  }
}

TEST(hf_config, validate_names_every_contradiction) {
  const auto problems = [](auto change) {
    hf_config config = parse(deepseek);
    change(config);
    return config.validate().size();
  };
  EXPECT_EQ(problems([](hf_config&) {}), 0U);
  EXPECT_EQ(problems([](hf_config& c) { c.num_experts_per_tok = 9; }), 1U);
  EXPECT_EQ(problems([](hf_config& c) { c.num_key_value_heads = 3; }), 1U);
  EXPECT_EQ(problems([](hf_config& c) { c.hidden_size = 65; }), 1U);
  EXPECT_EQ(problems([](hf_config& c) { c.head_dim = 15, c.hidden_size = 60; }), 1U);
  EXPECT_EQ(problems([](hf_config& c) { c.first_k_dense_replace = 4; }), 1U) << "no MoE layer is left";
  EXPECT_EQ(problems([](hf_config& c) { c.eos_token_id = 259; }), 1U);
  EXPECT_EQ(problems([](hf_config& c) { c.mlp_only_layers = {4}; }), 1U);
  EXPECT_EQ(problems([](hf_config& c) { c.rope_theta = 0, c.rms_norm_eps = 2, c.routed_scaling_factor = 0, c.aux_loss_alpha = -1; }), 4U);
  EXPECT_EQ(problems([](hf_config& c) { c.moe_layer_freq = 0; }), 1U);
}

}  // namespace hf_config_tests
