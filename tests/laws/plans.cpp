// SPDX-License-Identifier: Apache-2.0
// What every plan promises, on every built-in plan: it names only what the model has, and always the same.
#include <esft/peft/plans.hpp>

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace laws_plans_tests {

using esft::expert_index;
using esft::layer_index;
using esft::parameter_key;
using esft::parameter_role;

constexpr parameter_key model_wide(parameter_role role) { return {role, layer_index{-1}}; }

/// A model of a dense layer 0 and routing layers 1 and 2, with shared experts; E experts.
esft::parameter_inventory model(int experts) {
  esft::parameter_inventory result{{model_wide(parameter_role::embedding), 20, 0, 10, 2}};
  for (std::int32_t l = 0; l < 3; ++l) {
    const layer_index layer{l};
    for (const auto role : {parameter_role::attention_norm, parameter_role::mlp_norm}) result.push_back({{role, layer}, 2, 0});
    for (const auto role : {parameter_role::query, parameter_role::key, parameter_role::value, parameter_role::attention_output}) {
      result.push_back({{role, layer}, 4, 0, 2, 2});
    }
    if (l == 0) {
      result.push_back({{parameter_role::dense_gate_up, layer}, 12, 0, 6, 2});
      result.push_back({{parameter_role::dense_down, layer}, 6, 0, 2, 3});
      continue;
    }
    result.push_back({{parameter_role::router, layer}, experts * 2, 0, experts, 2});
    result.push_back({{parameter_role::expert_gate_up, layer}, experts * 6, experts, 3, 2});
    result.push_back({{parameter_role::expert_down, layer}, experts * 3, experts, 3, 1});
    result.push_back({{parameter_role::shared_gate_up, layer}, 10, 0, 5, 2});
    result.push_back({{parameter_role::shared_down, layer}, 5, 0, 5, 1});
  }
  result.push_back({model_wide(parameter_role::final_norm), 4, 0});
  result.push_back({model_wide(parameter_role::head), 20, 0, 10, 2});
  return result;
}

std::int64_t all_elements(const esft::parameter_inventory& inventory) {
  std::int64_t count = 0;
  for (const auto& entry : inventory) count += entry.elements;
  return count;
}

esft::expert_set select(const std::vector<std::int32_t>& lower, const std::vector<std::int32_t>& upper) {
  esft::expert_set result;
  auto& one = result.layers[layer_index{1}];
  auto& two = result.layers[layer_index{2}];
  for (const std::int32_t e : lower) one.push_back(expert_index{e});
  for (const std::int32_t e : upper) two.push_back(expert_index{e});
  return result;
}

/// Plans of each kind, for a model of `experts` experts per routing layer.
template <class Plan>
rc::Gen<Plan> any_plan(int experts);
template <>
rc::Gen<esft::full_plan> any_plan<esft::full_plan>(int) {
  return rc::gen::just(esft::full_plan{});
}
template <>
rc::Gen<esft::esft_plan> any_plan<esft::esft_plan>(int experts) {
  return rc::gen::exec([experts] {
    const auto some = [&] {
      const auto taken = *rc::gen::container<std::vector<bool>>(static_cast<std::size_t>(experts), rc::gen::arbitrary<bool>());
      std::vector<std::int32_t> chosen;
      for (std::int32_t e = experts; e-- > 0;) {  // a selection comes by score, not by id
        if (taken[static_cast<std::size_t>(e)]) chosen.push_back(e);
      }
      return chosen;
    };
    return esft::esft_plan{select(some(), some()), *rc::gen::arbitrary<bool>(), *rc::gen::arbitrary<bool>()};
  });
}

template <>
rc::Gen<esft::lora_plan> any_plan<esft::lora_plan>(int experts) {
  return rc::gen::exec([experts] {
    esft::lora_plan plan;
    plan.how.rank = *rc::gen::inRange(1, 5);
    if (*rc::gen::arbitrary<bool>()) plan.experts = (*any_plan<esft::esft_plan>(experts)).experts;
    if (*rc::gen::arbitrary<bool>())
      plan.targets =
          esft::low_rank_roles({"attention", *rc::gen::elementOf(std::vector<std::string>{"head", "router", "dense"}), "experts_down"});
    return plan;
  });
}

template <>
rc::Gen<esft::hilo_plan> any_plan<esft::hilo_plan>(int) {
  return rc::gen::exec([] {
    esft::hilo_plan plan;
    const auto numbers = [](int least, int most) {
      esft::layer_pattern result;
      for (int n = *rc::gen::inRange(1, 4); n > 0; --n) result.push_back(*rc::gen::inRange(least, most));
      return result;
    };
    plan.low_rank_experts = numbers(2, 5);
    plan.ranks = numbers(1, 5);
    plan.active = numbers(2, 3);
    plan.null_experts = *rc::gen::inRange(0, 3);
    if (*rc::gen::arbitrary<bool>()) plan.targets = esft::low_rank_roles({"attention", "dense"});
    return plan;
  });
}

/// The first few experts whole, the others with factors; in layer 1 at least one is left for them.
template <>
rc::Gen<esft::hybrid_plan> any_plan<esft::hybrid_plan>(int experts) {
  return rc::gen::exec([experts] {
    esft::hybrid_plan plan;
    std::vector<std::int32_t> wide;
    for (std::int32_t e = 0; e < experts; ++e) wide.push_back(e);
    std::vector<std::int32_t> narrow = wide;
    narrow.resize(static_cast<std::size_t>(*rc::gen::inRange(0, experts)));
    plan.whole.experts = select(narrow, *rc::gen::arbitrary<bool>() ? wide : narrow);
    plan.factors.experts = select(wide, wide);
    plan.factors.how.rank = *rc::gen::inRange(1, 5);
    return plan;
  });
}

template <class List>
struct as_gtest;
template <class... Types>
struct as_gtest<esft::type_list<Types...>> {
  using type = ::testing::Types<Types...>;
};
template <class Plan>
class plan_laws : public ::testing::Test {};
TYPED_TEST_SUITE(plan_laws, typename as_gtest<esft::builtin_plans>::type);

TYPED_TEST(plan_laws, names_only_what_the_model_has_and_always_the_same) {
  EXPECT_TRUE(rc::check("subset of the inventory, deterministic", [] {
    const int experts = *rc::gen::inRange(1, 9);
    const auto inventory = model(experts);
    const auto plan = *any_plan<TypeParam>(experts);
    const auto trainable = plan.trainable(inventory);
    for (const auto& key : trainable.whole) {
      RC_ASSERT(std::any_of(inventory.begin(), inventory.end(), [&](const auto& entry) { return entry.key == key; }));
    }
    for (const auto& [layer, chosen] : trainable.experts) {
      RC_ASSERT(layer.value == 1 || layer.value == 2);
      RC_ASSERT(std::is_sorted(chosen.begin(), chosen.end()));
      RC_ASSERT(std::adjacent_find(chosen.begin(), chosen.end()) == chosen.end());
      for (const auto e : chosen) RC_ASSERT(e.value >= 0 && e.value < experts);
    }
    for (const auto& [key, target] : trainable.low_rank) {
      const auto found = std::find_if(inventory.begin(), inventory.end(), [&](const auto& entry) { return entry.key == key; });
      RC_ASSERT(found != inventory.end());
      RC_ASSERT(found->rows > 0);
      RC_ASSERT(target.experts.empty() == (found->experts == 0));
      RC_ASSERT(std::is_sorted(target.experts.begin(), target.experts.end()));
      for (const auto e : target.experts) RC_ASSERT(e.value >= 0 && e.value < found->experts);
    }
    const auto again = plan.trainable(inventory);
    RC_ASSERT(again.low_rank == trainable.low_rank);
    RC_ASSERT(again.whole == trainable.whole);
    RC_ASSERT(again.experts == trainable.experts);
    const auto own = esft::trained_elements(trainable, inventory) - esft::added_elements(trainable, inventory);
    RC_ASSERT(own >= 0 && own <= all_elements(inventory));
  }));
}

TEST(full_plan, trains_every_element) {
  const auto inventory = model(4);
  EXPECT_EQ(esft::trained_elements(esft::full_plan{}.trainable(inventory), inventory), all_elements(inventory));
}

TEST(esft_plan, trains_exactly_the_selected_experts) {
  const auto inventory = model(4);
  const auto trainable = esft::esft_plan{select({3, 0}, {2}), false, false}.trainable(inventory);
  EXPECT_TRUE(trainable.whole.empty());
  EXPECT_EQ(trainable.experts_of(layer_index{1}), (std::vector<expert_index>{expert_index{0}, expert_index{3}}));
  EXPECT_EQ(trainable.experts_of(layer_index{2}), (std::vector<expert_index>{expert_index{2}}));
  EXPECT_TRUE(trainable.experts_of(layer_index{0}).empty());
  EXPECT_EQ(esft::trained_elements(trainable, inventory), 3 * (6 + 3));
}

TEST(esft_plan, every_expert_selected_trains_the_stacks_and_nothing_else) {
  const auto inventory = model(4);
  const auto trainable = esft::esft_plan{select({0, 1, 2, 3}, {3, 2, 1, 0}), false, false}.trainable(inventory);
  EXPECT_EQ(esft::trained_elements(trainable, inventory), 2 * 4 * (6 + 3));
}

TEST(esft_plan, shared_experts_on_request) {
  const auto inventory = model(4);
  const auto trainable = esft::esft_plan{select({}, {1}), true, false}.trainable(inventory);
  EXPECT_THAT(trainable.whole, ::testing::UnorderedElementsAre(parameter_key{parameter_role::shared_gate_up, layer_index{1}},
                                                               parameter_key{parameter_role::shared_down, layer_index{1}},
                                                               parameter_key{parameter_role::shared_gate_up, layer_index{2}},
                                                               parameter_key{parameter_role::shared_down, layer_index{2}}));
  EXPECT_EQ(esft::trained_elements(trainable, inventory), 9 + 2 * 15);
}

TEST(esft_plan, everything_that_is_no_expert_on_request) {
  const auto inventory = model(4);
  const auto trainable = esft::esft_plan{select({}, {1}), false, true}.trainable(inventory);
  for (const auto& entry : inventory) {
    const bool shared = entry.key.role == parameter_role::shared_gate_up || entry.key.role == parameter_role::shared_down;
    EXPECT_EQ(trainable.trains(entry.key), entry.experts == 0 && !shared);
  }
  // All options and all experts: full fine-tuning, reached another way.
  const auto everything = esft::esft_plan{select({0, 1, 2, 3}, {0, 1, 2, 3}), true, true}.trainable(inventory);
  EXPECT_EQ(esft::trained_elements(everything, inventory), all_elements(inventory));
}

TEST(hybrid_plan, gives_factors_to_the_experts_that_are_not_trained_whole) {
  const auto inventory = model(4);
  esft::hybrid_plan plan;
  plan.whole.experts = select({3, 0}, {1, 2});
  plan.factors.experts = select({0, 1, 3}, {2, 1});
  const auto trainable = plan.trainable(inventory);
  EXPECT_EQ(trainable.experts_of(layer_index{1}), (std::vector<expert_index>{expert_index{0}, expert_index{3}}));
  EXPECT_EQ(trainable.experts_of(layer_index{2}), (std::vector<expert_index>{expert_index{1}, expert_index{2}}));
  ASSERT_EQ(trainable.low_rank.size(), 2U);  // layer 1, both matrices
  for (const auto& [key, target] : trainable.low_rank) {
    EXPECT_EQ(key.layer, layer_index{1});
    EXPECT_EQ(target.experts, std::vector<expert_index>{expert_index{1}});
  }
  plan.factors.experts = select({0}, {2});
  EXPECT_THROW(static_cast<void>(plan.trainable(inventory)), esft::usage_error);  // nothing is left for factors
  plan.factors.experts = select({1}, {2});
  plan.factors.targets = esft::low_rank_roles({"experts", "shared", "attention"});
  EXPECT_FALSE(plan.trainable(inventory).low_rank.empty());
  plan.whole.shared_experts = true;
  EXPECT_THROW(static_cast<void>(plan.trainable(inventory)), esft::usage_error);  // shared experts twice
}

TEST(lora_plan, adapts_every_linear_map_but_routers_and_head) {
  const auto inventory = model(4);
  const auto trainable = esft::lora_plan{}.trainable(inventory);
  EXPECT_TRUE(trainable.whole.empty());
  EXPECT_TRUE(trainable.experts.empty());
  for (const auto& entry : inventory) {
    const bool linear = entry.rows > 0 && entry.key.layer.value >= 0 && entry.key.role != parameter_role::router;
    EXPECT_EQ(trainable.low_rank.contains(entry.key), linear) << static_cast<int>(entry.key.role);
  }
  EXPECT_THAT(trainable.low_rank.at({parameter_role::expert_down, layer_index{1}}).experts, ::testing::SizeIs(4));
}

TEST(lora_plan, counts_rank_times_the_sum_of_both_extents_for_each_expert) {
  const auto inventory = model(4);
  esft::lora_plan plan{{.rank = 3}, esft::low_rank_roles({"experts", "query"}), select({3, 0}, {2})};
  const auto trainable = plan.trainable(inventory);
  // three experts of gate_up [3, 2] and down [3, 1], three queries [2, 2]
  EXPECT_EQ(esft::trained_elements(trainable, inventory), 3 * (3 * (3 + 2) + 3 * (3 + 1) + 3 * (2 + 2)));
  EXPECT_EQ(esft::added_elements(trainable, inventory), esft::trained_elements(trainable, inventory));
  EXPECT_EQ(trainable.low_rank.at({parameter_role::expert_gate_up, layer_index{1}}).experts,
            (std::vector<expert_index>{expert_index{0}, expert_index{3}}));
  plan.experts = select({3}, {});  // a layer without selected experts gets no factors
  EXPECT_FALSE(plan.trainable(inventory).low_rank.contains({parameter_role::expert_gate_up, layer_index{2}}));
}

TEST(lora_plan, says_what_does_not_fit) {
  const auto refusal = [](const esft::lora_plan& plan, const esft::parameter_inventory& inventory) -> std::string {
    try {
      static_cast<void>(plan.trainable(inventory));
    } catch (const esft::usage_error& problem) {
      return problem.what();
    }
    return {};
  };
  const auto inventory = model(4);
  EXPECT_EQ(refusal({}, inventory), "");
  EXPECT_THAT(refusal({{.rank = 0}, {}, {}}, inventory), ::testing::HasSubstr("rank"));
  EXPECT_THAT(refusal({{.dropout = 1}, {}, {}}, inventory), ::testing::HasSubstr("dropout"));
  EXPECT_THAT(refusal({{.alpha = 0}, {}, {}}, inventory), ::testing::HasSubstr("alpha"));
  EXPECT_THAT(refusal({{}, {parameter_role::attention_norm}, {}}, inventory), ::testing::HasSubstr("no matrix"));
  EXPECT_THAT(refusal({{}, {parameter_role::query}, select({0}, {0})}, inventory), ::testing::HasSubstr("without experts"));
  EXPECT_THAT(refusal({{}, {}, select({4}, {0})}, inventory), ::testing::HasSubstr("expert 4"));
  auto without_shared = inventory;
  std::erase_if(without_shared, [](const auto& entry) {
    return entry.key.role == parameter_role::shared_down || entry.key.role == parameter_role::shared_gate_up;
  });
  EXPECT_EQ(refusal({}, without_shared), "");
  EXPECT_THAT(refusal({{}, esft::low_rank_roles({"query", "shared"}), {}}, without_shared), ::testing::HasSubstr("'shared'"));
  EXPECT_THROW(static_cast<void>(esft::low_rank_roles({"gate"})), esft::usage_error);
}

TEST(esft_plan, an_empty_selection_names_nothing) {
  EXPECT_TRUE((esft::esft_plan{select({}, {}), false, false}.trainable(model(4)).empty()));
  EXPECT_FALSE((esft::esft_plan{select({}, {0}), false, false}.trainable(model(4)).empty()));
  EXPECT_FALSE((esft::esft_plan{select({}, {}), true, false}.trainable(model(4)).empty()));
}

/// The error must say what is wrong and where.
void refuses(const esft::expert_set& selection, const char* words) {
  try {
    static_cast<void>(esft::esft_plan{selection, false, false}.trainable(model(4)));
    ADD_FAILURE() << "accepted; expected a refusal that says: " << words;
  } catch (const esft::usage_error& problem) {
    EXPECT_THAT(problem.what(), ::testing::HasSubstr(words));
    EXPECT_EQ(problem.category(), esft::error_category::usage);
  }
}

TEST(esft_plan, refuses_the_selection_of_another_model) {
  auto dense_layer = select({0}, {0});
  dense_layer.layers[layer_index{0}] = {expert_index{0}};
  refuses(dense_layer, "layer 0");
  auto no_such_layer = select({0}, {0});
  no_such_layer.layers[layer_index{3}] = {};
  refuses(no_such_layer, "layer 3");
  auto incomplete = select({0}, {0});
  incomplete.layers.erase(layer_index{2});
  refuses(incomplete, "layer 2");
  refuses(select({0, 4}, {}), "expert 4");
  refuses(select({0, -1}, {}), "expert -1");
  refuses(select({}, {1, 3, 1}), "twice");
  EXPECT_NO_THROW(static_cast<void>(esft::esft_plan{select({0, 3}, {}), false, false}.trainable(model(4))));
}

}  // namespace laws_plans_tests
