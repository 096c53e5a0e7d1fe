// SPDX-License-Identifier: Apache-2.0
// Low-rank experts on the command line: train, resume, verify, evaluate, generate; what cannot be merged; and what is refused.
#include "end_to_end/workspace.hpp"

#include <esft/io/adapter.hpp>

#include <string>
#include <vector>

namespace end_to_end_hilo_tests {

using end_to_end::content;
using end_to_end::ended;

class hilo : public end_to_end::workspace {
 protected:
  [[nodiscard]] static std::vector<std::string> words(const std::string& out, const std::string& steps,
                                                      const std::vector<std::string>& more = {}) {
    std::vector<std::string> all{"train", "--model", "model", "--data",   "task.jsonl",   "--plan", "hilo", "--alpha",
                                 "4",     "--steps", steps,   "--out",    out,            "--lr",   "0.01", "--length",
                                 "24",    "--batch-rows", "4", "--threads", "1"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
};

TEST_F(hilo, low_rank_experts_are_trained_verified_and_evaluated_but_not_merged) {
  const std::vector<std::string> shape{"--lora-experts", "2,3,4", "--ranks", "4,2,2", "--active", "2", "--lora-balance", "0.01"};
  static_cast<void>(succeed(words("run", "6", shape)));
  static_cast<void>(succeed({"verify", "model", "run"}));
  const auto adapter = esft::read_adapter(at("run/adapter"));
  EXPECT_EQ(adapter.manifest().method, "hilo");
  EXPECT_EQ(adapter.manifest().low_rank_active.size(), 3U);
  EXPECT_EQ(adapter.manifest().properties.at("low-rank-experts"), "2x4/2 3x2/2 4x2/2");
  EXPECT_EQ(adapter.names(), adapter.manifest().planned);
  const auto loss = [&](std::vector<std::string> more) {
    more.insert(more.begin(), "eval");
    more.insert(more.end(), {"--data", "task.jsonl", "--length", "24", "--no-exact-match", "--json"});
    const auto result = json(succeed(more));
    return esft::json_reader(result, "output").at("loss").number(0, 100);
  };
  EXPECT_LT(loss({"--model", "model", "--adapter", "run"}), loss({"--model", "model"}));
  static_cast<void>(succeed({"generate", "--model", "model", "--adapter", "run", "--prompt", "1+1", "--max-new-tokens", "4"}));
  static_cast<void>(succeed({"inspect", "run"}));
  const ended merged = run({"merge", "--model", "model", "--adapter", "run", "--out", "merged"});
  EXPECT_EQ(merged.code, 2);
  EXPECT_NE(merged.err.find("no merged matrix computes the same"), std::string::npos) << merged.err;
}

TEST_F(hilo, resumed_gives_the_same_adapter_and_one_pair_can_be_merged) {
  const std::vector<std::string> shape{"--lora-experts", "3", "--ranks", "2", "--null-experts", "1", "--dropout", "0.1"};
  static_cast<void>(succeed(words("whole", "4", shape)));
  static_cast<void>(succeed(words("parts", "2", shape)));
  auto again = shape;
  again.push_back("--resume");
  static_cast<void>(succeed(words("parts", "4", again)));
  EXPECT_NE(content(at("whole/adapter/adapter.safetensors")), "");
  EXPECT_TRUE(content(at("whole/adapter/adapter.safetensors")) == content(at("parts/adapter/adapter.safetensors")));
  again[3] = "3";
  const ended other = run(words("parts", "5", again));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("low-rank-experts"), std::string::npos) << other.err;
  static_cast<void>(succeed(words("one", "3", {"--lora-experts", "1", "--ranks", "2"})));
  static_cast<void>(succeed({"merge", "--model", "model", "--adapter", "one", "--out", "merged"}));
  static_cast<void>(succeed({"verify", "model", "one", "merged"}));
}

TEST_F(hilo, budgets_and_spectra_decide_numbers_and_what_makes_no_sense_is_refused) {
  const auto planned = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"plan", "--model", "model", "--method", "hilo"});
    return succeed(more);
  };
  EXPECT_NE(planned({"--lora-budget", "20000", "--ranks", "2"}).find("/2"), std::string::npos);
  EXPECT_NE(planned({"--lora-budget", "20000", "--lora-grow", "ranks"}).find("4x"), std::string::npos);
  EXPECT_NE(planned({"--lora-spectrum", "12"}).find("x8/2"), std::string::npos);
  const auto refusal = [&](const std::vector<std::string>& more) {
    const ended result = run(words("none", "3", more));
    EXPECT_EQ(result.code, 2) << result.err;
    return result.err;
  };
  EXPECT_NE(refusal({"--lora-experts", "2468"}).find("too fine for a model of 3 layers"), std::string::npos);
  EXPECT_NE(refusal({"--lora-experts", "pyramid"}).find("'pyramid'"), std::string::npos);
  EXPECT_NE(refusal({"--active", "9"}).find("too many"), std::string::npos);
  EXPECT_NE(refusal({"--targets", "experts"}).find("the plan lora"), std::string::npos);
  EXPECT_NE(refusal({"--rank", "4"}).find("hilo has --ranks"), std::string::npos);
  EXPECT_NE(refusal({"--lora-budget", "1"}).find("too small"), std::string::npos);
  const ended lora = run(train("none", "3", {"--null-experts", "1"}));
  EXPECT_EQ(lora.code, 2);
  EXPECT_NE(lora.err.find("--null-experts belongs to --method hilo"), std::string::npos) << lora.err;
}

}  // namespace end_to_end_hilo_tests
