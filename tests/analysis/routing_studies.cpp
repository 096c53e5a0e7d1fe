// SPDX-License-Identifier: Apache-2.0
// Groups of experts, stability over sample size, drift of routing: examples by hand, and what must hold for any.
#include <esft/analysis/expert_grouping.hpp>
#include <esft/analysis/routing_drift.hpp>
#include <esft/analysis/routing_stats.hpp>
#include <esft/analysis/sample_stability.hpp>
#include <esft/core/error.hpp>
#include <esft/relevance/scorers/token_selection_ratio.hpp>

#include "relevance/synthetic.hpp"

#include <numeric>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace analysis_routing_studies_tests {

using esft::grouping_diagonal;
using esft::layer_index;
using esft_test::owned_record;
using groups = std::vector<std::vector<int>>;

constexpr layer_index layer{1};

/// E = 6, K = 3: {0,1,2} twice, {0,1,3}, {3,4,5} twice, {2,4,5}, and a token of padding.
owned_record six_tokens() {
  owned_record record{layer, 6, 3, {}, {}, {}};
  for (const auto& [a, b, c] : std::vector<std::tuple<int, int, int>>{{0, 1, 2}, {2, 1, 0}, {0, 3, 1}, {3, 4, 5}, {5, 4, 3}, {2, 4, 5}}) {
    record.add({{a, .5F}, {b, .25F}, {c, .25F}}, 0);
  }
  record.add({{0, 1.0F}, {77, 0.0F}, {-4, 0.0F}}, -1);
  return record;
}

esft::expert_pair_matrix counts_of(const owned_record& record) {
  esft::co_occurrence counts;
  counts.observe(record.view());
  return counts.layers().at(layer);
}

groups grouped(const esft::expert_pair_matrix& similarity, std::size_t size) {
  groups result;
  for (const auto& group : esft::group_experts(similarity, size)) {
    result.emplace_back();
    for (const auto expert : group) result.back().push_back(expert.value);
  }
  return result;
}

TEST(co_occurrence, counts_pairs_and_tokens) {
  const auto counts = counts_of(six_tokens());
  EXPECT_EQ(counts.values, (std::vector<double>{3, 3, 2, 1, 0, 0,  //
                                                3, 3, 2, 1, 0, 0,  //
                                                2, 2, 3, 0, 1, 1,  //
                                                1, 1, 0, 3, 2, 2,  //
                                                0, 0, 1, 2, 3, 3,  //
                                                0, 0, 1, 2, 3, 3}));
  esft::co_occurrence once;
  once.observe(six_tokens().view());
  esft::co_occurrence twice;
  twice.merge(once);
  twice.merge(once);
  for (std::size_t n = 0; n < counts.values.size(); ++n) EXPECT_EQ(twice.layers().at(layer).values[n], 2 * counts.values[n]);
  owned_record seven{layer, 7, 3, {}, {}, {}};
  EXPECT_THROW(once.observe(seven.view()), esft::contract_violation);
}

TEST(routing_studies, leave_empty_slots_out) {
  owned_record before{layer, 4, 2, {}, {}, {}};
  owned_record after = before;
  before.add({{0, .5F}, {1, .5F}}, 0);
  after.add({{0, .5F}, {esft::no_expert, 9}}, 0);
  const auto counts = counts_of(after);
  EXPECT_EQ(std::accumulate(counts.values.begin(), counts.values.end(), 0.0), 1);
  EXPECT_EQ(counts.at(0, 0), 1);
  esft::load_counter loads;
  loads.observe(after.view());
  EXPECT_EQ(loads.loads().at(layer), (std::vector<double>{1, 0, 0, 0}));
  esft::routing_drift closed;  // a token lost an expert and won none
  closed.observe(before.view(), after.view());
  EXPECT_EQ(closed.layers().at(layer).kept, .5);
  EXPECT_EQ(closed.layers().at(layer).unchanged, 0);
  EXPECT_EQ(closed.layers().at(layer).weight_moved, .5);
  EXPECT_EQ(closed.layers().at(layer).load_moved, .25);
}

/// What a group is chosen for: the mean similarity of its pairs.
double mean_similarity(const esft::expert_pair_matrix& similarity, const std::vector<std::size_t>& group) {
  double sum = 0;
  int pairs = 0;
  for (std::size_t a = 0; a < group.size(); ++a) {
    for (std::size_t b = a + 1; b < group.size(); ++b, ++pairs) sum += similarity.at(group[a], group[b]);
  }
  return sum / pairs;
}

