// SPDX-License-Identifier: Apache-2.0
// The whole way on a tiny random checkpoint of each further family: score, select, train, verify, merge, evaluate, generate.
#include "end_to_end/workspace.hpp"

#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors.hpp>

#include <initializer_list>
#include <ostream>
#include <span>

namespace end_to_end_families_tests {

const std::string common = R"("vocab_size":264,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":3,"num_attention_heads":2,
  "max_position_embeddings":64,"rms_norm_eps":1e-6,"num_experts_per_tok":2,"bos_token_id":256,"eos_token_id":257,"pad_token_id":258,)";
const std::string latent = common + R"("num_key_value_heads":2,"kv_lora_rank":6,"qk_nope_head_dim":4,"qk_rope_head_dim":4,"v_head_dim":6,
  "n_routed_experts":6,"n_shared_experts":1,"moe_intermediate_size":8,"first_k_dense_replace":1,)";

const std::string mixtral = R"({"model_type":"mixtral",)" + common + R"("num_key_value_heads":1,"num_local_experts":6})";
const std::string qwen3 = R"({"model_type":"qwen3_moe",)" + common + R"("num_key_value_heads":1,"num_experts":6,
  "moe_intermediate_size":8,"norm_topk_prob":true,"rope_theta":1000000})";

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
     "shared_expert_intermediate_size":12,"rope_theta":1000000,"decoder_sparse_step":1,"mlp_only_layers":[0]})",
     "model.layers.1.mlp.experts.0.up_proj.weight", "1"},
    {"qwen3_moe_together", qwen3, "model.layers.1.mlp.experts.0.up_proj.weight", "0", "model.layers.1.mlp.experts.gate_up_proj", true},
    {"qwen3_moe", qwen3, "model.layers.1.mlp.experts.0.up_proj.weight", "0"},
    {"olmoe", R"({"model_type":"olmoe",)" + common + R"("num_key_value_heads":2,"num_experts":6,"rope_theta":10000})",
     "model.layers.1.mlp.experts.0.up_proj.weight", "0"},
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

TEST_P(families_of_models, logs_of_the_routing_give_the_scores_again) {
  std::filesystem::remove_all(at("model"));
  write_model_of("model", GetParam().config, 3, GetParam().together);
  static_cast<void>(succeed({"score", "--model", "model", "--data", "task.jsonl", "--length", "24", "--log", "log", "--out", "seen.json"}));
  for (const std::string layer : {"0", "1", "2"}) {
    EXPECT_EQ(std::filesystem::exists(at("log/expert_weights_" + layer + ".txt")), layer >= GetParam().first) << layer;
  }
  static_cast<void>(succeed({"score", "--trace", "log", "--experts", "6", "--top-k", "2", "--out", "read.json"}));
  EXPECT_EQ(end_to_end::content(at("read.json")), end_to_end::content(at("seen.json")));
  EXPECT_NE(end_to_end::content(at("seen.json")).find("\"2\""), std::string::npos);
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
  static_cast<void>(succeed({"compose", "run", "run", "--overlap", "mean", "--out", "mean", "--quiet"}));
  EXPECT_EQ(of({"model", "--adapter", "mean"}), of({"merged"}));
  static_cast<void>(succeed({"train", "--model", "model", "--data", "task.jsonl", "--method", "lora", "--rank", "2", "--targets",
                             "attention,experts", "--steps", "3", "--lr", "0.01", "--length", "24", "--out", "lora"}));
  for (const char* layout : {"parameters", "modules"}) {
    static_cast<void>(
        succeed({"convert", "--model", "model", "--adapter", "lora", "--to", "peft", "--layout", layout, "--out", layout, "--quiet"}));
    const auto pairs = esft::safetensors_file::open(at(layout) / "adapter_model.safetensors");
    for (const auto& record : pairs.tensors()) EXPECT_EQ(record.type, esft::dtype::float16) << record.name;
    EXPECT_EQ(of({"model", "--adapter", layout}), of({"model", "--adapter", "lora"})) << layout;
  }
  const auto refused = run({"eval", "--model", "model", "--data", "task.jsonl", "--dtype", "bfloat16"});
  EXPECT_EQ(refused.code, 2) << refused.err;
}

