// SPDX-License-Identifier: Apache-2.0
// HiLo's plan: patterns over the layers, what low-rank experts cost, how they are allocated, and what is refused.
#include <esft/peft/low_rank_allocation.hpp>
#include <esft/peft/plans/hilo.hpp>

#include <limits>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace hilo_tests {

using esft::layer_index;
using esft::layer_pattern;
using esft::parameter_role;

TEST(layer_pattern_text, is_numbers_digits_or_a_name) {
  EXPECT_EQ(esft::parse_layer_pattern("8,8,4,4"), (layer_pattern{8, 8, 4, 4}));
  EXPECT_EQ(esft::parse_layer_pattern("2468"), (layer_pattern{2, 4, 6, 8}));
  EXPECT_EQ(esft::parse_layer_pattern("16"), (layer_pattern{16}));
  EXPECT_EQ(esft::parse_layer_pattern("128"), (layer_pattern{128}));
  EXPECT_EQ(esft::parse_layer_pattern("triangle"), (layer_pattern{8, 6, 4, 2}));
  EXPECT_EQ(esft::parse_layer_pattern("inverted-triangle"), (layer_pattern{2, 4, 6, 8}));
  EXPECT_EQ(esft::parse_layer_pattern("hourglass"), (layer_pattern{8, 2, 2, 8}));
  EXPECT_EQ(esft::parse_layer_pattern("rectangle"), (layer_pattern{5, 5, 5, 5}));
  for (const char* bad : {"", "0", "2,,4", "2,4,", "2468a", "1024", "-1", "pyramid"}) {
    EXPECT_THROW(static_cast<void>(esft::parse_layer_pattern(bad)), esft::usage_error) << bad;
  }
}

TEST(layer_pattern_spread, gives_each_number_an_equal_stretch_of_layers) {
  EXPECT_EQ(esft::spread({2, 4, 6, 8}, 8), (layer_pattern{2, 2, 4, 4, 6, 6, 8, 8}));
  EXPECT_EQ(esft::spread({2, 4, 6, 8}, 5), (layer_pattern{2, 2, 4, 6, 8}));
  EXPECT_EQ(esft::spread({2, 4, 6}, 3), (layer_pattern{2, 4, 6}));
  EXPECT_EQ(esft::spread({7}, 3), (layer_pattern{7, 7, 7}));
  EXPECT_THROW(static_cast<void>(esft::spread({2, 4, 6, 8}, 3)), esft::usage_error);
  EXPECT_THROW(static_cast<void>(esft::spread({}, 3)), esft::usage_error);
}

/// Llama-2-7B's seven linear maps, each a matrix of its own; roles serve as names only.
esft::parameter_inventory llama() {
  esft::parameter_inventory model;
  const auto add = [&](parameter_role role, std::int32_t layer, std::int64_t rows, std::int64_t columns) {
    model.push_back({{role, layer_index{layer}}, rows * columns, 0, rows, columns});
  };
  for (std::int32_t l = 0; l < 32; ++l) {
    for (const auto role : {parameter_role::query, parameter_role::key, parameter_role::value, parameter_role::attention_output}) {
      add(role, l, 4096, 4096);
    }
    add(parameter_role::dense_gate_up, l, 11008, 4096);
    add(parameter_role::shared_gate_up, l, 11008, 4096);
    add(parameter_role::dense_down, l, 4096, 11008);
  }
  return model;
}

TEST(hilo_counts, are_those_of_the_formula_on_llama_2_7b) {
  const auto model = llama();
  const auto count = [&](const layer_pattern& experts, const layer_pattern& ranks) {
    esft::hilo_plan plan;
    plan.low_rank_experts = experts;
    plan.ranks = ranks;
    return esft::trained_elements(plan.trainable(model), model);
  };
  EXPECT_EQ(count({2, 4, 6, 8}, {8}), 105'635'840);
  EXPECT_EQ(count({2, 4, 6, 8}, {2, 4, 6, 8}), 80'650'240);
  EXPECT_EQ(count({2, 4, 6, 8}, {8, 6, 4, 2}), 55'664'640);
  const auto layer = esft::low_rank_extents(model, {}).front();
  EXPECT_EQ(32 * layer.elements(5, 8), 105'635'840);                                // 160 experts, whatever their distribution
  EXPECT_EQ(32 * layer.elements(5, 8) - 160 * layer.columns, 99'942'400);           // without routers
  EXPECT_EQ(32 * (layer.elements(2, 8) - 2 * layer.columns), 39'976'960);           // what a token uses: two of them
  const std::int64_t routers = 160 * layer.columns;                                 // likewise
  EXPECT_EQ(count({2, 4, 6, 8}, {2, 4, 6, 8}) - routers, 74'956'800);
  EXPECT_EQ(count({2, 4, 6, 8}, {8, 6, 4, 2}) - routers, 49'971'200);
  for (const layer_pattern& ranks : {layer_pattern{2, 4, 6, 8}, layer_pattern{8, 6, 4, 2}}) {
    std::int64_t active = 0;
    for (const std::int64_t rank : esft::spread(ranks, 32)) active += layer.elements(2, rank) - 2 * layer.columns;
    EXPECT_EQ(active, 24'985'600);
    EXPECT_EQ(8 * active, 5 * 39'976'960);  // 37.5 % less
  }
  EXPECT_EQ(layer.elements(1, 8), 8 * layer.both);                                  // one pair has no router
  EXPECT_EQ(layer.elements(2, 8, 3), 16 * layer.both + 5 * layer.columns);          // null experts have a row of it each
}

