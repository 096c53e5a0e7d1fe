// SPDX-License-Identifier: Apache-2.0
// What goes to and comes from other programs: logits as .npy, LoRA directories of peft.
#include "end_to_end/workspace.hpp"

#include <esft/io/npy.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace end_to_end_interchange_tests {

using end_to_end::ended;

constexpr std::ptrdiff_t vocabulary = 264;

class interchange : public end_to_end::workspace {
 protected:
  [[nodiscard]] std::vector<float> logits(std::vector<std::string> words) const {
    words.insert(words.begin(), "logits");
    words.insert(words.end(), {"--ids", "256,49,43,49", "--out", "logits.npy", "--quiet"});
    static_cast<void>(succeed(words));
    const auto array = esft::read_npy(at("logits.npy"));
    EXPECT_EQ(array.shape, (esft::tensor_shape{4, vocabulary}));
    const auto values = array.as<float>();
    return {values.begin(), values.end()};
  }
  static double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double largest = 0;
    for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    return largest;
  }
};

TEST_F(interchange, logits_are_those_that_generate_follows) {
  const std::vector<float> values = logits({"--model", "model", "--dtype", "float32"});
  const auto last = values.end() - vocabulary;
  const auto best = std::max_element(last, values.end()) - last;
  const auto answer = json(succeed(
      {"generate", "--model", "model", "--dtype", "float32", "--format", "text", "--prompt", "1+1", "--max-new-tokens", "1", "--json"}));
  const std::string text = esft::json_reader(answer, "output").at("text").string();
  if (best < 128) {
    EXPECT_EQ(text, std::string(1, static_cast<char>(best)));
  }
  const std::vector<float> slow = logits({"--model", "model", "--backend", "reference"});
  EXPECT_LT(distance(values, slow), 1e-5);
  const std::vector<float> half = logits({"--model", "model", "--dtype", "bf16"});
  EXPECT_GT(distance(values, half), 0);
  EXPECT_LT(distance(values, half), 0.2);
}

TEST_F(interchange, an_adapter_changes_the_logits_and_wrong_ids_are_refused) {
  write_experts("experts.json", {{1, {0, 1, 2, 3, 4, 5}}, {2, {0, 1, 2, 3, 4, 5}}});
  static_cast<void>(succeed(train("run", "3")));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run", "--out", "merged"}));
  const std::vector<float> base = logits({"--model", "model", "--dtype", "float32"});
  const std::vector<float> adapted = logits({"--model", "model", "--adapter", "run", "--dtype", "float32"});
  EXPECT_GT(distance(base, adapted), 1e-3);
  EXPECT_EQ(logits({"--model", "merged", "--dtype", "float32"}), adapted);
  const ended outside = run({"logits", "--model", "model", "--ids", "1,264", "--out", "none.npy"});
  EXPECT_EQ(outside.code, 2);
  EXPECT_NE(outside.err.find("token 264 is outside the vocabulary of 264"), std::string::npos) << outside.err;
  EXPECT_FALSE(std::filesystem::exists(at("none.npy")));
  EXPECT_EQ(run({"logits", "--model", "model", "--ids", "1,x", "--out", "none.npy"}).code, 2);
}

