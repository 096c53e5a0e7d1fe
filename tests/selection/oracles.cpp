// SPDX-License-Identifier: Apache-2.0
// Threshold tests worked out by hand, in both modes of top_p.
#include <esft/selection.hpp>

#include <limits>
#include <string>

#include <gtest/gtest.h>

namespace selection_oracles_tests {

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
  for (const double scale : {1.0, .37, 2.5, 1e-14, 1e9}) {
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

/// Two layers: concentrated (.7, .2, .1, 0) and flat (.28, .26, .24, .22); falling shares .7 .28 | .26 .24 .22 .2 .1
score_table two_layers(double scale_of_second = 1) {
  score_table table;
  table.layers[layer_index(1)].scores = {.7, .2, .1, 0};
  table.layers[layer_index(2)].scores = {.22, .24, .26, .28};
  for (double& score : table.layers[layer_index(2)].scores) score *= scale_of_second;
  return table;
}

std::vector<std::vector<int>> ids_of(const esft::expert_set& selected) {
  std::vector<std::vector<int>> result;
  for (const auto& [index, experts] : selected.layers) {
    result.emplace_back();
    for (const auto expert : experts) result.back().push_back(expert.value);
  }
  return result;
}
using ids = std::vector<std::vector<int>>;

TEST(top_fraction, takes_the_whole_part_and_at_least_one) {
  const auto counted = [](double fraction, std::size_t experts) {
    return esft::top_fraction(fraction).select(one_layer(std::vector<double>(experts, .1))).size();
  };
  EXPECT_EQ(counted(.25, 64), 16U);
  EXPECT_EQ(counted(.25, 6), 1U);   // 1.5
  EXPECT_EQ(counted(.3, 10), 3U);   // .3 * 10 is below 3 in some roundings
  EXPECT_EQ(counted(.7, 10), 7U);
  EXPECT_EQ(counted(.01, 10), 1U);
  EXPECT_EQ(counted(1, 10), 10U);
  EXPECT_EQ(ids_of(esft::top_fraction(.5).select(two_layers())), (ids{{0, 1}, {3, 2}}));
  for (const double wrong : {0.0, -.1, 1.01, std::numeric_limits<double>::quiet_NaN()}) EXPECT_THROW(esft::top_fraction{wrong}, esft::usage_error);
}

TEST(global_budget, takes_the_largest_share_of_any_layer_after_one_of_each) {
  const auto within = [](std::int64_t experts) { return ids_of(esft::global_budget({experts, 1}).select(two_layers())); };
  EXPECT_EQ(within(2), (ids{{0}, {3}}));
  EXPECT_EQ(within(3), (ids{{0}, {3, 2}}));  // .26 before .2
  EXPECT_EQ(within(5), (ids{{0}, {3, 2, 1, 0}}));
  EXPECT_EQ(within(6), (ids{{0, 1}, {3, 2, 1, 0}}));
  EXPECT_EQ(within(99), (ids{{0, 1, 2}, {3, 2, 1, 0}}));  // expert 3 of layer 1 has no evidence
  // the share decides, not the scale of a layer, unless the scores are to be compared as they are
  EXPECT_EQ(ids_of(esft::global_budget({3, 1}).select(two_layers(.001))), (ids{{0}, {3, 2}}));
  EXPECT_EQ(ids_of(esft::global_budget({3, 1}, esft::score_normalization::none).select(two_layers(.001))), (ids{{0, 1}, {3}}));
}

TEST(global_budget, equal_shares_go_to_the_lower_layer_and_then_the_lower_expert) {
  score_table table;
  for (const std::int32_t index : {1, 2}) table.layers[layer_index(index)].scores = {.25, .25, .25, .25};
  EXPECT_EQ(ids_of(esft::global_budget({3, 1}).select(table)), (ids{{0, 1}, {0}}));
  EXPECT_EQ(ids_of(esft::global_budget({6, 1}).select(table)), (ids{{0, 1, 2, 3}, {0, 1}}));
}

TEST(global_budget, counts_parameters_in_whole_experts) {
  const auto result = esft::global_budget({3 * 8650752 + 8650751, 8650752}).select_within(two_layers());
  EXPECT_EQ(result.experts.size(), 3U);
  EXPECT_EQ(result.spent, 3 * 8650752);
  EXPECT_FALSE(result.exceeded());
  const auto forced = esft::global_budget({8650752, 8650752}).select_within(two_layers());
  EXPECT_EQ(ids_of(forced.experts), (ids{{0}, {3}}));
  EXPECT_EQ(forced.spent, 2 * 8650752);
  EXPECT_TRUE(forced.exceeded());
  EXPECT_THROW(esft::global_budget({0, 1}), esft::usage_error);
  EXPECT_THROW(esft::global_budget({1, 0}), esft::usage_error);
}

TEST(p_for_budget, finds_the_largest_p_whose_selection_fits) {
  // cumulative shares .7 .9 1 and .28 .54 .78 1: the number of experts grows at p = .28, .54, .7, .78, .9
  const auto within = [](std::int64_t experts) { return esft::p_for_budget({experts, 1}).select_within(two_layers()); };
  EXPECT_EQ(ids_of(within(2).experts), (ids{{0}, {3}}));
  EXPECT_NEAR(within(2).p, .28, 2e-9);
  EXPECT_EQ(ids_of(within(3).experts), (ids{{0}, {3, 2}}));
  EXPECT_NEAR(within(3).p, .54, 2e-9);
  EXPECT_EQ(ids_of(within(4).experts), (ids{{0}, {3, 2, 1}}));
  EXPECT_NEAR(within(4).p, .7, 2e-9);
  EXPECT_EQ(ids_of(within(5).experts), (ids{{0, 1}, {3, 2, 1}}));
  EXPECT_NEAR(within(5).p, .78, 2e-9);
  EXPECT_EQ(ids_of(within(6).experts), (ids{{0, 1}, {3, 2, 1, 0}}));
  EXPECT_EQ(ids_of(within(7).experts), (ids{{0, 1, 2}, {3, 2, 1, 0}}));
  EXPECT_EQ(within(7).p, 1);
  EXPECT_TRUE(within(1).exceeded());
  EXPECT_EQ(ids_of(within(1).experts), (ids{{0}, {3}}));
  // the p that it reports is one that top_p can be given
  EXPECT_EQ(top_p({.p = within(5).p, .normalization = esft::score_normalization::layer_sum}).select(two_layers()), within(5).experts);
}

TEST(p_for_budget, one_p_for_all_layers_may_leave_a_budget_unspent) {
  score_table table;
  for (const std::int32_t index : {1, 2}) table.layers[layer_index(index)].scores = {.5, .5};
  const auto result = esft::p_for_budget({3, 1}).select_within(table);
  EXPECT_EQ(result.spent, 2);  // the next p adds one expert in both layers
  EXPECT_EQ(esft::global_budget({3, 1}).select_within(table).spent, 3);
}

TEST(bottom_like, takes_the_lowest_of_each_layer_worst_first_and_breaks_ties_by_id) {
  const auto like = esft::top_k(2).select(two_layers());
  EXPECT_EQ(ids_of(esft::bottom_like(like).select(two_layers())), (ids{{3, 2}, {0, 1}}));
  const auto tied = one_layer({.4, .1, .1, .4});
  EXPECT_EQ(ids_of(esft::bottom_like(esft::top_k(3).select(tied)).select(tied)), (ids{{1, 2, 0}}));
  EXPECT_THROW(static_cast<void>(esft::bottom_like(like).select(tied)), esft::usage_error);
}

TEST(tasks, union_and_intersection_list_experts_by_the_tables_score) {
  const auto a = esft::top_k(2).select(two_layers());                      // {0, 1}, {3, 2}
  const auto b = esft::bottom_like(a).select(two_layers());                // {3, 2}, {0, 1}
  const auto c = esft::top_fraction(.75).select(two_layers());             // {0, 1, 2}, {3, 2, 1}
  EXPECT_EQ(ids_of(esft::union_of_tasks({b, a}).select(two_layers())), (ids{{0, 1, 2, 3}, {3, 2, 1, 0}}));
  EXPECT_EQ(ids_of(esft::intersection_of_tasks({a, b}).select(two_layers())), (ids{{}, {}}));
  EXPECT_EQ(ids_of(esft::intersection_of_tasks({b, c}).select(two_layers())), (ids{{2}, {1}}));
  EXPECT_EQ(ids_of(esft::union_of_tasks({b}).select(two_layers())), (ids{{2, 3}, {1, 0}}));
  EXPECT_THROW(static_cast<void>(esft::union_of_tasks().select(two_layers())), esft::usage_error);
  EXPECT_THROW(static_cast<void>(esft::intersection_of_tasks().select(two_layers())), esft::usage_error);
  auto twice = a;
  twice.layers[layer_index(1)] = {esft::expert_index(1), esft::expert_index(1)};
  EXPECT_THROW(static_cast<void>(esft::intersection_of_tasks({twice}).select(two_layers())), esft::usage_error);
  auto outside = a;
  outside.layers[layer_index(1)] = {esft::expert_index(4)};
  EXPECT_THROW(static_cast<void>(esft::union_of_tasks({outside}).select(two_layers())), esft::usage_error);
}

TEST(top_p_groups, a_group_scores_what_its_experts_sum_to) {
  const auto groups = [](std::vector<std::int64_t> counts, std::int64_t total, int size, double p) {
    std::vector<int> ids;
    const auto selected = esft::top_p_groups(size, {.p = p}).select(one_layer_of_counts(std::move(counts), total));
    for (const auto expert : selected.layers.at(layer_index(5))) ids.push_back(expert.value);
    return ids;
  };
  EXPECT_EQ(groups({4, 0, 3, 2, 1, 0}, 10, 2, .5), (std::vector<int>{2, 3}));  // 5 of 10 where expert 0 alone has most
  EXPECT_EQ(groups({4, 0, 3, 2, 1, 0}, 10, 2, .51), (std::vector<int>{2, 3, 0, 1}));
  EXPECT_EQ(groups({4, 0, 3, 2, 1, 0}, 10, 1, .5), (std::vector<int>{0, 2}));
  EXPECT_EQ(groups({1, 1, 1, 1, 6}, 10, 2, .6), (std::vector<int>{4}));  // the rest of five experts is a group as well
  EXPECT_EQ(groups({3, 3, 2, 2}, 10, 2, .2), (std::vector<int>{0, 1}));  // never half a group, where top-p takes one expert
  EXPECT_THROW(esft::top_p_groups(0), esft::usage_error);
}

TEST(policy_arguments, what_is_missing_is_named_with_the_policy) {
  const auto message = [](auto make) -> std::string {
    try {
      static_cast<void>(make());
    } catch (const esft::usage_error& failure) {
      return failure.what();
    }
    return "";
  };
  const esft::policy_arguments nothing;
  EXPECT_NE(message([&] { return esft::make_policy<esft::global_budget>(nothing); }).find("the policy budget needs budget"), std::string::npos);
  EXPECT_NE(message([&] { return esft::make_policy<esft::p_for_budget>(nothing); }).find("the policy p-budget needs budget"), std::string::npos);
  EXPECT_NE(message([&] { return esft::make_policy<esft::bottom_like>(nothing); }).find("the policy bottom needs like"), std::string::npos);
  EXPECT_NE(message([&] { return esft::make_policy<esft::random_like>(nothing); }).find("the policy random needs like"), std::string::npos);
  EXPECT_NE(message([&] { return esft::make_policy<esft::top_p_groups>(nothing); }).find("the policy top-p-groups needs group"),
            std::string::npos);
  EXPECT_EQ(message([&] { return esft::make_policy<esft::top_p>(nothing); }), "");
}

}  // namespace selection_oracles_tests