TEST(expert_grouping, reads_the_diagonal_as_zero) {
  const auto similarity = esft::row_similarity(counts_of(six_tokens()));
  const auto near = [&](std::size_t i, std::size_t j, double value) { EXPECT_NEAR(similarity.at(i, j), value, 5e-7) << i << " " << j; };
  near(0, 1, .357143), near(0, 2, .507093), near(1, 2, .507093), near(0, 3, .253546), near(1, 3, .253546), near(0, 4, .285714);
  near(0, 5, .285714), near(1, 4, .285714), near(1, 5, .285714), near(2, 3, .8), near(2, 4, .253546), near(2, 5, .253546);
  near(3, 4, .507093), near(3, 5, .507093), near(4, 5, .357143);
  for (const auto& tied : std::vector<std::vector<std::size_t>>{{0, 2, 3}, {1, 2, 3}, {2, 3, 4}, {2, 3, 5}}) {
    EXPECT_NEAR(mean_similarity(similarity, tied), .520213, 5e-7);
  }
  EXPECT_NEAR(mean_similarity(similarity, {1, 4, 5}), .309524, 5e-7);
  EXPECT_EQ(grouped(similarity, 2), (groups{{2, 3}, {0, 1}, {4, 5}}));
  EXPECT_EQ(grouped(similarity, 3), (groups{{0, 2, 3}, {1, 4, 5}}));  // first of four subsets that are equally similar
}

TEST(expert_grouping, reads_the_diagonal_as_its_own_count) {
  const auto similarity = esft::row_similarity(counts_of(six_tokens()), grouping_diagonal::self_count);
  const auto near = [&](std::size_t i, std::size_t j, double value) { EXPECT_NEAR(similarity.at(i, j), value, 5e-7) << i << " " << j; };
  near(0, 1, 1), near(0, 2, .861057), near(2, 3, .421053), near(0, 3, .430528), near(0, 4, .173913), near(3, 4, .861057);
  near(4, 5, 1), near(2, 4, .430528);
  EXPECT_NEAR(mean_similarity(similarity, {0, 1, 2}), .907371, 5e-7);
  EXPECT_NEAR(mean_similarity(similarity, {3, 4, 5}), .907371, 5e-7);
  EXPECT_EQ(grouped(similarity, 2), (groups{{0, 1}, {4, 5}, {2, 3}}));
  EXPECT_EQ(grouped(similarity, 3), (groups{{0, 1, 2}, {3, 4, 5}}));
}

TEST(expert_grouping, every_expert_is_in_one_group) {
  esft::co_occurrence counts;
  counts.observe(esft_test::random_record(3, layer, 12, 4, 60, 3).view());
  for (const std::size_t size : {1U, 2U, 3U, 4U, 6U, 12U}) {
    const auto all = grouped(esft::row_similarity(counts.layers().at(layer)), size);
    EXPECT_EQ(all.size(), 12 / size);
    std::set<int> seen;
    for (const auto& group : all) seen.insert(group.begin(), group.end());
    EXPECT_EQ(seen.size(), 12U);
  }
  EXPECT_THROW(static_cast<void>(esft::group_experts(counts.layers().at(layer), 5)), esft::contract_violation);
}

TEST(expert_grouping, an_expert_that_nobody_chose_is_similar_to_nothing) {
  owned_record record{layer, 4, 2, {}, {}, {}};
  record.add({{0, .5F}, {1, .5F}}, 0);
  const auto similarity = esft::row_similarity(counts_of(record), grouping_diagonal::self_count);
  EXPECT_EQ(similarity.at(3, 3), 0);
  EXPECT_EQ(similarity.at(0, 1), 1);
}

/// Tokens whose two experts are drawn from 32, the last four of them far more often: ties would go to the first.
owned_record peaked(std::uint64_t seed, int tokens) {
  owned_record record{layer, 32, 2, {}, {}, {}};
  const esft::counter_rng rng(seed, esft::rng_stream::test, 5);
  for (int t = 0; t < tokens; ++t) {
    const auto n = 3 * static_cast<std::uint64_t>(t);
    const auto range = rng.below(n, 4) == 0 ? 32U : 4U;
    const auto a = static_cast<std::int32_t>(rng.below(n + 1, range));
    const auto b = static_cast<std::int32_t>((static_cast<std::uint64_t>(a) + 1 + rng.below(n + 2, range - 1)) % range);
    record.add({{31 - a, .5F}, {31 - b, .5F}}, 0);
  }
  return record;
}

