// SPDX-License-Identifier: Apache-2.0
// Score, select, train, verify, merge, evaluate: the whole way, and every lie that the receipt must catch.
#include "end_to_end/workspace.hpp"

#include <esft/io/adapter.hpp>
#include <esft/io/model_directory.hpp>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace end_to_end_pipeline_tests {

using end_to_end::content;
using end_to_end::ended;

class pipeline : public end_to_end::workspace {};

TEST_F(pipeline, merged_equals_base_plus_adapter) {
  select();
  static_cast<void>(succeed(train("run", "6")));
  EXPECT_NE(content(at("run/adapter/expert_cfg.json")), "");
  const std::string receipt = content(at("run/receipt.json"));
  EXPECT_NE(receipt.find("\"ok\": true"), std::string::npos) << receipt;
  static_cast<void>(succeed({"verify", "model", "run"}));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run/adapter", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "run/adapter", "merged"}));

  const std::vector<std::string> measure{"--data", "task.jsonl", "--length", "24", "--json"};
  const auto eval = [&](std::vector<std::string> words) {
    words.insert(words.begin(), "eval");
    words.insert(words.end(), measure.begin(), measure.end());
    return succeed(words);
  };
  const std::string with_adapter = eval({"--model", "model", "--adapter", "run"});
  EXPECT_EQ(with_adapter, eval({"--model", "merged"}));
  EXPECT_NE(with_adapter, eval({"--model", "model"}));
  EXPECT_EQ(succeed({"generate", "--model", "merged", "--prompt", "1+1", "--max-new-tokens", "8"}),
            succeed({"generate", "--model", "model", "--adapter", "run", "--prompt", "1+1", "--max-new-tokens", "8"}));

  // every frozen tensor has the bytes of the base, every planned one has not
  const auto base = esft::model_directory::open(at("model"));
  const auto merged = esft::model_directory::open(at("merged"));
  const auto adapter = esft::read_adapter(at("run/adapter"));
  ASSERT_EQ(base.names(), merged.names());
  const auto planned = adapter.manifest().planned;
  EXPECT_FALSE(planned.empty());
  for (const std::string& name : base.names()) {
    const bool trained = std::binary_search(planned.begin(), planned.end(), name);
    EXPECT_EQ(base.tensor_digest(name) == merged.tensor_digest(name), !trained) << name;
    EXPECT_EQ(adapter.find(name) != nullptr, trained) << name;
  }
}

