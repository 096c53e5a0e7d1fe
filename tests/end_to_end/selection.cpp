// SPDX-License-Identifier: Apache-2.0
// `esft select` by every policy that needs more than a number: budgets, shares of a layer, and selections of other tasks.
#include "end_to_end/workspace.hpp"

#include <esft/io/json_reader.hpp>
#include <esft/io/score_summary.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace end_to_end_selection_tests {

using end_to_end::ended;
using chosen = std::map<std::int32_t, std::vector<std::int32_t>>;

class selection : public end_to_end::workspace {
 protected:
  void SetUp() override {
    workspace::SetUp();
    esft::score_summary summary;
    summary.token_scores.layers[esft::layer_index{1}].scores = {0.4, 0.3, 0.2, 0.1};
    summary.token_scores.layers[esft::layer_index{2}].scores = {0.1, 0.1, 0.15, 0.65};
    summary.others["reap"] = summary.token_scores;
    for (auto& [layer, content] : summary.others["reap"].layers) {
      for (double& score : content.scores) score *= 30;
    }
    esft::save_score_summary(at("scores.json"), summary);
    write_experts("a.json", {{1, {0, 1}}, {2, {3}}});
    write_experts("b.json", {{1, {2, 1}}, {2, {0}}});
  }

  [[nodiscard]] static std::vector<std::string> words(const std::string& policy, const std::vector<std::string>& more) {
    std::vector<std::string> all{"select", "--scores", "scores.json", "--policy", policy, "--out", "chosen.json"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  [[nodiscard]] chosen by(const std::string& policy, const std::vector<std::string>& more) const {
    static_cast<void>(succeed(words(policy, more)));
    chosen result;
    for (const auto& [layer, experts] : esft::read_expert_config(at("chosen.json")).experts.layers) {
      for (const auto expert : experts) result[layer.value].push_back(expert.value);
    }
    return result;
  }
  /// A selection that is refused as wrong usage, with `why` in the message, and writes nothing.
  void refused(const std::string& policy, const std::vector<std::string>& more, const std::string& why) const {
    std::filesystem::remove(at("chosen.json"));
    const ended result = run(words(policy, more));
    EXPECT_EQ(result.code, 2) << policy;
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(at("chosen.json"))) << policy;
  }
};

TEST_F(selection, fraction_takes_the_same_share_of_every_layer) {
  EXPECT_EQ(by("fraction", {"--fraction", "0.5"}), (chosen{{1, {0, 1}}, {2, {3, 2}}}));
  EXPECT_EQ(by("fraction", {}), (chosen{{1, {0}}, {2, {3}}}));  // a quarter
  refused("fraction", {"--fraction", "0"}, "fraction = 0");
}

TEST_F(selection, an_option_of_another_policy_is_refused) {
  refused("top-k", {"--k", "2", "--p", "0.1"}, "the policy top-k does not take --p; it takes k");
  refused("top-p", {"--k", "2"}, "the policy top-p does not take --k; it takes p, mode, normalization");
  refused("all", {"--seed", "1"}, "the policy all does not take --seed; it takes no options");
  refused("fraction", {"--model", "."}, "does not take --model");
}

TEST_F(selection, budget_takes_the_best_of_all_layers) {
  EXPECT_EQ(by("budget", {"--budget", "4"}), (chosen{{1, {0, 1, 2}}, {2, {3}}}));
  EXPECT_EQ(by("budget", {"--budget", "45", "--expert-parameters", "10"}), (chosen{{1, {0, 1, 2}}, {2, {3}}}));
  // one expert of the model is 3 * 16 * 8 parameters
  EXPECT_EQ(by("budget", {"--budget", "1535", "--model", "model"}), (chosen{{1, {0, 1}}, {2, {3}}}));
  refused("budget", {}, "needs budget");
  refused("budget", {"--budget", "0"}, "budget = 0");
}

TEST_F(selection, budget_says_what_was_spent_and_when_it_is_exceeded) {
  const auto report = [&](const std::string& budget) { return json(succeed(words("budget", {"--budget", budget, "--json"}))); };
  const auto within = report("3");
  const esft::json_reader fits(within, "output");
  EXPECT_EQ(fits.at("spent").integer(0, 100), 3);
  EXPECT_EQ(fits.at("selected").integer(0, 100), 3);
  EXPECT_FALSE(fits.at("exceeded").boolean());
  const auto beyond = report("1");
  const esft::json_reader exceeds(beyond, "output");
  EXPECT_EQ(exceeds.at("spent").integer(0, 100), 2);  // every layer keeps one
  EXPECT_EQ(exceeds.at("budget").integer(0, 100), 1);
  EXPECT_TRUE(exceeds.at("exceeded").boolean());
  EXPECT_NE(run(words("budget", {"--budget", "1"})).err.find("--budget 2 is the least"), std::string::npos);
}

TEST_F(selection, p_budget_finds_the_p_that_fits) {
  const auto result = json(succeed(words("p-budget", {"--budget", "4", "--json"})));
  const esft::json_reader root(result, "output");
  EXPECT_EQ(root.at("spent").integer(0, 100), 4);
  EXPECT_NEAR(root.at("p").number(0, 1), 0.7, 1e-8);  // beyond it layer 1 needs a third expert
  EXPECT_EQ(by("p-budget", {"--budget", "4"}), (chosen{{1, {0, 1}}, {2, {3, 2}}}));
  EXPECT_EQ(by("p-budget", {"--budget", "3"}), (chosen{{1, {0, 1}}, {2, {3}}}));
  refused("p-budget", {}, "needs budget");
}

TEST_F(selection, bottom_takes_as_many_of_the_worst) {
  EXPECT_EQ(by("bottom", {"--like", "a.json"}), (chosen{{1, {3, 2}}, {2, {0}}}));
  refused("bottom", {}, "needs like exactly once");
  refused("bottom", {"--like", "a.json", "--like", "b.json"}, "needs like exactly once");
}

TEST_F(selection, union_and_intersection_combine_tasks) {
  const std::vector<std::string> both{"--like", "a.json", "--like", "b.json"};
  EXPECT_EQ(by("union", both), (chosen{{1, {0, 1, 2}}, {2, {3, 0}}}));
  const auto common = esft::expert_set{{{esft::layer_index{1}, {esft::expert_index{1}}}, {esft::layer_index{2}, {}}}};
  static_cast<void>(succeed(words("intersection", both)));
  EXPECT_EQ(esft::read_expert_config(at("chosen.json")).experts, common);  // a layer without any expert keeps its key
  refused("union", {}, "needs like at least once");
  refused("intersection", {}, "needs like at least once");
}

TEST_F(selection, scores_of_any_scorer_are_compared_as_shares_of_their_layer) {
  const std::vector<std::string> reap{"--score", "reap", "--p", "0.5"};
  EXPECT_EQ(by("top-p", reap), by("top-p", {"--p", "0.5"}));
  EXPECT_EQ(by("top-p", {"--score", "reap", "--p", "0.5", "--normalization", "layer-sum"}), (chosen{{1, {0, 1}}, {2, {3}}}));
  for (const auto& [policy, needs] : std::map<std::string, std::vector<std::string>>{
           {"top-p", {}}, {"p-budget", {"--budget", "4"}}, {"top-p-groups", {"--group", "2"}}}) {
    std::vector<std::string> as_they_are{"--score", "reap", "--normalization", "none"};
    as_they_are.insert(as_they_are.end(), needs.begin(), needs.end());
    refused(policy, as_they_are, "the reap scores of layer 1 sum to 30");
  }
  EXPECT_EQ(by("top-p-groups", {"--score", "reap", "--p", "0.5", "--group", "2"}), (chosen{{1, {0, 1}}, {2, {2, 3}}}));
  EXPECT_EQ(by("budget", {"--score", "reap", "--budget", "3", "--normalization", "none"}), (chosen{{1, {0, 1}}, {2, {3}}}));
  refused("top-p", {"--score", "fisher"}, "it has token, reap");
}

}  // namespace end_to_end_selection_tests