TEST(hilo_counts, of_the_shapes_of_mola_are_equal_whatever_the_shape) {
  const auto model = llama();
  const std::map<std::string, std::vector<int>> quarters{
      {"triangle", {8, 6, 4, 2}}, {"inverted-triangle", {2, 4, 6, 8}}, {"hourglass", {8, 2, 2, 8}}, {"rectangle", {5, 5, 5, 5}}};
  for (const auto& [name, numbers] : quarters) {
    esft::hilo_plan plan;
    plan.low_rank_experts = esft::parse_layer_pattern(name);
    plan.ranks = {8};
    const auto set = plan.trainable(model);
    EXPECT_EQ(set.low_rank.size(), 32U * 7U) << name;
    int experts = 0;
    for (const auto& [key, target] : set.low_rank) {
      const int wanted = numbers[static_cast<std::size_t>(key.layer.value) / 8];
      EXPECT_EQ(target.mixture.experts, wanted) << name << ", layer " << key.layer.value;
      EXPECT_EQ(target.mixture.active, 2) << name << ", layer " << key.layer.value;
      if (key.role == parameter_role::query) experts += wanted;
    }
    EXPECT_EQ(experts, 160) << name;
    EXPECT_EQ(esft::trained_elements(set, model), 105'635'840) << name;
  }
  EXPECT_EQ(esft::mola_patterns().size(), quarters.size());
}

esft::parameter_inventory small(std::int32_t layers) {
  esft::parameter_inventory model;
  for (std::int32_t l = 0; l < layers; ++l) {
    const layer_index layer{l};
    model.push_back({{parameter_role::query, layer}, 12, 0, 3, 4});
    model.push_back({{parameter_role::router, layer}, 8, 0, 2, 4});
    model.push_back({{parameter_role::expert_down, layer}, 16, 2, 2, 4});
    model.push_back({{parameter_role::shared_down, layer}, 20, 0, 4, 5});
  }
  model.push_back({{parameter_role::head, layer_index{-1}}, 40, 0, 10, 4});
  return model;
}

TEST(hilo_plan, sets_number_rank_and_active_count_layer_by_layer) {
  esft::hilo_plan plan;
  plan.low_rank_experts = {1, 3};
  plan.ranks = {2, 4, 6, 8};
  plan.active = {1, 1, 2, 3};
  plan.null_experts = 0;
  plan.balance = 0.01;
  const auto set = plan.trainable(small(4)).low_rank;
  EXPECT_EQ(set.size(), 8U);  // query and shared, but neither routers nor routed experts nor the head
  const auto at = [&](std::int32_t layer) { return set.at({parameter_role::query, layer_index{layer}}); };
  EXPECT_FALSE(at(0).mixture.routed());
  EXPECT_EQ(at(1).how.rank, 4);
  EXPECT_EQ(at(2).mixture, (esft::low_rank_mixture_options{3, 2, 0, 0.01}));
  EXPECT_EQ(at(3).mixture, (esft::low_rank_mixture_options{3, 3, 0, 0.01}));
  EXPECT_EQ(at(3).how.rank, 8);
}

TEST(hilo_plan, says_what_does_not_fit) {
  const auto refusal = [](const auto& change) -> std::string {
    esft::hilo_plan plan;
    change(plan);
    try {
      static_cast<void>(plan.trainable(small(4)));
    } catch (const esft::usage_error& problem) {
      return problem.what();
    }
    return {};
  };
  using ::testing::HasSubstr;
  EXPECT_EQ(refusal([](auto&) {}), "");
  EXPECT_THAT(refusal([](auto& p) { p.low_rank_experts = {1, 2, 3, 4, 5}; }), HasSubstr("too fine"));
  EXPECT_THAT(refusal([](auto& p) { p.active = {5}; }), HasSubstr("layer 0: 5 active low-rank experts of 4"));
  EXPECT_EQ(refusal([](auto& p) { p.active = {5}, p.null_experts = 1; }), "");
  EXPECT_THAT(refusal([](auto& p) { p.active = {1}, p.null_experts = 1; }), HasSubstr("null experts need at least 2"));
  EXPECT_EQ(refusal([](auto& p) { p.active = {1}; }), "");
  EXPECT_THAT(refusal([](auto& p) { p.ranks = {0}; }), HasSubstr("at least 1"));
  EXPECT_THAT(refusal([](auto& p) { p.balance = -1; }), HasSubstr("balance"));
  EXPECT_THAT(refusal([](auto& p) { p.how.alpha = 0; }), HasSubstr("alpha"));
  EXPECT_THAT(refusal([](auto& p) { p.how.alpha = std::numeric_limits<double>::infinity(); }), HasSubstr("alpha"));
  EXPECT_THAT(refusal([](auto& p) { p.targets = {parameter_role::expert_down}; }), HasSubstr("the plan lora"));
  EXPECT_THAT(refusal([](auto& p) { p.targets = {parameter_role::head}; }), HasSubstr("'head'"));
  EXPECT_THAT(refusal([](auto& p) { p.targets = {parameter_role::dense_down}; }), HasSubstr("no matrix"));
  EXPECT_EQ(refusal([](auto& p) { p.targets = {parameter_role::query}; }), "");
}