std::vector<esft::token_selection_ratio> chunks(std::uint64_t seed, int count, int tokens) {
  std::vector<esft::token_selection_ratio> result(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < result.size(); ++i) result[i].observe(peaked(seed + 1000 * i, tokens).view());
  return result;
}

TEST(sample_stability, grows_from_chance_to_agreement) {
  const auto first = chunks(1, 40, 5);
  const auto second = chunks(2, 40, 5);
  const std::span<const esft::token_selection_ratio> one(first);
  const std::span<const esft::token_selection_ratio> other(second);
  const auto curve = esft::sample_stability(one, other, 4);
  ASSERT_EQ(curve.size(), 40U);
  EXPECT_EQ(curve.front().tokens, 5);
  EXPECT_EQ(curve.back().tokens, 200);
  EXPECT_LT(curve.front().shared, 4);
  EXPECT_EQ(curve.back().shared, 4);  // four experts stand out
  for (const auto& point : esft::sample_stability(one, one, 4)) EXPECT_EQ(point.shared, 4);
  EXPECT_THROW(static_cast<void>(esft::sample_stability(one, other.first(3), 4)), esft::contract_violation);
}

TEST(routing_drift, is_nothing_between_equals) {
  const auto record = esft_test::random_record(4, layer, 8, 3, 30, 2);
  esft::routing_drift drift;
  drift.observe(record.view(), record.view());
  const auto same = drift.layers().at(layer);
  EXPECT_EQ(same.tokens,
            std::count(record.sample.begin(), record.sample.end(), 0) + std::count(record.sample.begin(), record.sample.end(), 1));
  EXPECT_EQ(same.kept, 1);
  EXPECT_EQ(same.unchanged, 1);
  EXPECT_EQ(same.weight_moved, 0);
  EXPECT_EQ(same.load_moved, 0);
}

TEST(routing_drift, of_three_tokens_by_hand) {
  owned_record before{layer, 4, 2, {}, {}, {}};
  owned_record after = before;
  before.add({{0, .5F}, {1, .5F}}, 0);
  after.add({{1, .5F}, {0, .5F}}, 0);  // only the order
  before.add({{0, .75F}, {1, .25F}}, 0);
  after.add({{0, .5F}, {2, .5F}}, 0);  // one of two experts
  before.add({{2, .5F}, {3, .5F}}, 0);
  after.add({{0, .5F}, {1, .5F}}, 0);  // both
  before.add({{0, 1.0F}, {1, 0.0F}}, -1);
  after.add({{2, 1.0F}, {3, 0.0F}}, -1);
  esft::routing_drift drift;
  drift.observe(before.view(), after.view());
  const auto moved = drift.layers().at(layer);
  EXPECT_EQ(moved.tokens, 3);
  EXPECT_DOUBLE_EQ(moved.kept, 3. / 6);
  EXPECT_DOUBLE_EQ(moved.unchanged, 1. / 3);
  EXPECT_DOUBLE_EQ(moved.weight_moved, (0 + 1.0 + 2.0) / 3);  // .25 + .25 + .5, and all four halves
  EXPECT_DOUBLE_EQ(moved.load_moved, 1. / 6);                 // loads 2 2 1 1 become 3 2 1 0
  esft::routing_drift merged;
  merged.merge(drift);
  merged.merge(drift);
  EXPECT_EQ(merged.layers().at(layer).tokens, 6);
  EXPECT_DOUBLE_EQ(merged.layers().at(layer).load_moved, moved.load_moved);
  EXPECT_DOUBLE_EQ(merged.layers().at(layer).kept, moved.kept);
}

TEST(routing_drift, needs_the_same_tokens) {
  const auto a = esft_test::random_record(4, layer, 8, 3, 30, 2);
  auto shorter = esft_test::random_record(4, layer, 8, 3, 29, 2);
  auto elsewhere = a;
  elsewhere.layer = layer_index(2);
  auto padded = a;
  padded.sample[0] = -1;
  esft::routing_drift drift;
  for (const auto* other : {&shorter, &elsewhere, &padded}) EXPECT_THROW(drift.observe(a.view(), other->view()), esft::contract_violation);
  EXPECT_TRUE(drift.layers().empty());
}

}  // namespace analysis_routing_studies_tests
