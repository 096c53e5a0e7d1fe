// SPDX-License-Identifier: Apache-2.0
// A declared matrix of runs: the same bits each time, goes on where it was cut off, and what is wrong in the file is named.
#include "end_to_end/workspace.hpp"

#include <esft/io/json_reader.hpp>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
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
  [[nodiscard]] static std::vector<std::string> cells(const std::string& line) {
    std::vector<std::string> result;
    std::istringstream text(line);
    for (std::string cell; std::getline(text, cell, ',');) result.push_back(cell);
    return result;
  }
  /// Names of the runs that a study has finished, sorted.
  [[nodiscard]] std::vector<std::string> run_files(const std::string& out) const {
    std::vector<std::string> names;
    if (!std::filesystem::exists(at(out + "/runs"))) return names;
    for (const auto& file : std::filesystem::directory_iterator(at(out + "/runs"))) {
      if (file.path().extension() == ".json") names.push_back(file.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
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

TEST_F(study, a_run_that_diverges_stops_no_other) {
  for (const char* steps : {"2", "14"}) {  // the loss is no number at the end; the run gives up before
    const std::string out = std::string("after") + steps;
    const auto write = [&](const std::string& rates) {
      std::ofstream(at("study.toml")) << R"(model = "model"
data = "data"
tasks = ["sums"]
domains = ["lines"]
seeds = [1]
rows = 4
length = 24
)" << "rates = " << rates << "\nsteps = " << steps << "\n[[arm]]\nname = \"full\"\nmethod = \"full\"\n";
    };
    write("[1e30, 0.01]");
    for (const char* time : {"first", "again"}) {
      const ended both = run({"study", "study.toml", "--out", out});
      EXPECT_EQ(both.code, 0) << both.err;
      EXPECT_NE(both.err.find("sums, full, seed 1, rate 1e+30: diverged"), std::string::npos) << time << ": " << both.err;
    }
    write("[0.01]");
    EXPECT_EQ(run({"study", "study.toml", "--out", out + "alone"}).code, 0);
    EXPECT_EQ(lines(out + "/runs.csv").size(), 2U);
    for (const char* file : {"/runs.csv", "/table.csv", "/matched.csv"})
      EXPECT_EQ(content(at(out + file)), content(at(out + "alone" + file)));
  }
}

TEST_F(study, a_study_of_nothing_is_refused) {
  const auto refusal = [&](const std::string& from, const std::string& to) {
    write_study();
    std::string text = content(at("study.toml"));
    text.replace(text.find(from), from.size(), to);
    std::ofstream(at("study.toml")) << text;
    const ended result = run({"study", "study.toml", "--out", "none"});
    EXPECT_EQ(result.code, 2) << to << ": " << result.err;
    return result.err;
  };
  for (const char* what : {"steps = 2", "rows = 4", "length = 24"}) {
    const std::string none = std::string(what).substr(0, std::string(what).find('=') + 2) + "0";
    EXPECT_NE(refusal(what, none).find("each at least 1"), std::string::npos) << none;
  }
  EXPECT_NE(refusal("seeds = [1, 2]", "seeds = []").find("at least one seed"), std::string::npos);
  EXPECT_NE(refusal("rates = [0.01]", "rates = []").find("the arm token has no learning rate"), std::string::npos);
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
  EXPECT_NE(refusal("normalization = \"sum\"\n").find("'sum' is none of none, layer-sum"), std::string::npos);
  EXPECT_NE(refusal("mode = \"float\"\n").find("'float' is none of exact, official"), std::string::npos);
  EXPECT_NE(refusal("group = \"two\"\n").find("group must be a whole number"), std::string::npos);
  EXPECT_NE(refusal("rates = [0.1, 0.1]\n").find("names a rate twice"), std::string::npos);
  for (const char* rate : {"nan", "inf", "-0.1"})
    EXPECT_NE(refusal("rates = [" + std::string(rate) + "]\n").find("rates must be a number, not negative"), std::string::npos) << rate;
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\n").find("it trains shared_experts or non_expert_modules"), std::string::npos);
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\nscorer = \"token\"\n").find("has a scorer and no policy"), std::string::npos);
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\nscorer = \"token\"\npolicy = \"random\"\nlike = \"full\"\n").find("which selects no experts"),
            std::string::npos);
  for (const char* method : {"full", "hilo"}) {  // plans that take no selection do not train something else in silence
    const std::string arm = std::string("[[arm]]\nname = \"x\"\nscorer = \"token\"\npolicy = \"top-p\"\nmethod = \"") + method + "\"\n";
    EXPECT_NE(refusal(arm).find(std::string("the arm x: ") + method + " "), std::string::npos) << method;
  }
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\nmethod = \"lora\"\nshared_experts = true\n").find("lora trains nothing whole"),
            std::string::npos);
  const auto top_p = [](const std::string& more) { return "[[arm]]\nname = \"x\"\npolicy = \"top-p\"\n" + more; };
  EXPECT_NE(refusal(top_p("scorer = \"condition\"\nnormalization = \"none\"\n")).find("leave normalization out"), std::string::npos);
  EXPECT_NE(refusal(top_p("scorer = \"token\"\np = 0.0\n")).find("p = 0.000000 is not in (0, 1]"), std::string::npos);
  EXPECT_NE(refusal(top_p("scorer = \"token\"\np = 0.0\nmode = \"official\"\n")).find("nothing is selected for sums"), std::string::npos);
  EXPECT_NE(refusal(top_p("scorer = \"token\"\nk = 2\n")).find("the policy top-p does not take k; it takes p, mode"),
            std::string::npos);
  EXPECT_NE(refusal("[[arm]]\nname = \"x\"\nmethod = \"lora\"\np = 0.2\n").find("the arm has no policy that would take p"),
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

TEST_F(study, an_arm_can_train_what_is_no_routed_expert_and_says_how_it_selects) {
  write_study(R"(
[[arm]]
name = "shared"
shared_experts = true

[[arm]]
name = "modules"
non_expert_modules = true

[[arm]]
name = "shared-and-modules"
shared_experts = true
non_expert_modules = true

[[arm]]
name = "named-only"
method = "full"
run = false

[[arm]]
name = "at-most-one"
scorer = "token"
policy = "top-p"
p = 0.9
max_experts = 1

[[arm]]
name = "at-least-five"
scorer = "token"
policy = "top-p"
p = 0.1
min_experts = 5

[[arm]]
name = "sums"
scorer = "gate"
policy = "top-p"
p = 0.5

[[arm]]
name = "shares"
scorer = "gate"
policy = "top-p"
p = 0.5
normalization = "layer-sum"
)");
  static_cast<void>(succeed({"study", "study.toml", "--out", "first", "--quiet"}));
  std::map<std::string, std::vector<std::string>> of_arm;  // the cells of its first run
  for (const std::string& line : lines("first/runs.csv")) of_arm.try_emplace(cells(line).at(1), cells(line));
  const auto experts = [&](const std::string& arm) { return std::stoi(of_arm.at(arm).at(10)); };
  const auto trained = [&](const std::string& arm) { return std::stoll(of_arm.at(arm).at(11)); };
  EXPECT_FALSE(of_arm.contains("named-only"));
  for (const char* arm : {"shared", "modules", "shared-and-modules"}) EXPECT_EQ(experts(arm), 0) << arm;
  // Two layers with one shared expert each: gate and up 2 x 8 x 16, down 16 x 8.
  EXPECT_EQ(trained("shared"), 2 * 3 * 8 * 16);
  EXPECT_EQ(trained("shared-and-modules"), trained("shared") + trained("modules"));
  EXPECT_EQ(trained("full"), trained("shared-and-modules") + 2 * 6 * 3 * 8 * 16);  // and the routed experts
  EXPECT_EQ(experts("at-most-one"), 2);
  EXPECT_EQ(experts("at-least-five"), 10);
  EXPECT_LT(experts("shares"), experts("sums"));  // gate scores of a layer sum to less than one

  // A key that says nothing new does not make another arm: the runs that are there are found.
  const auto files = run_files("first");
  std::string text = content(at("study.toml"));
  text.replace(text.find("p = 0.3\n"), 8, "p = 0.3\nmode = \"exact\"\nmin_experts = 0\nmax_experts = 0\n");
  std::ofstream(at("study.toml")) << text;
  static_cast<void>(succeed({"study", "study.toml", "--out", "first", "--quiet"}));
  EXPECT_EQ(run_files("first"), files);
  // One that does is another arm, whose runs are made.
  text.replace(text.find("min_experts = 0"), 15, "min_experts = 2");
  std::ofstream(at("study.toml")) << text;
  static_cast<void>(succeed({"study", "study.toml", "--out", "first", "--quiet"}));
  EXPECT_GT(run_files("first").size(), files.size());
}

TEST_F(study, the_names_of_runs_stay_what_they_were) {  // or runs that were made would not be found again
  write_study();
  static_cast<void>(succeed({"study", "study.toml", "--out", "first", "--quiet"}));
  const auto files = run_files("first");
  for (const char* name : {"sums.token.c5c0980d.seed1.rate0.01.json", "sums.random.90ed58c7.seed2.rate0.01.json",
                           "sums.factors.e5f9b9ea.seed1.rate0.02.json", "sums.full.edace5f3.seed1.rate0.01.json"}) {
    EXPECT_EQ(std::count(files.begin(), files.end(), name), 1) << name;
  }
}

TEST_F(study, what_cannot_be_trained_is_refused_before_the_first_run) {
  write_study("[[arm]]\nname = \"both\"\nmethod = \"hybrid\"\nscorer = \"token\"\npolicy = \"all\"\nfactors = \"token\"\n");
  const ended result = run({"study", "study.toml", "--out", "none"});
  EXPECT_EQ(result.code, 2);
  EXPECT_NE(result.err.find("the arm both: every expert that is to have factors is trained whole already"), std::string::npos)
      << result.err;
  EXPECT_TRUE(run_files("none").empty());
}

TEST_F(study, another_model_takes_the_place_of_the_files) {
  write_study();
  static_cast<void>(succeed({"study", "study.toml", "--out", "first", "--quiet"}));
  std::filesystem::rename(at("model"), at("elsewhere"));
  static_cast<void>(succeed({"study", "study.toml", "--model", "elsewhere", "--out", "moved", "--quiet"}));
  EXPECT_EQ(content(at("moved/runs.csv")), content(at("first/runs.csv")));
  EXPECT_EQ(content(at("moved/settings.json")), content(at("first/settings.json")));

  write_model("other", 2);
  static_cast<void>(succeed({"study", "study.toml", "--model", "other", "--out", "second", "--quiet"}));
  EXPECT_NE(content(at("second/runs.csv")), content(at("first/runs.csv")));
  const ended mixed = run({"study", "study.toml", "--model", "other", "--out", "first"});
  EXPECT_EQ(mixed.code, 2);
  EXPECT_NE(mixed.err.find("holds runs of another model"), std::string::npos) << mixed.err;

  const ended missing = run({"study", "study.toml", "--model", "nowhere", "--out", "none"});
  EXPECT_EQ(missing.code, 3);  // bad input, docs/exit_codes.md
  EXPECT_NE(missing.err.find("nowhere"), std::string::npos) << missing.err;
  EXPECT_FALSE(std::filesystem::exists(at("none/runs.csv")));
}

TEST_F(study, a_killed_study_goes_on_and_ends_with_the_same_bytes) {
  write_study();
  std::string text = content(at("study.toml"));
  text.replace(text.find("steps = 2"), 9, "steps = 20");  // long beside the time in which this test notices a finished run
  std::ofstream(at("study.toml")) << text;
  static_cast<void>(succeed({"study", "study.toml", "--out", "undisturbed", "--quiet"}));
  {
    end_to_end::process first(folder_, {"study", "study.toml", "--out", "killed", "--quiet"});
    while (run_files("killed").empty()) {
      ASSERT_TRUE(first.running()) << "the study ended too early";
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    first.signal(SIGKILL);
    EXPECT_EQ(first.wait().code, 128 + SIGKILL);
  }
  const auto before = run_files("killed");
  ASSERT_LT(before.size(), 10U);
  EXPECT_FALSE(std::filesystem::exists(at("killed/runs.csv")));
  const auto untouched = std::filesystem::last_write_time(at("killed/runs") / before.front());
  static_cast<void>(succeed({"study", "study.toml", "--out", "killed", "--quiet"}));
  EXPECT_EQ(std::filesystem::last_write_time(at("killed/runs") / before.front()), untouched);
  EXPECT_EQ(run_files("killed"), run_files("undisturbed"));
  for (const char* file : {"runs.csv", "table.csv", "matched.csv", "settings.json"})
    EXPECT_EQ(content(at("killed") / file), content(at("undisturbed") / file)) << file;
}

class bench : public study {
 protected:
  void SetUp() override {
    study::SetUp();
    for (const char* part : {"more.train.jsonl", "more.test.jsonl"}) std::filesystem::copy_file(at("task.jsonl"), at("data") / part);
  }
  [[nodiscard]] static std::vector<std::string> policies(const std::vector<std::string>& more) {
    std::vector<std::string> words{"bench",   "policies", "--model",      "model", "--data",   "data", "--domain", "lines",
                                   "--steps", "1",        "--batch-rows", "4",     "--length", "24",   "--rates",  "0.01"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  [[nodiscard]] std::vector<std::string> members(const std::string& family) const {
    std::vector<std::string> names;
    std::istringstream lines_of(succeed({"list", family}));
    for (std::string line; std::getline(lines_of, line);) names.push_back(line);
    return names;
  }
};

TEST_F(bench, has_every_scorer_policy_and_plan) {
  const auto list = [&](const std::string& tasks) {
    return json(succeed(policies({"--task", tasks, "--seeds", "1,2", "--list", "--json"})));
  };
  const auto names = [](const esft::json_value& value, const char* key) {
    const esft::json_reader reader(value, "output");
    std::vector<std::string> result;
    for (const auto& name : reader.at(key).elements()) result.push_back(name.string());
    return result;
  };
  std::vector<std::string> expected;  // a plan that selects no expert has one arm
  for (const std::string& plan : members("plans")) {
    if (plan == "full" || plan == "hilo") {
      expected.push_back(plan);
      continue;
    }
    for (const std::string& scorer : members("scorers")) {
      for (const std::string& policy : members("policies")) {
        if (plan != "hybrid" || policy != "all") expected.push_back(plan + "." + scorer + "." + policy);
      }
    }
  }
  const auto two_tasks = list("sums,more");
  std::vector<std::string> arms = names(two_tasks, "arms");
  std::sort(arms.begin(), arms.end());
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(arms, expected);
  EXPECT_GT(arms.size(), 9U * 10 * 2);
  EXPECT_EQ(esft::json_reader(two_tasks, "output").at("runs").integer(0, 1 << 30), static_cast<std::int64_t>(arms.size()) * 2 * 2);
  EXPECT_EQ(names(two_tasks, "left_out").size(), 1U);  // hybrid with the policy all
  EXPECT_FALSE(std::filesystem::exists(at("none")));

  const auto one_task = list("sums");
  const auto left_out = names(one_task, "left_out");
  ASSERT_EQ(left_out.size(), 3U);
  for (const char* policy : {"union", "intersection"}) {
    EXPECT_TRUE(std::any_of(left_out.begin(), left_out.end(), [&](const std::string& sentence) {
      return sentence.find(std::string("the policy ") + policy + ", which combines") != std::string::npos;
    })) << policy;
  }
  EXPECT_EQ(names(one_task, "arms").size(), expected.size() - members("scorers").size() * (2 + 2 + 2));
}

TEST_F(bench, writes_one_table_with_mean_and_spread_and_the_trade_off_plot) {
  // Two scorers of one pass and a gradient, every policy, every plan.
  const std::string printed = succeed(policies({"--task", "sums,more", "--seeds", "1,2", "--scorer", "token,fisher", "--out", "some"}));
  const std::size_t arms = 2 + 2 * (11 + 11 + 10);
  const auto table = lines("some/table_with_times.csv");
  ASSERT_EQ(table.size(), 1 + 2 * arms);
  EXPECT_EQ(table[0],
            "task,arm,rate,seeds,experts,trained_parameters,state_bytes,gain,gain_sd,exact,exact_sd,forgotten,forgotten_sd,"
            "trained_parameters_sd,state_bytes_sd,seconds_per_step,seconds_per_step_sd");
  bool spread = false;
  for (std::size_t row = 1; row < table.size(); ++row) {
    const auto values = cells(table[row]);
    ASSERT_EQ(values.size(), 17U);
    EXPECT_EQ(values[3], "2");
    EXPECT_GT(std::stoll(values[5]), 0) << table[row];
    EXPECT_GT(std::stoll(values[6]), 0) << table[row];
    EXPECT_GT(std::stod(values[15]), 0) << table[row];
    EXPECT_GT(std::stod(values[16]), 0) << table[row];
    spread = spread || (std::stod(values[8]) > 0 && std::stod(values[12]) > 0);
  }
  EXPECT_TRUE(spread);
  // What is promised to be the same bits is in table.csv, without the times.
  const auto reproducible = lines("some/table.csv");
  ASSERT_EQ(reproducible.size(), table.size());
  for (std::size_t row = 0; row < table.size(); ++row) EXPECT_EQ(table[row].rfind(reproducible[row] + ",", 0), 0U) << table[row];

  EXPECT_NE(printed.find("Left out: hybrid with the policy all"), std::string::npos);
  const auto line = printed.substr(printed.find("esft.token.top-p "), 400);
  std::size_t means = 0;
  const std::string row = line.substr(0, line.find('\n'));
  for (auto place = row.find(" +- "); place != std::string::npos; place = row.find(" +- ", place + 1)) ++means;
  EXPECT_EQ(means, 6U) << row;  // trained, state, gain, exact, forgotten, time

  for (const char* file : {"some/report.sums.html", "some/report.more.html"}) {
    const std::string page = content(at(file));
    for (const char* part :
         {"Task loss against forgetting", "other domains: token scores", "other domains: fisher scores",
          "esft.token.union, lr 1e-2, mean of 2 runs: task loss ", ">task gain (fall of the loss)</th>", ">forgotten (mean rise)</th>",
          ">trained parameters</th>", ">state</th>", ">s per step</th>", "Left out: hybrid with the policy all"}) {
      EXPECT_NE(page.find(part), std::string::npos) << file << ": " << part;
    }
    const auto cell = page.find(">hybrid.fisher.p-budget</td><td>1e-2</td><td>2</td>");
    ASSERT_NE(cell, std::string::npos);
    const std::string cells_of = page.substr(cell, page.find("</tr>", cell) - cell);
    std::size_t spreads = 0;
    for (auto place = cells_of.find("\xc2\xb1"); place != std::string::npos; place = cells_of.find("\xc2\xb1", place + 1)) ++spreads;
    EXPECT_EQ(spreads, 6U) << cells_of;
  }
}

TEST_F(bench, imitates_a_reference_that_nobody_asked_for_without_running_it) {
  static_cast<void>(succeed(
      policies({"--task", "sums", "--scorer", "token", "--policy", "random,bottom", "--method", "esft,hilo", "--out", "some", "--quiet"})));
  std::vector<std::string> arms;
  for (const std::string& row : lines("some/runs.csv")) arms.push_back(cells(row).at(1));
  EXPECT_EQ(arms, (std::vector<std::string>{"arm", "hilo", "esft.token.random", "esft.token.bottom"}));
  const ended twice = run(policies({"--task", "sums", "--seeds", "1,1", "--out", "none"}));
  EXPECT_EQ(twice.code, 2);
  EXPECT_NE(twice.err.find("names a seed twice"), std::string::npos) << twice.err;
}

}  // namespace end_to_end_study_tests
