// SPDX-License-Identifier: Apache-2.0
// `esft group`: experts that are chosen together move side by side and are taken as a whole; nothing else of the model changes.
#include "end_to_end/workspace.hpp"

#include <esft/analysis/expert_grouping.hpp>
#include <esft/io/group_model.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/npy.hpp>
#include <esft/io/routing_log.hpp>

#include <map>
#include <string>
#include <vector>

namespace end_to_end_grouping_tests {

using end_to_end::ended;
using esft::expert_index;
using esft::layer_index;

class grouping : public end_to_end::workspace {
 protected:
  /// Routing of a model over data, as `esft score --log` writes it.
  template <class Observe>
  void routing(const std::string& model, const std::string& data, Observe&& observe) const {
    const std::string log = model + ".log";
    static_cast<void>(succeed({"score", "--model", model, "--data", data, "--length", "24", "--log", log, "--out", model + ".json"}));
    esft::read_routing_logs(at(log), {6, 2}, observe);
  }
  [[nodiscard]] std::vector<float> logits(const std::string& model) const {
    static_cast<void>(succeed({"logits", "--model", model, "--ids", "72,101,108,108,111,32,49,50", "--out", model + ".npy"}));
    const esft::npy_array array = esft::read_npy(at(model + ".npy"));
    const auto values = array.as<float>();
    return {values.begin(), values.end()};
  }
  [[nodiscard]] static std::vector<std::string> group(const std::string& size, const std::vector<std::string>& more = {}) {
    std::vector<std::string> words{"group", "--model", "model", "--data", "other.jsonl", "--length", "24", "--size", size, "--out", "bound"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

TEST_F(grouping, only_the_numbers_of_the_experts_change) {
  esft::expert_groups backwards;  // of one expert each: a model that computes the same
  for (const int layer : {1, 2}) {
    for (const int expert : {5, 4, 3, 2, 1, 0}) backwards[layer_index(layer)].push_back({expert_index(expert)});
  }
  esft::group_model(at("model"), backwards, at("backwards"));
  const auto before = esft::model_directory::open(at("model"));
  const auto after = esft::model_directory::open(at("backwards"));
  EXPECT_EQ(before.names(), after.names());
  EXPECT_EQ(after.tensor_digest("model.layers.2.mlp.experts.1.down_proj.weight"),
            before.tensor_digest("model.layers.2.mlp.experts.4.down_proj.weight"));
  EXPECT_NE(after.digest(), before.digest());
  EXPECT_EQ(after.tensor_digest("model.layers.1.self_attn.q_proj.weight"), before.tensor_digest("model.layers.1.self_attn.q_proj.weight"));
  const std::vector<float> same = logits("backwards");  // but for the order in which the rows of a token are added up
  const std::vector<float> plain = logits("model");
  ASSERT_EQ(same.size(), plain.size());
  for (std::size_t i = 0; i < plain.size(); ++i) ASSERT_NEAR(same[i], plain[i], 1e-5) << i;
}

TEST_F(grouping, experts_that_are_chosen_together_are_taken_together) {
  esft::co_occurrence counts;
  routing("model", "other.jsonl", [&](const esft::routing_record& record) { counts.observe(record); });
  const esft::json_value result = json(succeed(group("2", {"--json"})));
  const esft::json_reader groups = esft::json_reader(result, "result").at("groups");
  for (const auto& [layer, matrix] : counts.layers()) {
    const auto expected = esft::group_experts(esft::row_similarity(matrix), 2);
    const auto listed = groups.at(std::to_string(layer.value)).elements();
    ASSERT_EQ(listed.size(), 3U);
    for (std::size_t g = 0; g < 3; ++g) {
      for (std::size_t m = 0; m < 2; ++m) EXPECT_EQ(listed[g].elements()[m].integer(0, 5), expected[g][m].value);
    }
  }
  std::map<layer_index, std::map<int, int>> taken;  // how often a group is taken
  routing("bound", "task.jsonl", [&](const esft::routing_record& record) {
    for (std::size_t i = 0; i < record.ids.size(); i += 2) {
      ASSERT_EQ(record.ids[i] % 2, 0);
      ASSERT_EQ(record.ids[i + 1], record.ids[i] + 1);
      ASSERT_EQ(record.weights[i], record.weights[i + 1]);
      ++taken[record.layer][record.ids[i] / 2];
    }
  });
  ASSERT_EQ(taken.size(), 2U);
  EXPECT_GT(taken[layer_index(1)].size() + taken[layer_index(2)].size(), 2U) << "not always the same group";
  EXPECT_NE(logits("bound"), logits("model"));
  // the whole way on it: whole groups are selected, trained and proved
  static_cast<void>(succeed(
      {"select", "--scores", "bound.json", "--policy", "top-p-groups", "--group", "2", "--p", "0.3", "--out", "experts.json"}));
  for (const auto& [layer, experts] : esft::read_expert_config(at("experts.json")).experts.layers) EXPECT_EQ(experts.size() % 2, 0U);
  static_cast<void>(succeed({"train", "--model", "bound", "--data", "task.jsonl", "--experts", "experts.json", "--steps", "3", "--lr",
                             "0.01", "--length", "24", "--out", "run"}));
  static_cast<void>(succeed({"verify", "bound", "run"}));
}

TEST_F(grouping, what_cannot_be_grouped_is_refused_before_any_work) {
  const auto refused = [&](const std::vector<std::string>& words, const std::string& why) {
    const ended result = run(words);
    EXPECT_EQ(result.code, 2) << result.err;
    EXPECT_NE(result.err.find(why), std::string::npos) << result.err;
    EXPECT_FALSE(std::filesystem::exists(at("bound")));
  };
  refused(group("3"), "groups of 3 must divide the 6 experts of a layer and the 2 of a token");
  refused(group("0"), "groups of 0");
  static_cast<void>(succeed(group("2")));
  std::vector<std::string> again = group("2");
  again[2] = "bound";
  again.back() = "twice";
  const ended result = run(again);
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_NE(result.err.find("has no groups yet"), std::string::npos) << result.err;
}

}  // namespace end_to_end_grouping_tests