/// What may be trained beside the selected experts: rows of the paper's table 3.
TEST_F(pipeline, shared_experts_and_what_is_no_expert_are_trained_on_request_and_nothing_else) {
  const std::string shared = "--train-shared-experts";
  const std::string rest = "--train-non-expert-modules";
  static_cast<void>(succeed({"score", "--model", "model", "--data", "task.jsonl", "--out", "scores.json", "--length", "24", "--quiet"}));
  const auto base = esft::model_directory::open(at("model"));
  std::set<std::size_t> sizes;
  for (const auto& options : std::vector<std::vector<std::string>>{{shared}, {rest}, {shared, rest}}) {
    const auto asked = [&](const std::string& option) { return std::find(options.begin(), options.end(), option) != options.end(); };
    std::vector<std::string> words{"select", "--scores", "scores.json", "--policy", "top-p", "--p", "0.3", "--out", "experts.json"};
    words.insert(words.end(), options.begin(), options.end());
    static_cast<void>(succeed(words));
    const auto config = esft::read_expert_config(at("experts.json"));
    EXPECT_EQ(config.shared_experts, asked(shared));
    EXPECT_EQ(config.non_expert_modules, asked(rest));
    const auto expected = [&](const std::string& name) {
      if (name.find(".mlp.shared_experts.") != std::string::npos) return asked(shared);
      if (name.find(".mlp.experts.") == std::string::npos) return asked(rest);
      for (const auto& [layer, experts] : config.experts.layers) {
        for (const auto expert : experts) {
          const std::string part = "model.layers." + std::to_string(layer.value) + ".mlp.experts." + std::to_string(expert.value) + ".";
          if (name.starts_with(part)) return true;
        }
      }
      return false;
    };

    const std::string run = "run" + std::to_string(sizes.size());
    const std::string merged = "merged" + std::to_string(sizes.size());
    static_cast<void>(succeed(train(run, "4")));
    static_cast<void>(succeed({"verify", "model", run}));
    static_cast<void>(succeed({"merge", "--model", "model", "--adapter", run, "--out", merged}));
    static_cast<void>(succeed({"verify", "model", run, merged}));
    const auto adapter = esft::read_adapter(at(run + "/adapter"));
    const auto after = esft::model_directory::open(at(merged));
    ASSERT_EQ(base.names(), after.names());
    for (const std::string& name : base.names()) {
      EXPECT_EQ(base.tensor_digest(name) != after.tensor_digest(name), expected(name)) << run << ": " << name;
      EXPECT_EQ(adapter.find(name) != nullptr, expected(name)) << run << ": " << name;
    }
    EXPECT_EQ(adapter.names(), adapter.manifest().planned);
    const auto official = esft::read_expert_config(at(run + "/adapter/expert_cfg.json"));
    EXPECT_EQ(official.shared_experts, asked(shared));
    EXPECT_EQ(official.non_expert_modules, asked(rest));
    const auto eval = [&](std::vector<std::string> more) {
      more.insert(more.begin(), {"eval", "--data", "task.jsonl", "--length", "24", "--json"});
      return succeed(more);
    };
    const std::string with_adapter = eval({"--model", "model", "--adapter", run});
    EXPECT_EQ(with_adapter, eval({"--model", merged}));
    EXPECT_NE(with_adapter, eval({"--model", "model"}));
    sizes.insert(adapter.names().size());
  }
  EXPECT_EQ(sizes.size(), 3U);  // different sets of tensors
  EXPECT_EQ(*sizes.rbegin(), base.names().size() - 3 * (2 * 6 - esft::read_expert_config(at("experts.json")).experts.size()));
}

TEST_F(pipeline, full_fine_tuning_saves_every_tensor) {
  ended result = run({"train", "--model", "model", "--data", "task.jsonl", "--method", "full", "--steps", "4", "--out", "full", "--lr",
                      "0.05", "--length", "24", "--json"});
  ASSERT_EQ(result.code, 0) << result.err;
  const auto adapter = esft::read_adapter(at("full/adapter"));
  EXPECT_EQ(adapter.names(), esft::model_directory::open(at("model")).names());
  EXPECT_EQ(adapter.manifest().method, "full");
}

TEST_F(pipeline, rate_zero_is_found_out) {
  select();
  const ended result = run(train("still", "3", {"--lr", "0"}));
  EXPECT_EQ(result.code, 3);
  EXPECT_NE(result.err.find("planned but unchanged: model.layers."), std::string::npos) << result.err;
}

