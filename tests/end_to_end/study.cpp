// SPDX-License-Identifier: Apache-2.0
// A declared matrix of runs: the same bits each time, goes on where it was cut off, and what is wrong in the file is named.
#include "end_to_end/workspace.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace end_to_end_study_tests {

using end_to_end::content;
using end_to_end::ended;

class study : public end_to_end::workspace {
 protected:
  void SetUp() override {
    workspace::SetUp();
    std::filesystem::create_directories(at("data"));
    for (const char* part : {"sums.train.jsonl", "sums.test.jsonl"}) std::filesystem::copy_file(at("task.jsonl"), at("data") / part);
    std::filesystem::copy_file(at("other.jsonl"), at("data/probe.lines.jsonl"));
  }
  void write_study(const std::string& more = {}) const {
    const std::string backend = end_to_end::chosen_backend();
    std::ofstream(at("study.toml")) << "backend = \"" << (backend.empty() ? "eigen" : backend) << R"("
model = "model"
data = "data"
tasks = ["sums"]
domains = ["lines"]
seeds = [1, 2]
rates = [0.01]
steps = 2
rows = 4
length = 24

[[arm]]
name = "token"
scorer = "token"
policy = "top-p"
p = 0.3

[[arm]]
name = "random"
scorer = "token"
policy = "random"
like = "token"

[[arm]]
name = "factors"
method = "lora"
like = "token"
rates = [0.01, 0.02]

[[arm]]
name = "full"
method = "full"
)" << more;
  }
  [[nodiscard]] std::vector<std::string> lines(const std::string& name) const {
    std::ifstream in(at(name));
    std::vector<std::string> result;
    for (std::string line; std::getline(in, line);) result.push_back(line);
    return result;
  }
};

TEST_F(study, runs_the_matrix_gives_the_same_bits_again_and_goes_on_where_it_was_cut_off) {
  write_study();
  const std::string printed = succeed({"study", "study.toml", "--out", "first"});
  EXPECT_NE(printed.find("10 runs: frozen parameters that moved 0, planned ones that did not change 0"), std::string::npos) << printed;
  const auto runs = lines("first/runs.csv");
  ASSERT_EQ(runs.size(), 1U + 2 * (1 + 1 + 2 + 1));
  EXPECT_EQ(lines("first/table.csv").size(), 1U + 1 + 1 + 2 + 1);
  EXPECT_NE(runs[1], runs[2]);  // two seeds, two orders of the data
  EXPECT_TRUE(std::filesystem::exists(at("first/report.html")));

  static_cast<void>(succeed({"study", "study.toml", "--out", "again", "--quiet"}));
  EXPECT_EQ(content(at("again/runs.csv")), content(at("first/runs.csv")));
  EXPECT_EQ(content(at("again/table.csv")), content(at("first/table.csv")));

  // As if it had been killed: one run is missing. The others are not run again.
  std::vector<std::filesystem::path> files;
  for (const auto& file : std::filesystem::directory_iterator(at("again/runs"))) files.push_back(file.path());
  ASSERT_EQ(files.size(), 10U);
  std::sort(files.begin(), files.end());
  std::filesystem::remove(files[3]);
  const auto untouched = std::filesystem::last_write_time(files[4]);
  std::filesystem::remove(at("again/runs.csv"));
  static_cast<void>(succeed({"study", "study.toml", "--out", "again", "--quiet"}));
  EXPECT_EQ(content(at("again/runs.csv")), content(at("first/runs.csv")));
  EXPECT_EQ(std::filesystem::last_write_time(files[4]), untouched);
}

