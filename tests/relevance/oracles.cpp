// SPDX-License-Identifier: Apache-2.0
// Scores worked out by hand: the example with two samples of different length, and counts over two layers.
#include <esft/relevance.hpp>
#include <esft/selection.hpp>

#include "synthetic.hpp"

#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

namespace oracles_tests {

using esft::layer_index;
using esft::sample_mean;
using esft::scorer_options;
using esft_test::owned_record;
using esft_test::worked_example;

template <class Scorer>
esft::score_table score(const owned_record& record, sample_mean mean) {
  Scorer scorer(scorer_options{mean});
  scorer.observe(record.view());
  return scorer.scores();
}

void expect_scores(const esft::score_table& table, const std::vector<double>& expected, double tolerance) {
  const auto& scores = table.layers.at(layer_index(3)).scores;
  ASSERT_EQ(scores.size(), expected.size());
  for (std::size_t e = 0; e < expected.size(); ++e) EXPECT_NEAR(scores[e], expected[e], tolerance) << "expert " << e;
}

std::vector<int> chosen(const esft::score_table& table, double p, esft::threshold_mode mode) {
  const auto selected = esft::top_p({.p = p, .mode = mode}).select(table);
  std::vector<int> ids;
  for (const auto expert : selected.layers.at(layer_index(3))) ids.push_back(expert.value);
  return ids;
}

constexpr auto exact = esft::threshold_mode::exact;
constexpr auto official = esft::threshold_mode::official_compat;

TEST(empty_slots, choose_nobody) {
  owned_record record{layer_index(3), 3, 2, {}, {}, {}};
  record.add({{0, .5F}, {esft::no_expert, 0.0F}}, 0);
  record.add({{2, .25F}, {0, .5F}}, 0);
  expect_scores(score<esft::token_selection_ratio>(record, sample_mean::pooled), {.5, 0, .25}, 1e-12);  // of the slots, empty ones counted
  expect_scores(score<esft::average_gate_score>(record, sample_mean::pooled), {.5, 0, .125}, 1e-12);
  record.add({{-2, .5F}, {0, .5F}}, 0);
  EXPECT_THROW(score<esft::average_gate_score>(record, sample_mean::pooled), esft::error);
}

TEST(gate_score, per_sample_mean_is_equation_6) {
  const auto table = score<esft::average_gate_score>(worked_example(), sample_mean::per_sample);
  expect_scores(table, {23.0 / 80, 51.0 / 160, 13.0 / 160, 17.0 / 160}, 1e-7);  // weights are float32
  for (const auto mode : {exact, official}) {
    EXPECT_EQ(chosen(table, .1, mode), (std::vector{1}));
    EXPECT_EQ(chosen(table, .3, mode), (std::vector{1}));
    EXPECT_EQ(chosen(table, .5, mode), (std::vector{1, 0}));
  }
}

TEST(gate_score, pooled_mean_is_the_official_aggregation) {
  const auto table = score<esft::average_gate_score>(worked_example(), sample_mean::pooled);
  expect_scores(table, {1.0 / 5, 3.0 / 8, 3.0 / 40, 17.0 / 120}, 1e-7);
  for (const auto mode : {exact, official}) {
    EXPECT_EQ(chosen(table, .5, mode), (std::vector{1, 0}));
    EXPECT_EQ(chosen(table, 1, mode), (std::vector{1, 0, 3, 2}));  // the layer sums to 19/24 only
  }
  EXPECT_TRUE(table.layers.at(layer_index(3)).counts.empty());
}

TEST(token_score, per_sample_mean_is_equation_7) {
  const auto table = score<esft::token_selection_ratio>(worked_example(), sample_mean::per_sample);
  expect_scores(table, {5.0 / 16, 3.0 / 8, 3.0 / 16, 1.0 / 8}, 1e-15);
  EXPECT_TRUE(table.layers.at(layer_index(3)).counts.empty());
  for (const auto mode : {exact, official}) {
    EXPECT_EQ(chosen(table, .2, mode), (std::vector{1}));
    EXPECT_EQ(chosen(table, .5, mode), (std::vector{1, 0}));
  }
}

TEST(token_score, pooled_mean_keeps_the_counts) {
  const auto table = score<esft::token_selection_ratio>(worked_example(), sample_mean::pooled);
  expect_scores(table, {1.0 / 4, 5.0 / 12, 1.0 / 6, 1.0 / 6}, 1e-15);
  EXPECT_EQ(table.layers.at(layer_index(3)).counts, (std::vector<std::int64_t>{3, 5, 2, 2}));
  EXPECT_EQ(table.layers.at(layer_index(3)).total_count, 12);
  EXPECT_EQ(table.tokens, 6);
  for (const auto mode : {exact, official}) {
    EXPECT_EQ(chosen(table, .4, mode), (std::vector{1}));
    EXPECT_EQ(chosen(table, .5, mode), (std::vector{1, 0}));
    EXPECT_EQ(chosen(table, 1, mode), (std::vector{1, 0, 2, 3}));
  }
}

TEST(token_score, both_means_agree_when_samples_are_equally_long) {
  owned_record record = worked_example();
  record.sample = {0, 0, 0, 1, 1, 1};
  const auto pooled = score<esft::token_selection_ratio>(record, sample_mean::pooled);
  expect_scores(score<esft::token_selection_ratio>(record, sample_mean::per_sample), pooled.layers.at(layer_index(3)).scores, 1e-15);
}

TEST(token_score, a_record_is_a_new_sample_even_under_the_same_number) {
  const auto whole = worked_example();
  owned_record first{whole.layer, 4, 2, {}, {}, {}};
  owned_record second = first;
  for (std::size_t t = 0; t < 6; ++t) {
    (t < 2 ? first : second).add({{whole.ids[2 * t], whole.weights[2 * t]}, {whole.ids[2 * t + 1], whole.weights[2 * t + 1]}}, 0);
  }
  esft::token_selection_ratio scorer({sample_mean::per_sample});
  scorer.observe(first.view());
  scorer.observe(second.view());
  expect_scores(scorer.scores(), {5.0 / 16, 3.0 / 8, 3.0 / 16, 1.0 / 8}, 1e-15);
}

TEST(token_score, is_normalised_over_experts_and_not_over_layers) {
  // counts [[6,3,1],[1,3,6]]
  esft::token_selection_ratio scorer;
  const std::vector<std::vector<int>> counts{{6, 3, 1}, {1, 3, 6}};
  for (std::size_t layer = 0; layer < 2; ++layer) {
    owned_record record{layer_index(static_cast<std::int32_t>(layer)), 3, 1, {}, {}, {}};
    for (std::int32_t e = 0; e < 3; ++e) {
      for (int n = 0; n < counts[layer][static_cast<std::size_t>(e)]; ++n) record.add({{e, 1.0F}}, 0);
    }
    scorer.observe(record.view());
  }
  const auto table = scorer.scores();
  EXPECT_EQ(table.layers.at(layer_index(0)).scores, (std::vector{.6, .3, .1}));
  EXPECT_EQ(table.layers.at(layer_index(1)).scores, (std::vector{.1, .3, .6}));
  for (const auto& [index, layer] : table.layers) {
    EXPECT_DOUBLE_EQ(std::accumulate(layer.scores.begin(), layer.scores.end(), 0.0), 1.0) << index.value;
  }
  for (const auto mode : {exact, official}) {
    const auto selected = esft::top_p({.p = .7, .mode = mode}).select(table);
    EXPECT_EQ(selected.layers.at(layer_index(0)), (std::vector{esft::expert_index(0), esft::expert_index(1)}));
    EXPECT_EQ(selected.layers.at(layer_index(1)), (std::vector{esft::expert_index(2), esft::expert_index(1)}));
  }
  // What the released script makes of these counts: one expert a layer instead of two, and rows that sum to 1.5.
  auto across_layers = table;
  const std::vector<std::vector<double>> wrong{{.8571, .5, .1429}, {.1429, .5, .8571}};
  for (std::size_t e = 0; e < 3; ++e) {
    const double column = table.layers.at(layer_index(0)).scores[e] + table.layers.at(layer_index(1)).scores[e];
    for (std::size_t l = 0; l < 2; ++l) {
      double& score = across_layers.layers.at(layer_index(static_cast<std::int32_t>(l))).scores[e];
      score /= column;
      EXPECT_NEAR(score, wrong[l][e], 5e-5) << l << " " << e;
      EXPECT_GT(std::abs(table.layers.at(layer_index(static_cast<std::int32_t>(l))).scores[e] - wrong[l][e]), .04) << l << " " << e;
    }
  }
  for (auto& [index, layer] : across_layers.layers) {
    layer.counts.clear();  // they would tell a policy the truth
    layer.total_count = 0;
    EXPECT_NEAR(std::accumulate(layer.scores.begin(), layer.scores.end(), 0.0), 1.5, 1e-12) << index.value;
  }
  for (const auto mode : {exact, official}) {
    const auto selected = esft::top_p({.p = .7, .mode = mode}).select(across_layers);
    EXPECT_EQ(selected.layers.at(layer_index(0)), (std::vector{esft::expert_index(0)}));
    EXPECT_EQ(selected.layers.at(layer_index(1)), (std::vector{esft::expert_index(2)}));
  }
}

}  // namespace oracles_tests
