// SPDX-License-Identifier: Apache-2.0
// The whole way on a tiny random checkpoint of each further family: score, select, train, verify, merge, evaluate, generate.
#include "end_to_end/workspace.hpp"

#include <esft/io/model_directory.hpp>

#include <ostream>

namespace end_to_end_families_tests {

const std::string common = R"("vocab_size":264,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":3,"num_attention_heads":2,
  "max_position_embeddings":64,"rms_norm_eps":1e-6,"num_experts_per_tok":2,"bos_token_id":256,"eos_token_id":257,"pad_token_id":258,)";
const std::string latent = common + R"("num_key_value_heads":2,"kv_lora_rank":6,"qk_nope_head_dim":4,"qk_rope_head_dim":4,"v_head_dim":6,
  "n_routed_experts":6,"n_shared_experts":1,"moe_intermediate_size":8,"first_k_dense_replace":1,)";

const std::string mixtral = R"({"model_type":"mixtral",)" + common + R"("num_key_value_heads":1,"num_local_experts":6})";
const std::string qwen3 = R"({"model_type":"qwen3_moe",)" + common + R"("num_key_value_heads":1,"num_experts":6,
  "moe_intermediate_size":8,"norm_topk_prob":true})";

struct family {
  std::string name;
  std::string config;
  std::string expert;  ///< a tensor of expert 0 of layer 1, as adapters name it
  std::string first;   ///< lowest layer with experts
  std::string stored{};    ///< the tensor of the file that holds it, where that is another one
  bool together = false;   ///< written so, though the family's files are not
};
void PrintTo(const family& f, std::ostream* out) { *out << f.name; }

const family families[] = {
    {"deepseek_v2",
     R"({"model_type":"deepseek_v2",)" + latent + R"("q_lora_rank":null,"topk_method":"greedy","rope_theta":10000,"rope_scaling":
     {"type":"yarn","factor":4,"original_max_position_embeddings":16,"mscale":0.7,"mscale_all_dim":0.7}})",
     "model.layers.1.mlp.experts.0.up_proj.weight", "1"},
    {"deepseek_v2_groups",
     R"({"model_type":"deepseek_v2",)" + latent + R"("q_lora_rank":5,"topk_method":"group_limited_greedy","n_group":3,"topk_group":2,
     "routed_scaling_factor":2.0})",
     "model.layers.1.mlp.experts.0.up_proj.weight", "1"},
    {"deepseek_v3",
     R"({"model_type":"deepseek_v3",)" + latent + R"("q_lora_rank":5,"topk_method":"noaux_tc","scoring_func":"sigmoid","n_group":3,
     "topk_group":2,"norm_topk_prob":true,"routed_scaling_factor":2.5})",
     "model.layers.1.mlp.experts.0.up_proj.weight", "1"},
    {"mixtral", mixtral, "model.layers.1.block_sparse_moe.experts.0.w3.weight", "0"},
    {"mixtral_together", mixtral, "model.layers.1.mlp.experts.0.up_proj.weight", "0", "model.layers.1.mlp.experts.gate_up_proj", true},
    {"qwen2_moe",
     R"({"model_type":"qwen2_moe",)" + common + R"("num_key_value_heads":1,"num_experts":6,"moe_intermediate_size":8,
     "shared_expert_intermediate_size":12,"decoder_sparse_step":1,"mlp_only_layers":[0]})",
     "model.layers.1.mlp.experts.0.up_proj.weight", "1"},
    {"qwen3_moe_together", qwen3, "model.layers.1.mlp.experts.0.up_proj.weight", "0", "model.layers.1.mlp.experts.gate_up_proj", true},
    {"gpt_oss",
     R"({"model_type":"gpt_oss",)" + common + R"("num_key_value_heads":1,"num_local_experts":6,"head_dim":8,"sliding_window":8,
     "swiglu_limit":7.0,"rope_theta":150000,"rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":16,
     "beta_fast":32.0,"beta_slow":1.0,"truncate":false}})",
     "model.layers.1.mlp.experts.0.gate_up_proj", "0", "model.layers.1.mlp.experts.gate_up_proj"},
};

class families_of_models : public end_to_end::workspace, public testing::WithParamInterface<family> {};

