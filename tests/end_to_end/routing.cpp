// SPDX-License-Identifier: Apache-2.0
// How far training moved the routing, and how many tokens a choice of experts takes.
#include "end_to_end/workspace.hpp"

#include <esft/io/json_reader.hpp>

#include <string>
#include <vector>

namespace end_to_end_routing_tests {

using esft::json_reader;

class routing : public end_to_end::workspace {};

TEST_F(routing, drift_begins_above_the_lowest_trained_experts) {
  select();
  static_cast<void>(succeed(train("run", "3")));
  const auto printed =
      json(succeed({"drift", "--model", "model", "--adapter", "run", "--data", "other.jsonl", "--length", "24", "--json"}));
  const auto layers = json_reader(printed, "output").at("layers").elements();
  ASSERT_EQ(layers.size(), 2U);  // of the MoE layers, 1 and 2
  const auto number = [](const json_reader& layer, const char* key) { return layer.at(key).number(0, 1e9); };
  // What the first router reads does not depend on an expert, and the router itself is frozen.
  EXPECT_EQ(number(layers[0], "layer"), 1);
  EXPECT_GT(number(layers[0], "tokens"), 100);
  EXPECT_EQ(number(layers[0], "kept"), 1);
  EXPECT_EQ(number(layers[0], "unchanged"), 1);
  EXPECT_EQ(number(layers[0], "weight_moved"), 0);
  EXPECT_EQ(number(layers[0], "load_moved"), 0);
  EXPECT_EQ(number(layers[1], "tokens"), number(layers[0], "tokens"));
  EXPECT_GT(number(layers[1], "weight_moved"), 0);
  EXPECT_LE(number(layers[1], "kept"), 1);

  const std::string table = succeed({"drift", "--model", "model", "--adapter", "run", "--data", "other.jsonl", "--length", "24"});
  EXPECT_NE(table.find("weight moved"), std::string::npos) << table;
  EXPECT_EQ(run({"drift", "--model", "model", "--data", "other.jsonl"}).code, 2);
  write_model("stranger", 2);
  EXPECT_EQ(run({"drift", "--model", "stranger", "--adapter", "run", "--data", "other.jsonl"}).code, 3);
}

TEST_F(routing, stability_compares_two_samples_that_double) {
  const auto measure = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"stability",      "--model", "model",    "--data", "task.jsonl",
                                   "--first-tokens", "16",      "--length", "24",     "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return json(succeed(words));
  };
  for (const char* scorer : {"token", "output-norm", "fisher"}) {
    const auto printed = measure({"--scorer", scorer});
    const json_reader result(printed, "output");
    EXPECT_EQ(result.at("k").integer(0, 100), 2);  // as many as a token takes
    EXPECT_NEAR(result.at("by_chance").number(0, 2), 2.0 * 2 / 6, 1e-12);
    const auto points = result.at("points").elements();
    ASSERT_GE(points.size(), 2U) << scorer;
    for (std::size_t i = 0; i < points.size(); ++i) {
      EXPECT_LE(points[i].at("shared").number(0, 100), 2) << scorer;
    }
    for (std::size_t i = 1; i < points.size(); ++i)
      EXPECT_GT(points[i].at("tokens").integer(0, 1000), points[i - 1].at("tokens").integer(0, 1000)) << scorer;
  }
  const auto everything = measure({"--k", "6"});
  for (const auto& point : json_reader(everything, "output").at("points").elements()) EXPECT_EQ(point.at("shared").number(0, 100), 6);

  const auto refusal = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words{"stability", "--model", "model", "--data", "task.jsonl", "--length", "24"};
    words.insert(words.end(), more.begin(), more.end());
    const auto ended = run(words);
    EXPECT_EQ(ended.code, 2) << ended.err;
    return ended.err;
  };
  EXPECT_NE(refusal({"--scorer", "condition", "--first-tokens", "16"}).find("reads the weights only"), std::string::npos);
  EXPECT_NE(refusal({"--first-tokens", "100000"}).find("less than two samples"), std::string::npos);
  EXPECT_NE(refusal({"--k", "7"}).find("a layer has 6 experts"), std::string::npos);
}

}  // namespace end_to_end_routing_tests
