// SPDX-License-Identifier: Apache-2.0
// `esft score` by every scorer, what `esft select` makes of it, and what each refuses.
#include "end_to_end/workspace.hpp"

#include <esft/io/json_reader.hpp>
#include <esft/io/score_summary.hpp>
#include <esft/relevance/scorers.hpp>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

namespace end_to_end_scoring_tests {

using end_to_end::content;
using end_to_end::ended;

/// Names of all scorers, with commas between them.
std::string every_scorer() {
  std::string names;
  esft::builtin_scorers::for_each([&]<class Scorer>() { names += (names.empty() ? "" : ",") + std::string(Scorer::name); });
  return names;
}

class scoring : public end_to_end::workspace {
 protected:
  [[nodiscard]] static std::vector<std::string> words(const std::string& scorers, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all{"score", "--model", "model", "--data", "task.jsonl", "--length", "24", "--out", "scores.json"};
    if (!scorers.empty()) all.insert(all.end(), {"--scorer", scorers});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  /// Scores as the file holds them. The tool's defaults hold, but for what `more` says.
  [[nodiscard]] esft::score_summary scores(const std::string& scorers, const std::vector<std::string>& more = {}) const {
    static_cast<void>(succeed(words(scorers, more)));
    return esft::read_score_summary(at("scores.json"));
  }
  void refused(const std::vector<std::string>& arguments, const std::string& why) const {
    std::filesystem::remove(at("scores.json"));
    const ended result = run(arguments);
    EXPECT_EQ(result.code, 2);
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(at("scores.json")));
  }
};

void expect_near(const esft::score_summary& got, const esft::score_summary& want, double tolerance) {
  ASSERT_EQ(got.names(), want.names());
  for (const std::string& name : want.names()) {
    for (const auto& [layer, content] : want.find(name)->layers) {
      const double scale = *std::max_element(content.scores.begin(), content.scores.end());
      for (std::size_t e = 0; e < content.scores.size(); ++e) {
        EXPECT_NEAR(got.find(name)->layers.at(layer).scores[e], content.scores[e], tolerance * scale) << name << " of expert " << e;
      }
    }
  }
}

TEST_F(scoring, every_scorer_gives_scores_that_select_takes) {
  const auto together = scores(every_scorer());
  EXPECT_EQ(together.names().size(), esft::builtin_scorers::size);
  esft::builtin_scorers::for_each([&]<class Scorer>() {
    const std::string name{Scorer::name};
    const auto alone = scores(name);
    EXPECT_EQ(alone.names(), std::vector{name});
    ASSERT_NE(together.find(name), nullptr) << name;
    for (const std::int32_t layer : {1, 2}) {
      const auto& values = alone.find(name)->layers.at(esft::layer_index{layer}).scores;
      EXPECT_EQ(values, together.find(name)->layers.at(esft::layer_index{layer}).scores) << name;
      EXPECT_EQ(values.size(), 6U) << name;
      EXPECT_GT(std::accumulate(values.begin(), values.end(), 0.0), 0) << name;
    }
    // the file has one score, so nobody needs to say which
    static_cast<void>(succeed({"select", "--scores", "scores.json", "--policy", "top-k", "--k", "2", "--out", name + ".json"}));
    EXPECT_EQ(esft::read_expert_config(at(name + ".json")).experts.size(), 4U) << name;
    static_cast<void>(succeed({"select", "--scores", "scores.json", "--p", "0.5", "--out", name + ".json"}));
  });
}

TEST_F(scoring, backends_agree) {
  const std::vector<std::string> plain{"--dtype", "float32", "--backend", "reference"};
  const std::vector<std::string> fast{"--dtype", "float32", "--backend", "eigen"};
  const auto reference = scores(every_scorer(), plain);
  expect_near(scores(every_scorer(), fast), reference, 1e-3);
}

TEST_F(scoring, answers_alone_are_fewer_tokens) {
  const auto tokens = [&](const std::string& which) {
    const auto result = json(succeed(words("", {"--tokens", which, "--json"})));
    return esft::json_reader(result, "output").at("tokens").integer(0, 1'000'000);
  };
  const auto answers = tokens("answer");
  EXPECT_GT(answers, 0);
  EXPECT_LT(answers, tokens("all"));
  // and other scores, in gradients too
  const std::vector<std::string> answer{"--tokens", "answer"};
  const esft::layer_index layer{1};
  EXPECT_NE(scores("fisher", answer).find("fisher")->layers.at(layer).scores, scores("fisher").find("fisher")->layers.at(layer).scores);
}

TEST_F(scoring, layers_apart_give_the_same_file) {
  static_cast<void>(succeed(words("fisher,taylor")));
  const std::string together = content(at("scores.json"));
  static_cast<void>(succeed(words("fisher,taylor", {"--layers-at-once", "1"})));
  EXPECT_EQ(content(at("scores.json")), together);
}

TEST_F(scoring, the_default_is_the_official_file) {
  EXPECT_EQ(scores("").names(), (std::vector<std::string>{"token", "gate"}));
  EXPECT_EQ(content(at("scores.json")).find("other_scores"), std::string::npos);
}

TEST_F(scoring, weights_need_no_data) {
  static_cast<void>(succeed({"score", "--model", "model", "--scorer", "condition", "--out", "scores.json"}));
  EXPECT_EQ(esft::read_score_summary(at("scores.json")).names(), std::vector<std::string>{"condition"});
  refused({"score", "--model", "model", "--scorer", "condition,fisher", "--out", "scores.json"}, "--data");
}

TEST_F(scoring, what_a_scorer_cannot_do_is_refused) {
  refused(words("relevance"), "relevance");
  refused(words("reap", {"--mean", "per-sample"}), "the scorer reap has no per-sample mean");
  static_cast<void>(succeed(words("token,weighted-frequency", {"--mean", "per-sample"})));
}

TEST_F(scoring, routing_logs_serve_the_scorers_of_routing) {
  std::filesystem::create_directories(at("trace"));
  std::ofstream(at("trace/expert_weights_1.txt")) << "1\t0\t1\t3\t\t0.5000\t0.2500\t0.7500\t0.2500\n";
  const auto trace = [](const std::string& scorer) {
    return std::vector<std::string>{"score", "--trace",  "trace", "--top-k", "2",          "--experts",
                                    "4",     "--scorer", scorer,  "--out",   "scores.json"};
  };
  static_cast<void>(succeed(trace("weighted-frequency")));
  const auto read = esft::read_score_summary(at("scores.json"));
  const auto& values = read.find("weighted-frequency")->layers.at(esft::layer_index{1}).scores;
  const std::vector<double> by_hand{(.25 / .75) / 2, (.5 / .75 + .75) / 2, 0, .25 / 2};
  for (std::size_t e = 0; e < 4; ++e) EXPECT_NEAR(values[e], by_hand[e], 1e-7);
  for (const char* scorer : {"reap", "output-norm", "taylor", "fisher", "gradient", "condition"}) {
    refused(trace(scorer), std::string("--scorer ") + scorer + " reads more than the routing");
  }
}

TEST_F(scoring, a_choice_among_scores_is_asked_for) {
  static_cast<void>(succeed(words("gate,reap")));
  const ended unsaid = run({"select", "--scores", "scores.json", "--out", "chosen.json"});
  EXPECT_EQ(unsaid.code, 2);
  EXPECT_NE(unsaid.err.find("has the scores gate, reap: say by --score"), std::string::npos) << unsaid.err;
  static_cast<void>(succeed({"select", "--scores", "scores.json", "--score", "reap", "--out", "chosen.json"}));
}

}  // namespace end_to_end_scoring_tests