TEST_F(interchange, factors_go_to_peft_and_come_back) {
  static_cast<void>(succeed({"train", "--model", "model", "--data", "task.jsonl", "--method", "lora", "--rank", "2", "--targets",
                             "attention,experts,shared,router", "--steps", "3", "--lr", "0.05", "--length", "24", "--out", "run"}));
  const std::vector<float> adapted = logits({"--model", "model", "--adapter", "run", "--dtype", "float32"});
  for (const std::string layout : {"modules", "parameters"}) {
    static_cast<void>(
        succeed({"convert", "--model", "model", "--adapter", "run", "--to", "peft", "--layout", layout, "--out", layout, "--quiet"}));
    // as it is, without converting it by hand
    EXPECT_EQ(logits({"--model", "model", "--adapter", layout, "--dtype", "float32"}), adapted);
    const auto eval = [&](const std::string& adapter) {
      return succeed({"eval", "--model", "model", "--adapter", adapter, "--data", "task.jsonl", "--length", "24", "--json"});
    };
    EXPECT_EQ(eval(layout), eval("run"));
    EXPECT_EQ(succeed({"generate", "--model", "model", "--adapter", layout, "--prompt", "1+1", "--max-new-tokens", "4"}),
              succeed({"generate", "--model", "model", "--adapter", "run", "--prompt", "1+1", "--max-new-tokens", "4"}));
    static_cast<void>(succeed({"merge", "--model", "model", "--adapter", layout, "--out", layout + "_direct"}));
    static_cast<void>(succeed({"verify", "model", layout, layout + "_direct"}));
    const ended composed = run({"compose", layout, layout, "--out", "none"});
    EXPECT_EQ(composed.code, 3);
    EXPECT_NE(composed.err.find("esft convert --to esft --model BASE --adapter " + layout + " --out NEW"), std::string::npos)
        << composed.err;
    static_cast<void>(succeed({"convert", "--model", "model", "--adapter", layout, "--to", "esft", "--out", layout + "_back", "--quiet"}));
    EXPECT_EQ(logits({"--model", "model", "--adapter", layout + "_back", "--dtype", "float32"}), adapted);
    static_cast<void>(succeed({"merge", "--model", "model", "--adapter", layout + "_back", "--out", layout + "_merged"}));
    static_cast<void>(succeed({"verify", "model", layout + "_back", layout + "_merged"}));
    EXPECT_EQ(end_to_end::content(at(layout + "_direct/model.safetensors")), end_to_end::content(at(layout + "_merged/model.safetensors")));
  }
  select();
  static_cast<void>(succeed(train("whole", "2")));
  const ended refused = run({"convert", "--model", "model", "--adapter", "whole", "--to", "peft", "--out", "none"});
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("is a whole tensor"), std::string::npos) << refused.err;
}

TEST_F(interchange, mapped_files_say_the_same_and_cut_ones_are_refused) {
  const std::vector<float> read = logits({"--model", "model"});
  EXPECT_EQ(logits({"--model", "model", "--mmap"}), read);
  const auto file = at("model/model.safetensors");
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 2);
  const ended cut = run({"logits", "--model", "model", "--mmap", "--ids", "1,2", "--out", "none.npy"});
  EXPECT_EQ(cut.code, 3);
  EXPECT_NE(cut.err.find("model/model.safetensors"), std::string::npos) << cut.err;
  EXPECT_FALSE(std::filesystem::exists(at("none.npy")));
}

TEST_F(interchange, sequences_beyond_the_model_s_positions_are_said_once) {
  const auto times = [](const std::string& text) {
    std::size_t count = 0;
    const std::string key = "max_position_embeddings";
    for (std::size_t at = text.find(key); at != std::string::npos; at = text.find(key, at + 1)) ++count;
    return count;
  };
  std::ofstream(at("long.jsonl")) << end_to_end::content(at("task.jsonl")) << R"({"prompt":")" << std::string(70, 'a')
                                  << R"(","completion":"b"})" << '\n';
  select();
  const std::string prompt(70, '1');
  const std::vector<std::vector<std::string>> commands{
      {"eval", "--model", "model", "--data", "long.jsonl"},
      {"score", "--model", "model", "--data", "long.jsonl", "--out", "scores.json"},
      {"generate", "--model", "model", "--prompt", prompt, "--max-new-tokens", "2"},
      {"train", "--model", "model", "--data", "long.jsonl", "--eval-data", "long.jsonl", "--experts", "experts.json", "--steps", "3",
       "--length", "128", "--out", "run"},
  };
  for (const auto& words : commands) {
    const ended result = run(words);
    EXPECT_EQ(result.code, 0) << result.err;
    EXPECT_EQ(times(result.err), 1U) << words.front() << ": " << result.err;
    EXPECT_NE(result.err.find("made for 64 positions"), std::string::npos) << result.err;
  }
  EXPECT_EQ(times(run({"eval", "--model", "model", "--data", "task.jsonl"}).err), 0U);
  const ended divided = run({"score", "--model", "model", "--data", "long.jsonl", "--out", "scores.json", "--length", "64"});
  EXPECT_EQ(times(divided.err), 0U) << divided.err;
}

