// SPDX-License-Identifier: Apache-2.0
// What every policy promises, run on every built-in policy, and the properties of single policies.
#include <esft/selection.hpp>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace selection_laws_tests {

using esft::expert_index;
using esft::layer_index;
using esft::score_table;

template <class List>
struct as_gtest;
template <class... Types>
struct as_gtest<esft::type_list<Types...>> {
  using type = ::testing::Types<Types...>;
};

/// Counts of three layers; layer 2 is dense and absent.
score_table counted_table(std::uint64_t seed, std::size_t experts, std::uint64_t bound) {
  score_table table;
  for (const std::int32_t index : {1, 3, 4}) {
    auto& layer = table.layers[layer_index(index)];
    const esft::counter_rng rng(seed, esft::rng_stream::test, static_cast<std::uint64_t>(index));
    for (std::size_t e = 0; e < experts; ++e) layer.counts.push_back(static_cast<std::int64_t>(rng.below(e, bound)));
    layer.counts[rng.below(experts, experts)] += 1;
    layer.total_count = std::accumulate(layer.counts.begin(), layer.counts.end(), std::int64_t{0});
    for (const auto count : layer.counts) layer.scores.push_back(static_cast<double>(count) / static_cast<double>(layer.total_count));
  }
  return table;
}

/// What the tool would say; selections to imitate or combine are made from the table, so that they are permuted with it.
template <class Policy>
esft::policy_arguments arguments_for(const score_table& table) {
  esft::policy_arguments given;
  given.p = .5;
  given.k = 1;
  given.fraction = .3;
  given.budget = 700;
  given.expert_parameters = 60;  // eleven experts and a rest
  given.seed = 11;
  given.group = 2;
  given.like = {esft::top_p({.p = .5}).select(table)};
  if (std::is_same_v<Policy, esft::union_of_tasks> || std::is_same_v<Policy, esft::intersection_of_tasks>) {
    given.like.push_back(esft::top_fraction(.4).select(table));
  }
  return given;
}
template <class Policy>
Policy make_policy(const score_table& table) {
  return esft::make_policy<Policy>(arguments_for<Policy>(table));
}

template <class Policy>
class policy_laws : public ::testing::Test {};
TYPED_TEST_SUITE(policy_laws, typename as_gtest<esft::builtin_policies>::type);

TYPED_TEST(policy_laws, models_the_concept) {
  static_assert(esft::selection_policy<TypeParam>);
  EXPECT_FALSE(TypeParam::name.empty());
}

TYPED_TEST(policy_laws, every_layer_has_distinct_experts_in_range_and_the_answer_is_stable) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const auto table = counted_table(seed, 1 + seed % 40, 50);
    const auto policy = make_policy<TypeParam>(table);
    const auto selected = policy.select(table);
    RC_ASSERT(selected == policy.select(table));
    RC_ASSERT(selected.layers.size() == table.layers.size());
    for (const auto& [index, experts] : selected.layers) {
      RC_ASSERT(table.layers.contains(index));
      RC_ASSERT(!experts.empty());
      const std::set<expert_index> distinct(experts.begin(), experts.end());
      RC_ASSERT(distinct.size() == experts.size());
      RC_ASSERT(distinct.begin()->value >= 0);
      RC_ASSERT(distinct.rbegin()->value < static_cast<std::int32_t>(table.layers.at(index).scores.size()));
    }
  }));
}