TEST(grow_with_depth, finds_2468_for_its_budget) {
  const auto unit = [](std::size_t, std::int64_t n) { return n; };
  EXPECT_EQ(esft::grow_with_depth(4, 1, 100, 10, unit), (layer_pattern{1, 2, 3, 4}));
  EXPECT_EQ(esft::grow_with_depth(4, 1, 100, 20, unit), (layer_pattern{2, 4, 6, 8}));
  EXPECT_EQ(esft::grow_with_depth(4, 1, 5, 1000, unit), (layer_pattern{5, 5, 5, 5}));
  EXPECT_EQ(esft::grow_with_depth(4, 2, 100, 8, unit), (layer_pattern{2, 2, 2, 2}));
  EXPECT_THROW(static_cast<void>(esft::grow_with_depth(4, 2, 100, 7, unit)), esft::usage_error);
}

RC_GTEST_PROP(grow_with_depth_law, is_monotone_within_budget_and_leaves_no_step_unpaid, ()) {
  const auto layers = *rc::gen::inRange<std::size_t>(1, 9);
  const auto most = *rc::gen::inRange<std::int64_t>(1, 9);
  const auto prices = *rc::gen::container<std::vector<std::int64_t>>(layers, rc::gen::inRange<std::int64_t>(1, 20));
  const auto cost = [&](std::size_t l, std::int64_t n) { return prices[l] * n + (n > 1 ? n : 0); };
  std::int64_t least = 0;
  for (std::size_t l = 0; l < layers; ++l) least += cost(l, 1);
  const auto budget = least + *rc::gen::inRange<std::int64_t>(0, 800);
  const layer_pattern n = esft::grow_with_depth(layers, 1, most, budget, cost);
  std::int64_t spent = 0;
  for (std::size_t l = 0; l < layers; ++l) spent += cost(l, n[l]);
  RC_ASSERT(spent <= budget);
  RC_ASSERT(std::is_sorted(n.begin(), n.end()));
  for (std::size_t l = 0; l < layers; ++l) {
    const bool may_rise = n[l] < most && (l + 1 == layers || n[l] < n[l + 1]);
    RC_ASSERT(n[l] >= 1 && n[l] <= most);
    RC_ASSERT(!may_rise || spent + cost(l, n[l] + 1) - cost(l, n[l]) > budget);
  }
}

TEST(pl_alpha_hill, equals_the_oracle) {
  const std::vector<double> spectrum{1, 2, 4, 8};
  EXPECT_NEAR(esft::pl_alpha_hill(spectrum), 1.961797, 5e-7);
  EXPECT_NEAR(esft::pl_alpha_hill(spectrum, 1), 2.442695, 5e-7);
  EXPECT_EQ(esft::pl_alpha_hill(std::vector<double>{3, 3, 3, 3}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(esft::pl_alpha_hill(std::vector<double>{3}), std::numeric_limits<double>::infinity());
}

TEST(allocate_by_quality, equals_the_oracle_and_adds_up) {
  const std::vector<double> phi{2, 3, 4};
  EXPECT_EQ(esft::allocate_by_quality(phi, 2.5, 20), (layer_pattern{2, 6, 12}));
  EXPECT_EQ(esft::allocate_by_quality(phi, 2.5, 20'000'000), (layer_pattern{2'124'827, 5'855'335, 12'019'838}));  // the shares unrounded
  EXPECT_EQ(esft::allocate_by_quality(std::vector<double>{1, 1, 1}, 2.5, 8), (layer_pattern{3, 3, 2}));
  EXPECT_EQ(esft::allocate_by_quality(std::vector<double>{1, 9, 1}, 2.5, 6), (layer_pattern{1, 4, 1}));  // no layer is left without
  EXPECT_THROW(static_cast<void>(esft::allocate_by_quality(std::vector<double>{1, 1}, 2.5, 1)), esft::usage_error);
  EXPECT_THROW(static_cast<void>(esft::allocate_by_quality(std::vector<double>{1, std::numeric_limits<double>::infinity()}, 2.5, 9)),
               esft::usage_error);
}

}  // namespace hilo_tests
