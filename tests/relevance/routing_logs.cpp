// SPDX-License-Identifier: Apache-2.0
// From routing logs to the official files: a small log made here, and the published artefacts where they are at hand.
#include <esft/io/expert_config.hpp>
#include <esft/io/routing_log.hpp>
#include <esft/io/score_summary.hpp>
#include <esft/relevance.hpp>
#include <esft/selection.hpp>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace routing_logs_tests {

using esft::layer_index;
namespace fs = std::filesystem;

esft::score_summary scores_of(const fs::path& logs, const esft::routing_log_options& options) {
  esft::token_selection_ratio token;
  esft::average_gate_score gate;
  esft::read_routing_logs(logs, options, [&](const esft::routing_record& record) {
    token.observe(record);
    gate.observe(record);
  });
  return {token.scores(), gate.scores()};
}

/// Largest distance of a score from its published value; every layer of `scores` must be published.
double distance(const esft::score_table& scores, const esft::score_table& published) {
  double largest = 0;
  for (const auto& [index, layer] : scores.layers) {
    const auto& expected = published.layers.at(index).scores;
    EXPECT_EQ(layer.scores.size(), expected.size());
    for (std::size_t e = 0; e < expected.size(); ++e) largest = std::max(largest, std::abs(layer.scores[e] - expected[e]));
  }
  return largest;
}

TEST(routing_logs, a_small_log_gives_scores_summary_and_selection) {
  const fs::path directory = fs::path(testing::TempDir()) / "esft_small_log";
  fs::remove_all(directory);
  fs::create_directories(directory);
  for (const char* layer : {"1", "12"}) {  // two forward passes: the worked example of two and four tokens
    std::ofstream log(directory / ("expert_weights_" + std::string(layer) + ".txt"));
    log << "0\t1\t0\t2\t\t0.5\t0.3\t0.6\t0.2\n";
    log << "1\t3\t1\t0\t1\t2\t3\t1\t\t0.4\t0.4\t0.7\t0.1\t0.5\t0.25\t0.45\t0.35\n";
  }
  const auto summary = scores_of(directory, {.experts = 4, .active = 2});
  ASSERT_EQ(summary.token_scores.layers.size(), 2U);
  EXPECT_EQ(summary.token_scores.tokens, 6);
  EXPECT_EQ(summary.token_scores.layers.at(layer_index(12)).counts, (std::vector<std::int64_t>{3, 5, 2, 2}));
  EXPECT_NEAR(summary.gate_scores.layers.at(layer_index(12)).scores[3], 17.0 / 120, 1e-7);

  esft::save_score_summary(directory / "summary.json", summary);
  const auto read = esft::read_score_summary(directory / "summary.json");
  for (const auto& [kind, raw] : {std::pair{&read.token_scores, &summary.token_scores}, {&read.gate_scores, &summary.gate_scores}}) {
    for (const auto& [index, layer] : esft::round_to_4_decimals(*raw).layers) EXPECT_EQ(kind->layers.at(index).scores, layer.scores);
  }
  const auto selected = esft::top_p({.p = .5}).select(read.token_scores);
  EXPECT_EQ(selected, esft::top_p({.p = .5}).select(summary.token_scores));
  esft::save_expert_config(directory / "expert_cfg.json", {selected, false, false});
  EXPECT_EQ(esft::read_expert_config(directory / "expert_cfg.json").experts, selected);
  EXPECT_EQ(selected.layers.at(layer_index(1)), (std::vector{esft::expert_index(1), esft::expert_index(0)}));
  fs::remove_all(directory);
}

class published_artefacts : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const char* root = std::getenv("ESFT_OFFICIAL_DATA");
    if (root == nullptr) GTEST_SKIP() << "ESFT_OFFICIAL_DATA is not set: give the directory of the published ESFT results to run this";
    task_ = fs::path(root) / GetParam();
  }
  fs::path task_;
};

INSTANTIATE_TEST_SUITE_P(tasks, published_artefacts, testing::Values("intent", "summary"));

TEST_P(published_artefacts, raw_logs_reproduce_every_score_to_four_decimals) {
  const auto published = esft::read_score_summary(task_ / "summary.json");
  const auto scores = scores_of(task_, {.experts = 64, .active = 6});
  EXPECT_FALSE(scores.token_scores.layers.empty());
  EXPECT_LE(distance(scores.token_scores, published.token_scores), 5e-5 + 1e-9);
  EXPECT_LE(distance(scores.gate_scores, published.gate_scores), 5e-5 + 1e-6);  // the logged weights are rounded as well
}

TEST_P(published_artefacts, token_scores_and_a_fifth_reproduce_the_expert_config) {
  const auto published = esft::read_score_summary(task_ / "summary.json");
  const auto expected = esft::read_expert_config(task_ / "expert_cfg.json").experts;
  ASSERT_EQ(expected.layers.size(), 26U);
  EXPECT_EQ(expected.size(), GetParam() == std::string("intent") ? 124U : 128U);
  for (const auto mode : {esft::threshold_mode::official_compat, esft::threshold_mode::exact}) {
    EXPECT_EQ(esft::top_p({.p = .2, .mode = mode}).select(published.token_scores), expected);
  }
}

TEST_P(published_artefacts, raw_logs_give_the_same_selection_after_the_official_rounding) {
  const auto expected = esft::read_expert_config(task_ / "expert_cfg.json").experts;
  const auto scores = scores_of(task_, {.experts = 64, .active = 6}).token_scores;
  const auto official = esft::top_p({.p = .2, .mode = esft::threshold_mode::official_compat, .round_scores = true}).select(scores);
  for (const auto& [index, experts] : official.layers) EXPECT_EQ(experts, expected.layers.at(index)) << "layer " << index.value;
  const auto exact = esft::top_p({.p = .2}).select(scores);
  for (const auto& [index, experts] : exact.layers) EXPECT_EQ(experts, expected.layers.at(index)) << "layer " << index.value;
}

TEST_P(published_artefacts, normalising_over_layers_instead_would_not) {
  auto table = esft::read_score_summary(task_ / "summary.json").token_scores;
  std::vector<double> column(64);
  for (const auto& [index, layer] : table.layers) {
    for (std::size_t e = 0; e < 64; ++e) column[e] += layer.scores[e];
  }
  for (auto& [index, layer] : table.layers) {
    for (std::size_t e = 0; e < 64; ++e) layer.scores[e] /= column[e];
  }
  const auto wrong = esft::top_p({.p = .2, .mode = esft::threshold_mode::official_compat}).select(table);
  EXPECT_EQ(wrong.size(), GetParam() == std::string("intent") ? 52U : 55U);
}

}  // namespace routing_logs_tests