TEST_F(pipeline, a_tampered_adapter_is_found_out_and_refused) {
  select();
  static_cast<void>(succeed(train("run", "3")));
  const std::string victim = esft::read_adapter(at("run/adapter")).names().front();
  {
    const auto file = esft::safetensors_file::open(at("run/adapter/adapter.safetensors"));
    std::fstream bytes(at("run/adapter/adapter.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(file.data_offset() + file.at(victim).begin));
    bytes.put('\x11');
    bytes.put('\x11');
  }
  const ended verified = run({"verify", "model", "run"});
  EXPECT_EQ(verified.code, 3);
  EXPECT_NE(verified.err.find("not the bytes that were saved: " + victim), std::string::npos) << verified.err;
  const ended evaluated = run({"eval", "--model", "model", "--adapter", "run", "--data", "task.jsonl"});
  EXPECT_EQ(evaluated.code, 3);
  EXPECT_NE(evaluated.err.find(victim), std::string::npos) << evaluated.err;
  EXPECT_EQ(run({"merge", "--model", "model", "--adapter", "run", "--out", "merged"}).code, 3);
  EXPECT_FALSE(std::filesystem::exists(at("merged")));
}

TEST_F(pipeline, an_adapter_of_another_base_is_refused_unless_forced) {
  select();
  static_cast<void>(succeed(train("run", "3")));
  write_model("other", 2);
  const std::vector<std::string> eval{"eval", "--model", "other", "--adapter", "run", "--data", "task.jsonl", "--no-exact-match"};
  const ended refused = run(eval);
  EXPECT_EQ(refused.code, 3);
  EXPECT_NE(refused.err.find("was not trained on other"), std::string::npos) << refused.err;
  std::vector<std::string> forced = eval;
  forced.emplace_back("--force");
  EXPECT_EQ(run(forced).code, 0);
  EXPECT_EQ(run({"verify", "other", "run"}).code, 3);
  EXPECT_EQ(run({"verify", "model", "run"}).code, 0);
}

TEST_F(pipeline, a_merged_model_with_a_moved_frozen_tensor_is_found_out) {
  select();
  static_cast<void>(succeed(train("run", "3")));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run", "--out", "merged"}));
  {
    const auto file = esft::safetensors_file::open(at("merged/model.safetensors"));
    std::fstream bytes(at("merged/model.safetensors"), std::ios::in | std::ios::out | std::ios::binary);
    bytes.seekp(static_cast<std::streamoff>(file.data_offset() + file.at("model.layers.1.mlp.gate.weight").begin));
    bytes.put('\x11');
  }
  const ended verified = run({"verify", "model", "run", "merged"});
  EXPECT_EQ(verified.code, 3);
  EXPECT_NE(verified.err.find("frozen but changed: model.layers.1.mlp.gate.weight"), std::string::npos) << verified.err;
}

TEST_F(pipeline, same_bytes_for_any_number_of_threads_and_backend_choice_is_by_name) {
  select();
  static_cast<void>(succeed(train("one", "4")));
  static_cast<void>(succeed(train("two", "4", {"--threads", "2"})));
  EXPECT_NE(content(at("one/adapter/adapter.safetensors")), "");
  EXPECT_TRUE(content(at("one/adapter/adapter.safetensors")) == content(at("two/adapter/adapter.safetensors")));
  static_cast<void>(succeed(train("plain", "4", {"--backend", "reference"})));
  EXPECT_TRUE(std::filesystem::exists(at("plain/adapter/adapter.safetensors")));
  EXPECT_EQ(run(train("none", "4", {"--backend", "abacus"})).code, 2);
}

TEST_F(pipeline, mixing_schedules_and_options_are_accepted) {
  select();
  const std::string text = succeed(
      train("run", "4", {"--alignment",  "other.jsonl", "--mix",       "3:1",          "--schedule", "cosine",         "--warmup", "1",
                         "--accumulate", "2",           "--recompute", "--balance",    "0.01",       "--weight-decay", "0.1",      "--clip",
                         "0.5",          "--eval-data", "task.jsonl",  "--save-every", "2",          "--json"}));
  const auto result = json(text);
  const esft::json_reader root(result, "output");
  EXPECT_EQ(root.at("steps").integer(0, 100), 4);
  EXPECT_NE(root.at("eval_loss").number(0, 100), root.at("eval_loss_before").number(0, 100));
  EXPECT_TRUE(std::filesystem::exists(at("run/step-4.safetensors")));
  EXPECT_EQ(run(train("bad", "4", {"--alignment", "other.jsonl", "--mix", "all"})).code, 2);
}

TEST_F(pipeline, every_loss_on_the_routers_is_a_flag_of_its_own) {
  const auto first_balance = [&](const std::string& out) {
    std::ifstream lines(at(out + "/metrics.jsonl"));
    std::string line;
    std::getline(lines, line);
    const auto step = json(line);
    const esft::json_reader root(step, "metrics.jsonl");
    const auto found = root.find("balance_loss");
    return found ? found->number(0, 1e6) : 0.0;
  };
  const auto full = [](const std::string& out, std::vector<std::string> more) {
    more.insert(more.begin(), {"train", "--model", "model", "--data", "task.jsonl", "--method", "full", "--steps", "2", "--out", out, "--lr",
                               "0.01", "--length", "24", "--batch-rows", "4", "--threads", "1"});
    return more;
  };
  static_cast<void>(succeed(full("plain", {})));
  EXPECT_EQ(first_balance("plain"), 0);
  const std::string plain = content(at("plain/adapter/adapter.safetensors"));
  std::map<std::string, double> loss;
  const std::vector<std::vector<std::string>> terms{{"--balance", "0.5"},
                                                    {"--balance-switch", "0.5"},
                                                    {"--balance-across-layers", "0.5"},
                                                    {"--balance-sequence", "0.5"},
                                                    {"--balance-device", "0.5", "--balance-devices", "2"},
                                                    {"--balance-device", "0.5", "--balance-devices", "2,4"},
                                                    {"--balance-communication", "0.5", "--balance-devices", "2"},
                                                    {"--z-loss", "0.5"}};
  for (std::size_t i = 0; i < terms.size(); ++i) {
    const std::string out = "run" + std::to_string(i);
    static_cast<void>(succeed(full(out, terms[i])));
    static_cast<void>(succeed({"verify", "model", out}));
    loss[terms[i].back() + terms[i].front()] = first_balance(out);
    EXPECT_GT(first_balance(out), 0) << terms[i].front();
    EXPECT_FALSE(content(at(out + "/adapter/adapter.safetensors")) == plain) << terms[i].front();
  }
  EXPECT_EQ(loss.size(), terms.size());
  for (const auto& [name, value] : loss) {
    for (const auto& [other, elsewhere] : loss) EXPECT_EQ(value == elsewhere, name == other) << name << " and " << other;
  }
  EXPECT_NEAR(loss.at("0.5--balance-switch"), 2 * loss.at("0.5--balance"), 1e-6);  // two experts a token
  // another loss is another run
  std::vector<std::string> other = full("run0", {"--balance", "0.5", "--z-loss", "0.1", "--resume"});
  other[8] = "3";
  EXPECT_NE(run(other).code, 0);
  for (const std::vector<std::string>& wrong : {std::vector<std::string>{"--balance-device", "0.5"},
                                                {"--balance-devices", "2"},
                                                {"--balance-device", "0.5", "--balance-devices", "4"},
                                                {"--balance-device", "0.5", "--balance-devices", "2,1"},
                                                {"--balance-device", "0.5", "--balance-devices", "2", "--balance-sent-to", "2"},
                                                {"--balance-communication", "0.5", "--balance-devices", "2", "--balance-sent-to", "3"},
                                                {"--balance-switch", "-1"}}) {
    EXPECT_EQ(run(full("wrong", wrong)).code, 2) << wrong.back();
  }
}

TEST_F(pipeline, biases_of_routers_move_on_request_and_are_part_of_the_receipt) {
  write_model_of("v3", R"({"model_type":"deepseek_v3","vocab_size":264,"hidden_size":16,"intermediate_size":24,"num_hidden_layers":3,
    "num_attention_heads":2,"max_position_embeddings":64,"rms_norm_eps":1e-6,"num_experts_per_tok":2,"bos_token_id":256,"eos_token_id":257,
    "pad_token_id":258,"num_key_value_heads":2,"kv_lora_rank":6,"qk_nope_head_dim":4,"qk_rope_head_dim":4,"v_head_dim":6,
    "n_routed_experts":6,"n_shared_experts":1,"moe_intermediate_size":8,"first_k_dense_replace":1,"q_lora_rank":5,
    "topk_method":"noaux_tc","scoring_func":"sigmoid","n_group":3,"topk_group":2,"norm_topk_prob":true,"routed_scaling_factor":2.5})", 1);
  static_cast<void>(succeed({"score", "--model", "v3", "--data", "task.jsonl", "--length", "24", "--out", "v3.json"}));  // those with tokens
  static_cast<void>(succeed({"select", "--scores", "v3.json", "--policy", "top-k", "--k", "2", "--out", "experts.json"}));
  const auto words = [](const std::string& model, const std::string& out, const std::string& steps, std::vector<std::string> more) {
    more.insert(more.begin(), {"train", "--model", model, "--data", "task.jsonl", "--experts", "experts.json", "--steps", steps, "--out", out,
                               "--lr", "0.01", "--length", "24", "--batch-rows", "4", "--threads", "1"});
    return more;
  };
  const std::vector<std::string> moving{"--bias-step", "0.01"};
  static_cast<void>(succeed(words("v3", "run", "3", moving)));
  static_cast<void>(succeed({"verify", "v3", "run"}));
  static_cast<void>(succeed({"merge", "--model", "v3", "--adapter", "run/adapter", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "v3", "run/adapter", "merged"}));
  const auto adapter = esft::read_adapter(at("run/adapter"));
  const auto base = esft::model_directory::open(at("v3"));
  const auto merged = esft::model_directory::open(at("merged"));
  for (const char* name : {"model.layers.1.mlp.gate.e_score_correction_bias", "model.layers.2.mlp.gate.e_score_correction_bias"}) {
    EXPECT_NE(adapter.find(name), nullptr) << name;
    EXPECT_NE(base.tensor_digest(name), merged.tensor_digest(name)) << name;
  }
  EXPECT_EQ(base.tensor_digest("model.layers.1.mlp.gate.weight"), merged.tensor_digest("model.layers.1.mlp.gate.weight"));
  EXPECT_EQ(adapter.names(), adapter.manifest().planned);
  // cut and resumed it is the same run; without the flag the biases are those of the base; softmax routers have none
  static_cast<void>(succeed(words("v3", "parts", "2", moving)));
  EXPECT_NE(run(words("v3", "parts", "3", {"--resume"})).code, 0);
  static_cast<void>(succeed(words("v3", "parts", "3", {"--bias-step", "0.01", "--resume"})));
  EXPECT_TRUE(content(at("run/adapter/adapter.safetensors")) == content(at("parts/adapter/adapter.safetensors")));
  static_cast<void>(succeed(words("v3", "frozen", "3", {})));
  EXPECT_EQ(esft::read_adapter(at("frozen/adapter")).find("model.layers.1.mlp.gate.e_score_correction_bias"), nullptr);
  EXPECT_EQ(run(words("model", "none", "3", moving)).code, 2);
}

TEST_F(pipeline, traces_give_the_official_files) {
  std::filesystem::create_directories(at("trace"));
  // two tokens, two of four experts each: expert 1 twice, experts 0 and 3 once
  std::ofstream(at("trace/expert_weights_1.txt")) << "1\t0\t1\t3\t\t0.5000\t0.2500\t0.7500\t0.1250\n";
  static_cast<void>(succeed({"score", "--trace", "trace", "--top-k", "2", "--experts", "4", "--out", "scores.json"}));
  const auto scores = json(content(at("scores.json")));
  const esft::json_reader root(scores, "scores.json");
  EXPECT_EQ(root.at("token_scores").at("1").at("1").number(0, 1), 0.5);
  EXPECT_EQ(root.at("token_scores").at("1").at("2").number(0, 1), 0.0);
  EXPECT_EQ(root.at("gate_scores").at("1").at("1").number(0, 1), 0.625);
  EXPECT_EQ(root.at("gate_scores").at("1").at("3").number(0, 1), 0.0625);
  static_cast<void>(
      succeed({"select", "--scores", "scores.json", "--score", "token", "--policy", "top-p", "--p", "0.6", "--out", "cfg.json"}));
  EXPECT_EQ(esft::read_expert_config(at("cfg.json")).experts.layers.at(esft::layer_index{1}),
            (std::vector{esft::expert_index{1}, esft::expert_index{0}}));
  static_cast<void>(
      succeed({"select", "--scores", "scores.json", "--policy", "random", "--like", "cfg.json", "--seed", "3", "--out", "random.json"}));
  EXPECT_EQ(esft::read_expert_config(at("random.json")).experts.size(), 2U);
  EXPECT_EQ(run({"score", "--trace", "trace", "--top-k", "2", "--experts", "3", "--out", "scores.json"}).code, 3);
  EXPECT_EQ(run({"score", "--trace", "trace", "--out", "scores.json"}).code, 2);
}

}  // namespace end_to_end_pipeline_tests