// The tool refuses what is not on the list, so the list is the truth: what is not on it is not read, and every name on it exists.
TYPED_TEST(policy_laws, a_policy_reads_what_it_takes_and_nothing_else) {
  const auto table = counted_table(5, 12, 50);
  const auto selected = make_policy<TypeParam>(table).select(table);
  const std::vector<std::pair<std::string_view, void (*)(esft::policy_arguments&)>> changes{
      {"p", [](auto& a) { a.p = .9; }},
      {"k", [](auto& a) { a.k = 5; }},
      {"fraction", [](auto& a) { a.fraction = .9; }},
      {"budget", [](auto& a) { a.budget = 5000; }},
      {"expert-parameters", [](auto& a) { a.expert_parameters = 1; }},
      {"like", [](auto& a) { a.like = {esft::expert_set{}}; }},
      {"seed", [](auto& a) { a.seed = 12; }},
      {"draw", [](auto& a) { a.draw = 12; }},
      {"mode", [](auto& a) { a.mode = esft::threshold_mode::official_compat, a.p = 0; }},  // selects nothing then, and is refused else
      {"normalization", [](auto& a) { a.normalization = static_cast<esft::score_normalization>(7); }},
      {"min-experts", [](auto& a) { a.min_experts = 11; }},
      {"max-experts", [](auto& a) { a.max_experts = 1; }},
      {"group", [](auto& a) { a.group = 6; }}};
  std::size_t known = 0;
  for (const auto& [name, change] : changes) {
    auto given = arguments_for<TypeParam>(table);
    change(given);
    const bool takes = std::find(TypeParam::takes.begin(), TypeParam::takes.end(), name) != TypeParam::takes.end();
    known += takes ? 1 : 0;
    if (name == "normalization" && takes) continue;  // these scores are shares already
    bool same = false;
    try {
      same = esft::make_policy<TypeParam>(given).select(table) == selected;
    } catch (const esft::error&) {  // read, and refused
    }
    EXPECT_EQ(same, !takes) << TypeParam::name << " and " << name;
  }
  EXPECT_EQ(known, TypeParam::takes.size()) << "a name that is no argument";
}

TYPED_TEST(policy_laws, a_broken_table_is_refused_by_name) {
  const auto good = counted_table(3, 8, 50);
  const auto policy = make_policy<TypeParam>(good);
  EXPECT_NO_THROW(static_cast<void>(policy.select(good)));
  const auto refused = [&](auto spoil, const std::string& part) {
    auto bad = good;
    spoil(bad.layers.at(layer_index(3)));
    try {
      static_cast<void>(policy.select(bad));
      FAIL() << "accepted: " << part;
    } catch (const esft::error& failure) {
      EXPECT_EQ(failure.category(), esft::error_category::bad_input);
      EXPECT_NE(std::string(failure.what()).find("layer 3"), std::string::npos) << failure.what();
      EXPECT_NE(std::string(failure.what()).find(part), std::string::npos) << failure.what();
    }
  };
  refused([](auto& layer) { layer.scores[6] = std::numeric_limits<double>::quiet_NaN(); }, "expert 6");
  refused([](auto& layer) { layer.scores[6] = std::numeric_limits<double>::infinity(); }, "expert 6");
  refused([](auto& layer) { layer.scores[6] = -.25; }, "expert 6");
  refused([](auto& layer) { layer.counts[5] = -1; }, "expert 5");
  refused([](auto& layer) { layer.counts[5] = layer.total_count + 1; }, "expert 5");
  refused([](auto& layer) { layer.counts.pop_back(); }, "counts");
  refused([](auto& layer) { layer.total_count = 0; }, "total");
  refused([](auto& layer) { layer = {}; }, "no expert");
  EXPECT_THROW(static_cast<void>(policy.select(score_table{})), esft::error);
}