TEST_F(study, every_plan_can_be_an_arm_and_machines_can_share_the_tasks) {
  for (const char* part : {"train", "test"})
    std::filesystem::copy_file(at("task.jsonl"), at("data") / ("more." + std::string(part) + ".jsonl"));
  std::filesystem::copy_file(at("other.jsonl"), at("data/general.jsonl"));
  write_study(R"(
[[arm]]
name = "hilo"
method = "hilo"
like = "token"
ranks = "2"
active = "1"

[[arm]]
name = "both"
method = "hybrid"
scorer = "token"
policy = "top-p"
p = 0.3
factors = "wide"

[[arm]]
name = "wide"
scorer = "token"
policy = "top-p"
p = 0.9

[[arm]]
name = "answers"
scorer = "token"
tokens = "answer"
policy = "top-p"
p = 0.3

[[arm]]
name = "mixed"
method = "full"
mix = "1:1"
)");
  std::string text = content(at("study.toml"));
  text.replace(text.find("[\"sums\"]"), 8, "[\"sums\", \"more\"]\nalignment = \"general.jsonl\"");
  std::ofstream(at("study.toml")) << text;
  static_cast<void>(succeed({"study", "study.toml", "--out", "shared", "--task", "more", "--threads", "1", "--quiet"}));
  EXPECT_FALSE(std::filesystem::exists(at("shared/runs.csv")));
  static_cast<void>(succeed({"study", "study.toml", "--out", "shared", "--task", "sums", "--threads", "2", "--quiet"}));
  static_cast<void>(succeed({"study", "study.toml", "--out", "shared", "--quiet"}));
  static_cast<void>(succeed({"study", "study.toml", "--out", "whole", "--quiet"}));
  EXPECT_EQ(content(at("shared/runs.csv")), content(at("whole/runs.csv")));
  EXPECT_EQ(content(at("shared/matched.csv")), content(at("whole/matched.csv")));

  const auto lines_of_arm = [&](const std::string& arm) {
    std::vector<std::string> found;
    for (const std::string& line : lines("whole/runs.csv")) {
      if (line.find("," + arm + ",") != std::string::npos) found.push_back(line.substr(line.find("," + arm + ",") + arm.size() + 1));
    }
    return found;
  };
  for (const char* arm : {"hilo", "both", "wide", "answers", "mixed"}) EXPECT_EQ(lines_of_arm(arm).size(), 4U) << arm;
  EXPECT_NE(lines_of_arm("mixed"), lines_of_arm("full"));  // other rows, other numbers
  EXPECT_NE(lines_of_arm("both"), lines_of_arm("token"));
}

TEST_F(study, what_is_wrong_in_the_file_is_named_with_its_line) {
  const auto refusal = [&](const std::string& more) {
    write_study(more);
    const ended result = run({"study", "study.toml", "--out", "none"});
    EXPECT_EQ(result.code, 2) << result.err;
    return result.err;
  };
  EXPECT_NE(refusal("rank = 4\nrnak = 4\n").find("unknown key 'rnak'"), std::string::npos);
  EXPECT_NE(refusal("policy = \"topp\"\n").find("'topp' is none of top-p"), std::string::npos);
  EXPECT_NE(refusal("rank = \"four\"\n").find("study.toml:33: rank must be a whole number"), std::string::npos);
  EXPECT_NE(refusal("[[arm]]\nname = \"token\"\nmethod = \"full\"\n").find("two arms are named token"), std::string::npos);
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\nmethod = \"lora\"\nlike = \"nobody\"\n").find("which is no arm"), std::string::npos);
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\nmethod = \"lora\"\nlike = \"x\"\n").find("circle"), std::string::npos);
  EXPECT_NE(refusal("mix = \"1:1\"\n").find("say in the study which file"), std::string::npos);
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\nmethod = \"hybrid\"\nscorer = \"token\"\npolicy = \"top-p\"\n").find("needs factors"),
            std::string::npos);
  EXPECT_NE(refusal("tokens = \"prompt\"\n").find("'prompt' is none of all, answer"), std::string::npos);
  EXPECT_NE(refusal("= 4\n").find("study.toml:33: "), std::string::npos);
  write_study();
  const std::string text = content(at("study.toml"));
  std::ofstream(at("study.toml")) << "dtype = \"bf16\"\n" << text;
  const ended unknown_type = run({"study", "study.toml", "--out", "none"});
  EXPECT_NE(unknown_type.err.find("dtype 'bf16' is none of auto, float32, bfloat16"), std::string::npos) << unknown_type.err;
  write_study();
  static_cast<void>(succeed({"study", "study.toml", "--out", "other", "--quiet"}));
  std::ofstream(at("data/sums.train.jsonl"), std::ios::app) << R"({"prompt":"2+2","completion":"4"})"
                                                            << "\n";
  const ended changed = run({"study", "study.toml", "--out", "other"});
  EXPECT_EQ(changed.code, 2);
  EXPECT_NE(changed.err.find("holds runs of another model, data or settings"), std::string::npos) << changed.err;
}

TEST_F(study, the_bench_has_every_scorer_policy_and_plan) {
  const auto bench = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"bench",        "policies", "--model",  "model",   "--data",  "data",    "--task",
                                   "sums",         "--domain", "lines",    "--steps", "1",       "--seeds", "1,2",
                                   "--batch-rows", "4",        "--length", "24",      "--rates", "0.01"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  static_cast<void>(succeed(bench({"--scorer", "token,fisher", "--method", "esft,lora,full", "--out", "some"})));
  const auto table = lines("some/table.csv");
  const std::size_t policies = 8;  // those of one task: top-p, top-k, fraction, budget, p-budget, random, bottom, all
  EXPECT_EQ(table.size(), 1 + 2 * 2 * policies + 1);
  for (const char* arm : {"esft.fisher.top-p", "lora.token.bottom", "esft.token.random", "full"}) {
    EXPECT_TRUE(std::any_of(table.begin(), table.end(), [&](const std::string& line) {
      return line.find("sums," + std::string(arm) + ",") == 0;
    })) << arm;
  }
}

}  // namespace end_to_end_study_tests
