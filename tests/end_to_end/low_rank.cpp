// SPDX-License-Identifier: Apache-2.0
// LoRA on the command line: train, resume, verify, evaluate, merge; and what is refused.
#include "end_to_end/workspace.hpp"

#include <esft/io/adapter.hpp>
#include <esft/io/model_directory.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace end_to_end_low_rank_tests {

using end_to_end::content;
using end_to_end::ended;

class low_rank : public end_to_end::workspace {
 protected:
  /// Arguments of a run of the LoRA plan.
  [[nodiscard]] static std::vector<std::string> lora(const std::string& out, const std::string& steps,
                                                     const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"train", "--model",      "model", "--data",    "task.jsonl", "--plan", "lora", "--rank",
                                   "2",     "--alpha",      "4",     "--steps",   steps,        "--out",  out,    "--length",
                                   "24",    "--batch-rows", "4",     "--threads", "1"};
    if (std::find(more.begin(), more.end(), "--lr") == more.end()) words.insert(words.end(), {"--lr", "0.01"});
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  /// The same of a plan that trains the experts of top.json whole and puts factors beside the others of wider.json, which are written.
  [[nodiscard]] std::vector<std::string> hybrid(const std::string& out, const std::string& steps,
                                                const std::vector<std::string>& more = {}) const {
    write_experts("top.json", {{1, {4}}, {2, {0, 3}}});
    write_experts("wider.json", {{1, {4, 1}}, {2, {3, 0}}});
    auto words = lora(out, steps, more);
    std::replace(words.begin(), words.end(), std::string("lora"), std::string("hybrid"));
    words.insert(words.end(), {"--experts", "top.json", "--factor-experts", "wider.json"});
    return words;
  }
  /// Loss on the task of a model, or of one with an adapter, in the batches of `lora`.
  [[nodiscard]] double loss(std::vector<std::string> words) const {
    words.insert(words.begin(), "eval");
    words.insert(words.end(), {"--data", "task.jsonl", "--length", "24", "--batch-rows", "4", "--no-exact-match", "--json"});
    const auto result = json(succeed(words));
    return esft::json_reader(result, "output").at("loss").number(0, 100);
  }
};

TEST_F(low_rank, factors_are_trained_verified_evaluated_and_merged) {
  static_cast<void>(succeed(lora("run", "6")));
  static_cast<void>(succeed({"verify", "model", "run"}));
  const auto adapter = esft::read_adapter(at("run/adapter"));
  EXPECT_EQ(adapter.manifest().method, "lora");
  ASSERT_TRUE(adapter.manifest().low_rank.has_value());
  EXPECT_EQ(adapter.manifest().low_rank->rank, 2);
  EXPECT_EQ(adapter.names(), adapter.manifest().planned);
  for (const std::string& name : adapter.names()) EXPECT_NE(name.find(".lora_"), std::string::npos) << name;
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "run", "merged"}));
  const double base = loss({"--model", "model"});
  const double trained = loss({"--model", "model", "--adapter", "run"});
  EXPECT_LT(trained, base);
  EXPECT_NEAR(loss({"--model", "merged"}), trained, 0.1 * (base - trained));  // merging rounds to bf16
  EXPECT_NE(succeed({"inspect", "run"}).find("rank 2, alpha 4, scale 2"), std::string::npos);
  static_cast<void>(succeed({"generate", "--model", "model", "--adapter", "run", "--prompt", "1+1", "--max-new-tokens", "4"}));
  static_cast<void>(succeed({"plan", "--model", "model", "--method", "lora", "--rank", "4"}));
}