/// A checkpoint that carries a tied head a second time and rates of rotary embedding, as published ones do.
class published_files : public end_to_end::workspace {
 protected:
  void SetUp() override {
    workspace::SetUp();
    std::filesystem::remove_all(at("model"));
    write_model_of("plain", R"({"tie_word_embeddings":true,)" + qwen3.substr(1), 5);
    std::filesystem::create_directories(at("model"));
    std::filesystem::copy_file(at("plain/config.json"), at("model/config.json"));
    const auto plain = esft::safetensors_file::open(at("plain/model.safetensors"));
    std::vector<esft::tensor_source> sources;
    for (const auto& record : plain.tensors()) sources.push_back(esft::file_source(plain, record));
    const auto& embedding = plain.at("model.embed_tokens.weight");
    std::vector<std::byte> head(static_cast<std::size_t>(embedding.byte_size()));
    plain.read(embedding, head);
    const std::vector<float> rates{1, 0.25F, 0.125F, 0.01F};
    sources.push_back(esft::memory_source("lm_head.weight", embedding.type, embedding.shape, head));
    sources.push_back(esft::memory_source(rotary, esft::dtype::float32, {4}, std::as_bytes(std::span(rates))));
    esft::write_safetensors(at("model/model.safetensors"), sources);
  }
  const std::string rotary = "model.layers.0.self_attn.rotary_emb.inv_freq";
};

TEST_F(published_files, are_taken_as_they_are_and_merged_models_keep_what_was_not_read) {
  const auto eval = [&](const std::string& model) { return run({"eval", "--model", model, "--data", "task.jsonl", "--length", "24"}); };
  const auto said = eval("model");
  EXPECT_EQ(said.out, eval("plain").out);
  EXPECT_NE(said.err.find("lm_head.weight is not read"), std::string::npos) << said.err;
  EXPECT_NE(said.err.find(rotary + " is not read"), std::string::npos) << said.err;
  EXPECT_EQ(eval("plain").err.find("is not read"), std::string::npos);
  select();
  static_cast<void>(succeed(train("run", "2")));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "run/adapter", "merged"}));
  const auto base = esft::model_directory::open(at("model"));
  const auto merged = esft::model_directory::open(at("merged"));
  for (const std::string& name : {std::string("lm_head.weight"), rotary}) EXPECT_EQ(merged.tensor_digest(name), base.tensor_digest(name));
  EXPECT_NE(eval("merged").out, said.out);
}

TEST_F(published_files, with_a_tied_head_twice_do_not_let_the_embedding_be_trained) {
  const std::vector<std::string> full{"train", "--data", "task.jsonl", "--method", "full",
                                      "--steps", "2", "--length", "24", "--lr", "0.01"};  // less is lost in rounding to bf16
  const auto train_full = [&](const std::string& model) {
    auto words = full;
    words.insert(words.end(), {"--model", model, "--out", model + "_run"});
    return run(words);
  };
  const auto trained = train_full("plain");
  EXPECT_EQ(trained.code, 0) << trained.err << trained.out;
  const auto refused = train_full("model");
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("holds a copy as lm_head.weight"), std::string::npos) << refused.err;
}

class quantised_files : public end_to_end::workspace {};

TEST_F(quantised_files, of_fp8_are_refused_clearly) {
  const std::vector<std::string> eval{"eval", "--model", "model", "--data", "task.jsonl", "--length", "24"};
  const auto refused = [&](std::initializer_list<const char*> parts) {
    const auto result = run(eval);
    EXPECT_EQ(result.code, 3) << result.err;
    for (const char* part : parts) EXPECT_NE(result.err.find(part), std::string::npos) << part << " in " << result.err;
  };
  static_cast<void>(succeed(eval));
  // the configuration of DeepSeek-V3, with weights that somebody has already converted
  std::string config = end_to_end::content(at("model/config.json"));
  config.insert(config.rfind('}'), R"(,"quantization_config":{"activation_scheme":"dynamic","fmt":"e4m3","quant_method":"fp8",
    "weight_block_size":[128,128]})");
  std::ofstream(at("model/config.json")) << config;
  refused({"quantization_config", "fp8", "bfloat16"});
  // and its weights
  const std::string header = R"({"model.layers.1.mlp.experts.0.up_proj.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]},)"
                             R"("model.layers.1.mlp.experts.0.up_proj.weight_scale_inv":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}})";
  std::string bytes(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>((header.size() >> (8 * i)) & 0xffU);
  std::ofstream(at("model/model.safetensors"), std::ios::binary) << bytes << header << std::string(8, '\1');
  refused({"model.safetensors", "experts.0.up_proj.weight", "F8_E4M3", "8 bits", "bfloat16"});
}

INSTANTIATE_TEST_SUITE_P(each, families_of_models, testing::ValuesIn(families), [](const auto& info) { return info.param.name; });

}  // namespace end_to_end_families_tests