TEST(top_p_law, takes_the_shortest_prefix_that_reaches_p) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const auto table = counted_table(seed, 1 + seed % 64, 1 + seed % 1000);
    const std::int64_t percent = 1 + static_cast<std::int64_t>(seed / 7 % 100);
    const auto selected = esft::top_p({.p = static_cast<double>(percent) / 100}).select(table);
    for (const auto& [index, experts] : selected.layers) {
      const auto& layer = table.layers.at(index);
      const auto count = [&](expert_index expert) { return layer.counts[static_cast<std::size_t>(expert.value)]; };
      std::int64_t sum = 0;
      for (const auto expert : experts) sum += count(expert);
      RC_ASSERT(100 * sum >= percent * layer.total_count);
      RC_ASSERT(100 * (sum - count(experts.back())) < percent * layer.total_count);
      for (std::size_t i = 1; i < experts.size(); ++i) {
        RC_ASSERT(count(experts[i - 1]) > count(experts[i]) || (count(experts[i - 1]) == count(experts[i]) && experts[i - 1] < experts[i]));
      }
      for (std::int32_t e = 0; e < static_cast<std::int32_t>(layer.counts.size()); ++e) {  // nothing better was left out
        if (std::find(experts.begin(), experts.end(), expert_index(e)) != experts.end()) continue;
        RC_ASSERT(count(expert_index(e)) < count(experts.back()) || (count(expert_index(e)) == count(experts.back()) && expert_index(e) > experts.back()));
      }
    }
  }));
}

TEST(top_p_law, doubles_and_counts_agree) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const auto table = counted_table(seed, 1 + seed % 64, 1 + seed % 1000);
    auto doubles = table;
    for (auto& [index, layer] : doubles.layers) layer.counts.clear();
    const esft::top_p policy({.p = static_cast<double>(1 + seed / 7 % 100) / 100});
    RC_ASSERT(policy.select(doubles) == policy.select(table));
  }));
}

TEST(top_p_law, a_larger_p_only_adds_experts) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const auto table = counted_table(seed, 1 + seed % 64, 1 + seed % 1000);
    const double p = static_cast<double>(1 + seed / 7 % 90) / 100;
    for (const auto mode : {esft::threshold_mode::exact, esft::threshold_mode::official_compat}) {
      const auto small = esft::top_p({.p = p, .mode = mode}).select(table);
      const auto large = esft::top_p({.p = p + .1, .mode = mode}).select(table);
      for (const auto& [index, experts] : small.layers) {
        const auto& more = large.layers.at(index);
        RC_ASSERT(experts.size() <= more.size());
        RC_ASSERT(std::equal(experts.begin(), experts.end(), more.begin()));
      }
    }
  }));
}

/// A table without ties, which a permutation would break differently: shares differ inside a layer and between layers.
score_table table_without_ties(std::uint64_t seed, std::size_t experts) {
  auto table = counted_table(seed, experts, 50);
  for (auto& [index, layer] : table.layers) {
    layer.total_count = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      layer.counts[e] = (layer.counts[e] * 64 + static_cast<std::int64_t>(e)) * 8 + index.value;
      layer.total_count += layer.counts[e];
    }
    for (std::size_t e = 0; e < experts; ++e) layer.scores[e] = static_cast<double>(layer.counts[e]) / static_cast<double>(layer.total_count);
  }
  return table;
}

TYPED_TEST(policy_laws, permuting_experts_permutes_the_result) {
  if (std::is_same_v<TypeParam, esft::random_like>) return;    // draws ids, whatever they score
  if (std::is_same_v<TypeParam, esft::top_p_groups>) return;  // ids say which experts are bound
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const std::size_t experts = 1 + seed % 30;
    const auto table = table_without_ties(seed, experts);
    std::vector<std::size_t> to(experts);
    std::iota(to.begin(), to.end(), std::size_t{0});
    esft::shuffle(to, esft::counter_rng(seed, esft::rng_stream::test, 99));
    auto permuted = table;
    for (auto& [index, layer] : permuted.layers) {
      for (std::size_t e = 0; e < experts; ++e) {
        layer.counts[to[e]] = table.layers.at(index).counts[e];
        layer.scores[to[e]] = table.layers.at(index).scores[e];
      }
    }
    auto expected = make_policy<TypeParam>(table).select(table);
    for (auto& [index, chosen] : expected.layers) {
      for (auto& expert : chosen) expert = expert_index(static_cast<std::int32_t>(to[static_cast<std::size_t>(expert.value)]));
    }
    auto got = make_policy<TypeParam>(permuted).select(permuted);
    if (std::is_same_v<TypeParam, esft::all_experts>) {  // lists ids, not ranks
      for (auto& [index, chosen] : expected.layers) std::sort(chosen.begin(), chosen.end());
    }
    RC_ASSERT(got == expected);
  }));
}

