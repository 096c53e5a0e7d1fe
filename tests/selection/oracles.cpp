// SPDX-License-Identifier: Apache-2.0
// Threshold tests worked out by hand, in both modes of top_p.
#include <esft/selection.hpp>

#include <limits>
#include <string>

#include <gtest/gtest.h>

namespace {

using esft::layer_index;
using esft::score_table;
using esft::threshold_mode;
using esft::top_p;
using esft::top_p_options;

score_table one_layer(std::vector<double> scores) {
  score_table table;
  table.layers[layer_index(5)].scores = std::move(scores);
  return table;
}

score_table one_layer_of_counts(std::vector<std::int64_t> counts, std::int64_t total) {
  score_table table;
  auto& layer = table.layers[layer_index(5)];
  for (const auto count : counts) layer.scores.push_back(static_cast<double>(count) / static_cast<double>(total));
  layer.counts = std::move(counts);
  layer.total_count = total;
  return table;
}

std::vector<int> chosen(const score_table& table, const top_p_options& options) {
  const auto selected = top_p(options).select(table);
  std::vector<int> ids;
  for (const auto expert : selected.layers.at(layer_index(5))) ids.push_back(expert.value);
  return ids;
}

struct threshold_row {
  std::vector<double> scores;
  std::vector<std::int64_t> counts;  ///< the same scores as integers
  std::int64_t total;
  double p;
  std::vector<int> official;
  std::vector<int> exact;
};

const std::vector<double> falling{.4, .3, .2, .1};
const std::vector<std::int64_t> falling_counts{4, 3, 2, 1};
const std::vector<double> tenths(10, .1);
const std::vector<std::int64_t> ones(10, 1);
const std::vector<double> quarters(4, .25);

TEST(top_p, cumulative_threshold_table) {
  const std::vector<threshold_row> rows{
      {falling, falling_counts, 10, .4, {0}, {0}},  // equality stops
      {falling, falling_counts, 10, .41, {0, 1}, {0, 1}},
      {falling, falling_counts, 10, .7, {0, 1}, {0, 1}},
      {falling, falling_counts, 10, .9, {0, 1, 2, 3}, {0, 1, 2}},  // .4+.3+.2 is 0.8999999999999999 in float64
      {quarters, {1, 1, 1, 1}, 4, .5, {0, 1}, {0, 1}},
      {quarters, {1, 1, 1, 1}, 4, .51, {0, 1, 2}, {0, 1, 2}},
      {{.1, .4, .4, .1}, {1, 4, 4, 1}, 10, .4, {1}, {1}},  // ties go to the lower id
      {{.1, .4, .4, .1}, {1, 4, 4, 1}, 10, .5, {1, 2}, {1, 2}},
      {tenths, ones, 10, .3, {0, 1, 2}, {0, 1, 2}},
      {tenths, ones, 10, .8, {0, 1, 2, 3, 4, 5, 6, 7, 8}, {0, 1, 2, 3, 4, 5, 6, 7}},
      {tenths, ones, 10, 1, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}},
      {{.5, .5, 0, 0}, {1, 1, 0, 0}, 2, 1, {0, 1}, {0, 1}},
      {{.2, .1, .05, .05}, {4, 2, 1, 1}, 20, .5, {0, 1, 2, 3}, {0, 1, 2, 3}},  // the layer sums to .4 only
  };
  for (const auto& row : rows) {
    SCOPED_TRACE("p = " + std::to_string(row.p) + ", E = " + std::to_string(row.scores.size()));
    EXPECT_EQ(chosen(one_layer(row.scores), {.p = row.p, .mode = threshold_mode::official_compat}), row.official);
    EXPECT_EQ(chosen(one_layer(row.scores), {.p = row.p}), row.exact);
    EXPECT_EQ(chosen(one_layer_of_counts(row.counts, row.total), {.p = row.p}), row.exact);
  }
}

TEST(top_p, a_threshold_of_zero_selects_nothing_and_only_officially) {
  EXPECT_TRUE(chosen(one_layer(falling), {.p = 0, .mode = threshold_mode::official_compat}).empty());
  EXPECT_THROW(top_p({.p = 0}), esft::usage_error);
  EXPECT_EQ(chosen(one_layer(falling), {.p = 1e-12}), (std::vector{0}));
  EXPECT_EQ(chosen(one_layer_of_counts(falling_counts, 10), {.p = 1e-12}), (std::vector{0}));
}