TEST_F(low_rank, resumed_with_dropout_gives_the_same_adapter) {
  static_cast<void>(succeed(lora("whole", "6", {"--dropout", "0.2", "--rslora"})));
  static_cast<void>(succeed(lora("parts", "2", {"--dropout", "0.2", "--rslora"})));
  static_cast<void>(succeed(lora("parts", "6", {"--dropout", "0.2", "--rslora", "--resume"})));
  EXPECT_NE(content(at("whole/adapter/adapter.safetensors")), "");
  EXPECT_TRUE(content(at("whole/adapter/adapter.safetensors")) == content(at("parts/adapter/adapter.safetensors")));
  const ended other = run(lora("parts", "8", {"--dropout", "0.3", "--rslora", "--resume"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("dropout"), std::string::npos) << other.err;
}

TEST_F(low_rank, only_selected_experts_get_factors_on_request) {
  write_experts("experts.json", {{1, {4, 1}}, {2, {}}});
  static_cast<void>(succeed(lora("run", "3", {"--experts", "experts.json", "--targets", "experts,query"})));
  for (const std::string& name : esft::read_adapter(at("run/adapter")).names()) {
    const bool expected = name.find("q_proj") != std::string::npos || name.find("layers.1.mlp.experts.1.") != std::string::npos ||
                          name.find("layers.1.mlp.experts.4.") != std::string::npos;
    EXPECT_TRUE(expected) << name;
  }
  EXPECT_EQ(esft::read_adapter(at("run/adapter")).names().size(), 3U * 2U + 2U * 4U);
}

TEST_F(low_rank, some_experts_whole_and_the_next_ones_through_factors) {
  const auto text = succeed(hybrid("run", "4", {"--eval-data", "task.jsonl", "--json"}));
  const auto adapter = esft::read_adapter(at("run/adapter"));
  EXPECT_EQ(adapter.manifest().method, "hybrid");
  std::size_t whole = 0;
  std::size_t factors = 0;
  for (const std::string& name : adapter.names()) {
    const bool factor = name.find(".lora_") != std::string::npos;
    (factor ? factors : whole) += 1;
    if (factor) {
      EXPECT_NE(name.find("layers.1.mlp.experts.1."), std::string::npos) << name;
    }
  }
  EXPECT_EQ(whole, 3U * 3U);
  EXPECT_EQ(factors, 2U * 2U);
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "run", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "run", "merged"}));
  // What is loaded again says what the model said that was trained, and merged almost that: factors are rounded to bf16 with their sum.
  const auto said = json(text);
  const esft::json_reader end(said, "output");
  const double reloaded = loss({"--model", "model", "--adapter", "run"});
  EXPECT_DOUBLE_EQ(reloaded, end.at("eval_loss").number(0, 100));
  const double base = loss({"--model", "model"});
  EXPECT_DOUBLE_EQ(base, end.at("eval_loss_before").number(0, 100));
  EXPECT_LT(reloaded, base);
  EXPECT_NEAR(loss({"--model", "merged"}), reloaded, 0.1 * (base - reloaded));

  auto words = hybrid("none", "4");
  words.resize(words.size() - 2);
  const ended alone = run(words);
  EXPECT_EQ(alone.code, 2);
  EXPECT_NE(alone.err.find("--factor-experts"), std::string::npos) << alone.err;
  words = hybrid("none", "4");
  std::swap(words[words.size() - 3], words.back());
  const ended nothing_left = run(words);
  EXPECT_EQ(nothing_left.code, 2);
  EXPECT_NE(nothing_left.err.find("trained whole already"), std::string::npos) << nothing_left.err;
}

TEST_F(low_rank, whole_experts_beside_factors_resume_to_the_same_adapter) {
  static_cast<void>(succeed(hybrid("whole", "6", {"--dropout", "0.2"})));
  static_cast<void>(succeed(hybrid("parts", "3", {"--dropout", "0.2"})));
  EXPECT_FALSE(content(at("whole/adapter/adapter.safetensors")) == content(at("parts/adapter/adapter.safetensors")));
  static_cast<void>(succeed(hybrid("parts", "6", {"--dropout", "0.2", "--resume"})));
  EXPECT_NE(content(at("whole/adapter/adapter.safetensors")), "");
  EXPECT_TRUE(content(at("whole/adapter/adapter.safetensors")) == content(at("parts/adapter/adapter.safetensors")));
  EXPECT_EQ(loss({"--model", "model", "--adapter", "whole"}), loss({"--model", "model", "--adapter", "parts"}));
  static_cast<void>(succeed({"verify", "model", "parts"}));
  write_experts("other.json", {{1, {4}}, {2, {5, 0}}});
  auto words = hybrid("parts", "8", {"--dropout", "0.2", "--resume"});
  words.back() = "other.json";
  const ended other = run(words);
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("resume with the options of the saved run"), std::string::npos) << other.err;
}

TEST_F(low_rank, what_makes_no_sense_is_refused) {
  const auto refusal = [&](const std::vector<std::string>& more) {
    const ended result = run(lora("none", "3", more));
    EXPECT_EQ(result.code, 2) << result.err;
    return result.err;
  };
  EXPECT_NE(refusal({"--targets", "attention,gate"}).find("'gate'"), std::string::npos);
  write_experts("experts.json", {{1, {1}}, {2, {9}}});
  EXPECT_NE(refusal({"--experts", "experts.json"}).find("expert 9"), std::string::npos);
  write_experts("experts.json", {{1, {1}}, {2, {0}}});
  EXPECT_NE(refusal({"--experts", "experts.json", "--targets", "query"}).find("without experts"), std::string::npos);
  const ended mixed = run(train("none", "3", {"--rank", "4"}));
  EXPECT_EQ(mixed.code, 2);
  EXPECT_NE(mixed.err.find("--rank belongs to --method lora"), std::string::npos) << mixed.err;
  const ended still = run(lora("still", "3", {"--lr", "0"}));
  EXPECT_EQ(still.code, 3);  // B stays zero, and the receipt says so
  EXPECT_NE(still.err.find("planned but unchanged: model.layers."), std::string::npos) << still.err;
}

}  // namespace end_to_end_low_rank_tests