/// Whether every expert of `small` is in `large`.
bool contained(const esft::expert_set& small, const esft::expert_set& large) {
  return std::all_of(small.layers.begin(), small.layers.end(), [&](const auto& entry) {
    const auto& more = large.layers.at(entry.first);
    return std::all_of(entry.second.begin(), entry.second.end(),
                       [&](expert_index e) { return std::find(more.begin(), more.end(), e) != more.end(); });
  });
}

/// Asking for more never drops an expert; `more(arguments, step)` makes ever larger requests.
template <class Policy, class More>
void larger_requests_only_add(More more) {
  EXPECT_TRUE(rc::check([&](std::uint32_t seed) {
    const auto table = counted_table(seed, 8 + seed % 40, 50);
    esft::expert_set before;
    for (int step = 0; step < 8; ++step) {
      esft::policy_arguments arguments;
      more(arguments, step);
      const auto now = esft::make_policy<Policy>(arguments).select(table);
      RC_ASSERT(contained(before, now));
      before = now;
    }
    RC_ASSERT(before.size() > table.layers.size());
  }));
}

TEST(monotone, a_larger_p_k_fraction_or_budget_never_drops_an_expert) {
  larger_requests_only_add<esft::top_p>([](esft::policy_arguments& a, int step) { a.p = .1 + .1 * step; });
  larger_requests_only_add<esft::top_k>([](esft::policy_arguments& a, int step) { a.k = 1 + step; });
  larger_requests_only_add<esft::top_fraction>([](esft::policy_arguments& a, int step) { a.fraction = .01 + .14 * step; });
  larger_requests_only_add<esft::global_budget>([](esft::policy_arguments& a, int step) { a.budget = 1 + 2 * step; });
  larger_requests_only_add<esft::p_for_budget>([](esft::policy_arguments& a, int step) { a.budget = 1 + 2 * step; });
}

TEST(monotone, larger_selections_to_imitate_or_more_tasks) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const auto table = counted_table(seed, 20, 50);
    const auto small = esft::top_k(3).select(table);
    const auto large = esft::top_k(7).select(table);
    const auto other = esft::random_like({.like = small, .seed = seed}).select(table);
    RC_ASSERT(contained(esft::bottom_like(small).select(table), esft::bottom_like(large).select(table)));
    RC_ASSERT(contained(esft::random_like({.like = small}).select(table), esft::random_like({.like = large}).select(table)));
    RC_ASSERT(contained(esft::union_of_tasks({small}).select(table), esft::union_of_tasks({small, other}).select(table)));
    RC_ASSERT(contained(esft::intersection_of_tasks({small, other}).select(table), esft::intersection_of_tasks({small}).select(table)));
  }));
}

template <class Policy>
class budget_laws : public ::testing::Test {};
using budget_policies = ::testing::Types<esft::global_budget, esft::p_for_budget>;
TYPED_TEST_SUITE(budget_laws, budget_policies);

TYPED_TEST(budget_laws, the_budget_is_kept_unless_one_expert_a_layer_is_too_much_and_the_result_says_so) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const auto table = counted_table(seed, 2 + seed % 40, 50);
    const std::int64_t size = 1 + seed % 997;
    const std::int64_t parameters = 1 + static_cast<std::int64_t>(seed / 7 % 60) * size;
    const auto result = TypeParam({parameters, size}).select_within(table);
    RC_ASSERT(result.spent == static_cast<std::int64_t>(result.experts.size()) * size);
    RC_ASSERT(result.budget == parameters);
    RC_ASSERT(result.exceeded() == (parameters < 3 * size));  // three layers
    if (result.exceeded()) RC_ASSERT(result.experts.size() == 3U);
    for (const auto& [index, experts] : result.experts.layers) RC_ASSERT(!experts.empty());
  }));
}