TEST_P(families_of_models, go_the_whole_way) {
  std::filesystem::remove_all(at("model"));
  write_model_of("model", GetParam().config, 1, GetParam().together);
  EXPECT_NE(esft::model_directory::open(at("model")).find(GetParam().expert), nullptr);
  select();
  const std::string experts = end_to_end::content(at("experts.json"));
  EXPECT_NE(experts.find("\"" + GetParam().first + "\""), std::string::npos) << "layers are counted from the bottom: " << experts;
  EXPECT_EQ(experts.find("\"0\"") == std::string::npos, GetParam().first == "1") << "dense layers are absent";
  static_cast<void>(succeed(train("run", "3")));
  static_cast<void>(succeed({"verify", "model", "run"}));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "run/adapter", "merged"}));
  const auto base_file = esft::safetensors_file::open(at("model/model.safetensors"));
  const auto merged_file = esft::safetensors_file::open(at("merged/model.safetensors"));
  EXPECT_EQ(merged_file.header_text(), base_file.header_text()) << "names, shapes, types and their order are those of the base";
  EXPECT_NE(base_file.find(GetParam().stored.empty() ? GetParam().expert : GetParam().stored), nullptr);
  const auto eval = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "eval");
    words.insert(words.end(), {"--data", "task.jsonl", "--length", "24", "--json"});
    return succeed(words);
  };
  const std::string merged = eval({"--model", "merged"});
  EXPECT_EQ(eval({"--model", "model", "--adapter", "run"}), merged);
  EXPECT_NE(eval({"--model", "model"}), merged);
  EXPECT_EQ(succeed({"generate", "--model", "merged", "--prompt", "1+1", "--max-new-tokens", "4"}),
            succeed({"generate", "--model", "model", "--adapter", "run", "--prompt", "1+1", "--max-new-tokens", "4"}));
}

TEST_P(families_of_models, low_rank_factors_of_experts_and_attention_merge) {
  std::filesystem::remove_all(at("model"));
  write_model_of("model", GetParam().config, 2, GetParam().together);
  static_cast<void>(succeed({"train", "--model", "model", "--data", "task.jsonl", "--method", "lora", "--rank", "2", "--targets",
                             "attention,experts", "--steps", "3", "--lr", "0.01", "--length", "24", "--out", "run"}));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "run/adapter", "merged"}));
}

class one_model_in_two_layouts : public end_to_end::workspace {};

TEST_F(one_model_in_two_layouts, has_one_digest_and_its_adapters_fit_both) {
  std::filesystem::remove_all(at("model"));
  write_model_of("model", qwen3, 3, true);
  write_model_of("one_by_one", qwen3, 3, false);
  EXPECT_NE(end_to_end::content(at("model/model.safetensors")), end_to_end::content(at("one_by_one/model.safetensors")));
  EXPECT_EQ(esft::model_directory::open(at("model")).digest(), esft::model_directory::open(at("one_by_one")).digest());
  select();
  static_cast<void>(succeed(train("run", "2")));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"}));
  static_cast<void>(succeed({"merge", "--model", "one_by_one", "--adapter", "run/adapter", "--out", "merged_one_by_one"}));
  static_cast<void>(succeed({"verify", "one_by_one", "run/adapter", "merged"}));
  EXPECT_EQ(esft::model_directory::open(at("merged")).digest(), esft::model_directory::open(at("merged_one_by_one")).digest());
}

class half_precision : public end_to_end::workspace {};

TEST_F(half_precision, goes_the_whole_way_in_its_own_type) {
  std::filesystem::remove_all(at("model"));
  write_model_of("model", qwen3, 4, false, esft::dtype::float16);
  select();
  static_cast<void>(succeed(train("run", "3")));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "run/adapter", "merged"}));
  const auto merged = esft::safetensors_file::open(at("merged/model.safetensors"));
  for (const auto& record : merged.tensors()) {
    EXPECT_EQ(record.type, esft::dtype::float16) << record.name;
  }
  const std::vector<std::string> eval = {"eval", "--data", "task.jsonl", "--length", "24", "--json", "--model"};
  const auto of = [&](std::vector<std::string> words) {
    words.insert(words.begin(), eval.begin(), eval.end());
    return succeed(words);
  };
  EXPECT_EQ(of({"model", "--adapter", "run"}), of({"merged"}));
  const auto refused = run({"eval", "--model", "model", "--data", "task.jsonl", "--dtype", "bfloat16"});
  EXPECT_EQ(refused.code, 2) << refused.err;
}

INSTANTIATE_TEST_SUITE_P(each, families_of_models, testing::ValuesIn(families), [](const auto& info) { return info.param.name; });

}  // namespace end_to_end_families_tests