TEST(top_p, options_that_mean_nothing_are_usage_errors) {
  for (const double p : {-.1, 1.0000001, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(top_p({.p = p}), esft::usage_error) << p;
    EXPECT_THROW(top_p({.p = p, .mode = threshold_mode::official_compat}), esft::usage_error) << p;
  }
  EXPECT_THROW(top_p({.min_experts = -1}), esft::usage_error);
  EXPECT_THROW(top_p({.max_experts = -1}), esft::usage_error);
  EXPECT_THROW(top_p({.min_experts = 3, .max_experts = 2}), esft::usage_error);
  EXPECT_NO_THROW(top_p({.p = 1, .min_experts = 2, .max_experts = 2}));
}

TEST(top_p, experts_without_evidence_stay_out_unless_the_official_loop_is_asked_for) {
  const auto table = one_layer({.5, 0, .4998, 0});  // rounding made the sum 0.9998
  EXPECT_EQ(chosen(table, {.p = 1}), (std::vector{0, 2}));
  EXPECT_EQ(chosen(table, {.p = 1, .mode = threshold_mode::official_compat}), (std::vector{0, 2, 1, 3}));
  EXPECT_EQ(chosen(table, {.p = 1, .min_experts = 3}), (std::vector{0, 2, 1}));
  EXPECT_EQ(chosen(one_layer_of_counts({5, 0, 4, 0}, 10), {.p = 1}), (std::vector{0, 2}));
}

TEST(top_p, a_layer_without_any_evidence_is_an_error) {
  for (const auto& table : {one_layer({0, 0, 0}), one_layer_of_counts({0, 0, 0}, 9)}) {
    try {
      static_cast<void>(top_p().select(table));
      FAIL() << "selected from nothing";
    } catch (const esft::error& failure) {
      EXPECT_NE(std::string(failure.what()).find("layer 5"), std::string::npos);
    }
    EXPECT_EQ(chosen(table, {.mode = threshold_mode::official_compat}), (std::vector{0, 1, 2}));
  }
}

TEST(top_p, bounds_on_the_number_of_experts) {
  EXPECT_EQ(chosen(one_layer(falling), {.p = .4, .min_experts = 2}), (std::vector{0, 1}));
  EXPECT_EQ(chosen(one_layer(falling), {.p = .9, .max_experts = 2}), (std::vector{0, 1}));
  EXPECT_EQ(chosen(one_layer(falling), {.p = .4, .min_experts = 9}), (std::vector{0, 1, 2, 3}));
  EXPECT_EQ(chosen(one_layer(falling), {.p = .9, .mode = threshold_mode::official_compat, .max_experts = 3}), (std::vector{0, 1, 2}));
}

TEST(top_p, a_share_of_the_layer_sum_does_not_depend_on_the_scale) {
  for (const double scale : {1.0, .37, 2.5}) {
    auto scores = falling;
    for (auto& score : scores) score *= scale;
    EXPECT_EQ(chosen(one_layer(scores), {.p = .69, .normalization = esft::score_normalization::layer_sum}), (std::vector{0, 1})) << scale;
  }
  EXPECT_EQ(chosen(one_layer({.04, .03, .02, .01}), {.p = .69}), (std::vector{0, 1, 2, 3}));
  EXPECT_EQ(chosen(one_layer_of_counts(falling_counts, 20), {.p = .7, .normalization = esft::score_normalization::layer_sum}),
            (std::vector{0, 1}));
}

TEST(top_p, integers_decide_what_doubles_cannot) {
  // one count in 4e18 is far below double precision and below the tolerance of the double path
  const std::int64_t half = 2'000'000'000'000'000'000;
  EXPECT_EQ(chosen(one_layer_of_counts({half, half}, 2 * half), {.p = .5}), (std::vector{0}));
  EXPECT_EQ(chosen(one_layer_of_counts({half, half - 1}, 2 * half), {.p = .5}), (std::vector{0}));
  EXPECT_EQ(chosen(one_layer_of_counts({half - 1, half - 1}, 2 * half), {.p = .5}), (std::vector{0, 1}));
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();  // the sum does not fit 63 bits
  const auto huge = one_layer_of_counts({most, most, most}, most);
  EXPECT_EQ(chosen(huge, {.p = 1}), (std::vector{0}));
  EXPECT_EQ(chosen(huge, {.p = .5, .normalization = esft::score_normalization::layer_sum}), (std::vector{0, 1}));
}

TEST(top_p, rounding_first_gives_the_answer_of_the_published_files) {
  const auto table = one_layer({.30004, .40004, .29992});
  EXPECT_EQ(chosen(table, {.p = .70005, .mode = threshold_mode::official_compat}), (std::vector{1, 0}));
  EXPECT_EQ(chosen(table, {.p = .70005, .mode = threshold_mode::official_compat, .round_scores = true}), (std::vector{1, 0, 2}));
}

TEST(rounding, is_the_nearest_decimal_of_the_binary_value) {
  EXPECT_EQ(esft::round_to_4_decimals(.00125), .0013);    // 0.00125000000000000002...: above the half
  EXPECT_EQ(esft::round_to_4_decimals(.03125), .0312);    // exactly half way: to the even digit
  EXPECT_EQ(esft::round_to_4_decimals(.09375), .0938);    // exactly half way: to the even digit
  EXPECT_EQ(esft::round_to_4_decimals(.00005), .0001);    // 0.0000500000000000000023...
  EXPECT_EQ(esft::round_to_4_decimals(.1234), .1234);
  EXPECT_EQ(esft::round_to_4_decimals(2.0 / 3), .6667);
  const auto rounded = esft::round_to_4_decimals(one_layer_of_counts({1, 2}, 3));
  EXPECT_EQ(rounded.layers.at(layer_index(5)).scores, (std::vector{.3333, .6667}));
  EXPECT_TRUE(rounded.layers.at(layer_index(5)).counts.empty());
}

TEST(top_k, takes_k_per_layer_and_breaks_ties_by_id) {
  const auto table = one_layer({.1, .4, .4, .1, 0});
  const auto ids = [&](int k) {
    const auto selected = esft::top_k(k).select(table);
    std::vector<int> out;
    for (const auto expert : selected.layers.at(layer_index(5))) out.push_back(expert.value);
    return out;
  };
  EXPECT_EQ(ids(1), (std::vector{1}));
  EXPECT_EQ(ids(3), (std::vector{1, 2, 0}));
  EXPECT_EQ(ids(5), (std::vector{1, 2, 0, 3, 4}));
  EXPECT_THROW(ids(6), esft::usage_error);
  EXPECT_THROW(esft::top_k(0), esft::usage_error);
}

}  // namespace