TYPED_TEST(budget_laws, what_is_selected_has_evidence) {
  const auto table = counted_table(5, 20, 3);
  const auto selected = TypeParam().select(table);
  std::size_t with_evidence = 0;
  for (const auto& [index, layer] : table.layers) {
    with_evidence += static_cast<std::size_t>(std::count_if(layer.counts.begin(), layer.counts.end(), [](auto count) { return count > 0; }));
  }
  EXPECT_LT(with_evidence, 60U);
  EXPECT_EQ(selected.size(), with_evidence);
  auto empty = table;
  std::fill(empty.layers.at(layer_index(3)).counts.begin(), empty.layers.at(layer_index(3)).counts.end(), 0);
  std::fill(empty.layers.at(layer_index(3)).scores.begin(), empty.layers.at(layer_index(3)).scores.end(), 0);
  EXPECT_THROW(static_cast<void>(TypeParam().select(empty)), esft::error);
}

TEST(all_experts, selects_every_expert_in_order) {
  const auto selected = esft::all_experts().select(counted_table(1, 6, 50));
  EXPECT_EQ(selected.size(), 18U);
  for (const auto& [index, experts] : selected.layers) {
    for (std::size_t e = 0; e < 6; ++e) EXPECT_EQ(experts[e].value, static_cast<std::int32_t>(e));
  }
}

TEST(random_like, copies_the_sizes_and_nothing_else) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    const auto table = counted_table(seed, 16, 50);
    const auto like = esft::top_p({.p = .5}).select(table);
    const auto drawn = esft::random_like({.like = like, .seed = seed}).select(table);
    for (const auto& [index, experts] : like.layers) RC_ASSERT(drawn.layers.at(index).size() == experts.size());
    const auto other_scores = counted_table(seed + 1, 16, 50);
    RC_ASSERT(esft::random_like({.like = like, .seed = seed}).select(other_scores) == drawn);
  }));
}

TEST(random_like, draws_and_seeds_are_independent_and_every_expert_is_equally_likely) {
  const auto table = counted_table(1, 16, 50);
  const auto like = esft::top_k(4).select(table);
  const auto select = [&](std::uint64_t seed, std::uint32_t draw) { return esft::random_like({.like = like, .seed = seed, .draw = draw}).select(table); };
  EXPECT_EQ(select(1, 0), select(1, 0));
  EXPECT_NE(select(1, 0), select(1, 1));
  EXPECT_NE(select(1, 0), select(2, 0));
  EXPECT_NE(select(1, 0).layers.at(layer_index(1)), select(1, 0).layers.at(layer_index(3)));
  std::vector<int> hits(16);
  for (std::uint32_t draw = 0; draw < 4000; ++draw) {
    const auto drawn = select(7, draw);
    for (const auto expert : drawn.layers.at(layer_index(1))) ++hits[static_cast<std::size_t>(expert.value)];
  }
  for (const int hit : hits) EXPECT_NEAR(hit, 1000, 150);  // more than five standard deviations
}

TEST(random_like, refuses_a_selection_of_another_model) {
  const auto table = counted_table(1, 4, 50);
  auto like = esft::top_k(2).select(table);
  EXPECT_NO_THROW(static_cast<void>(esft::random_like({.like = like}).select(table)));
  auto extra = like;
  extra.layers[layer_index(2)] = {};
  EXPECT_THROW(static_cast<void>(esft::random_like({.like = extra}).select(table)), esft::usage_error);
  auto missing = like;
  missing.layers.erase(layer_index(3));
  EXPECT_THROW(static_cast<void>(esft::random_like({.like = missing}).select(table)), esft::usage_error);
  auto too_many = like;
  for (std::int32_t e = 0; e < 3; ++e) too_many.layers[layer_index(3)].emplace_back(e);
  EXPECT_THROW(static_cast<void>(esft::random_like({.like = too_many}).select(table)), esft::usage_error);
}

}  // namespace selection_laws_tests