TEST_F(interchange, logs_of_the_routing_give_the_scores_again) {
  const std::vector<std::string> score{"score", "--model", "model", "--data", "task.jsonl", "--length", "24", "--mean", "per-sample"};
  for (const std::string tokens : {"all", "answer"}) {
    std::vector<std::string> words = score;
    words.insert(words.end(), {"--tokens", tokens, "--log", "log_" + tokens, "--out", "seen.json"});
    static_cast<void>(succeed(words));
    EXPECT_TRUE(std::filesystem::exists(at("log_" + tokens) / "expert_weights_2.txt"));
    EXPECT_FALSE(std::filesystem::exists(at("log_" + tokens) / "expert_weights_0.txt")) << "layer 0 is dense";
    static_cast<void>(
        succeed({"score", "--trace", "log_" + tokens, "--experts", "6", "--top-k", "2", "--mean", "per-sample", "--out", "read.json"}));
    EXPECT_EQ(end_to_end::content(at("read.json")), end_to_end::content(at("seen.json")));
    EXPECT_NE(end_to_end::content(at("seen.json")), "");
  }
  EXPECT_NE(end_to_end::content(at("log_all/expert_weights_1.txt")), end_to_end::content(at("log_answer/expert_weights_1.txt")));
  std::vector<std::string> words = score;
  words.insert(words.end(), {"--log", "log_all", "--out", "seen.json"});
  const ended again = run(words);
  EXPECT_EQ(again.code, 2) << "logs that are there are not replaced";
}

TEST_F(interchange, adapters_compose_merge_and_come_off_again) {
  write_experts("experts.json", {{1, {0}}, {2, {1, 4}}});
  static_cast<void>(succeed(train("one", "3")));
  write_experts("experts.json", {{1, {3}}, {2, {5}}});
  static_cast<void>(succeed(train("two", "3")));
  static_cast<void>(succeed({"compose", "one", "two", "--out", "both"}));
  static_cast<void>(succeed({"verify", "model", "both"}));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "both", "--out", "merged", "--keep-replaced"}));
  static_cast<void>(succeed({"verify", "model", "both", "merged"}));
  const auto difference = json(succeed({"diff", "model", "merged", "--json"}));
  EXPECT_EQ(esft::json_reader(difference, "output").at("different").elements().size(), 3U * 5U);
  static_cast<void>(succeed({"unmerge", "--model", "merged", "--out", "back"}));
  const auto same = json(succeed({"diff", "model", "back", "--json"}));
  EXPECT_TRUE(esft::json_reader(same, "output").at("same").boolean());
  EXPECT_EQ(end_to_end::content(at("back/model.safetensors")), end_to_end::content(at("model/model.safetensors")));
  EXPECT_NE(succeed({"diff", "model", "one"}).find("9 tensors differ"), std::string::npos);
  write_experts("experts.json", {{1, {0}}, {2, {1}}});
  static_cast<void>(succeed(train("three", "3")));
  const ended clash = run({"compose", "one", "three", "--out", "none"});
  EXPECT_EQ(clash.code, 2);
  EXPECT_NE(clash.err.find("model.layers.2.mlp.experts.1"), std::string::npos) << clash.err;
  static_cast<void>(succeed({"compose", "one", "three", "--overlap", "mean", "--out", "mean"}));
  static_cast<void>(succeed({"verify", "model", "mean"}));
}

}  // namespace end_to_end_interchange_tests
