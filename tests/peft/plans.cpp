// SPDX-License-Identifier: Apache-2.0
// Plans: what they train, and which requests they refuse.
#include <esft/core/error.hpp>
#include <esft/peft/plans.hpp>

#include <gtest/gtest.h>

namespace peft_plans_tests {

using esft::expert_index;
using esft::layer_index;
using esft::parameter_role;

/// A dense layer 0 and MoE layers 1 and 2 with four experts and a shared one.
esft::parameter_inventory inventory() {
  esft::parameter_inventory model{{{parameter_role::embedding, layer_index{-1}}, 100, 0, 25, 4},
                                  {{parameter_role::query, layer_index{0}}, 16, 0, 4, 4},
                                  {{parameter_role::dense_gate_up, layer_index{0}}, 64, 0, 16, 4},
                                  {{parameter_role::dense_down, layer_index{0}}, 32, 0, 4, 8}};
  for (const std::int32_t l : {1, 2}) {
    const layer_index layer{l};
    model.insert(model.end(), {{{parameter_role::query, layer}, 16, 0, 4, 4},
                               {{parameter_role::router, layer}, 16, 0, 4, 4},
                               {{parameter_role::shared_gate_up, layer}, 20, 0, 5, 4},
                               {{parameter_role::shared_down, layer}, 10, 0, 5, 2},
                               {{parameter_role::expert_gate_up, layer}, 4 * 8, 4, 2, 4},
                               {{parameter_role::expert_down, layer}, 4 * 4, 4, 4, 1}});
  }
  return model;
}

esft::expert_set selection(std::vector<std::int32_t> first, std::vector<std::int32_t> second) {
  esft::expert_set set;
  for (const auto e : first) set.layers[layer_index{1}].emplace_back(e);
  set.layers[layer_index{2}] = {};
  for (const auto e : second) set.layers[layer_index{2}].emplace_back(e);
  return set;
}

std::string refusal(const esft::esft_plan& plan) {
  try {
    static_cast<void>(plan.trainable(inventory()));
  } catch (const esft::usage_error& problem) {
    return problem.what();
  }
  return {};
}

TEST(plans, full_trains_everything_and_esft_only_its_experts) {
  std::int64_t all = 0;
  for (const auto& entry : inventory()) all += entry.elements;
  EXPECT_EQ(esft::trained_elements(esft::full_plan{}.trainable(inventory()), inventory()), all);

  const esft::esft_plan plan{selection({3, 0}, {2})};
  const auto set = plan.trainable(inventory());
  EXPECT_TRUE(set.whole.empty());
  EXPECT_EQ(set.experts_of(layer_index{1}), (std::vector{expert_index{0}, expert_index{3}}));  // ascending, whatever the selection's order
  EXPECT_EQ(esft::trained_elements(set, inventory()), 3 * 12);
}

TEST(plans, options_add_the_shared_experts_and_what_is_no_expert) {
  esft::esft_plan plan{selection({0}, {})};
  plan.shared_experts = true;
  auto set = plan.trainable(inventory());
  EXPECT_EQ(set.whole.size(), 4U);
  EXPECT_TRUE(set.trains({parameter_role::shared_down, layer_index{2}}));
  EXPECT_FALSE(set.trains({parameter_role::router, layer_index{2}}));
  EXPECT_EQ(esft::trained_elements(set, inventory()), 12 + 2 * 30);

  plan.shared_experts = false;
  plan.non_expert_modules = true;
  set = plan.trainable(inventory());
  EXPECT_TRUE(set.trains({parameter_role::router, layer_index{1}}));
  EXPECT_TRUE(set.trains({parameter_role::embedding, layer_index{-1}}));
  EXPECT_TRUE(set.trains({parameter_role::dense_down, layer_index{0}}));
  EXPECT_FALSE(set.trains({parameter_role::shared_down, layer_index{1}}));
  EXPECT_FALSE(set.trains({parameter_role::expert_down, layer_index{1}}));
}

TEST(plans, a_selection_of_another_model_is_refused_with_the_layer) {
  EXPECT_EQ(refusal({selection({0}, {1})}), "");  // the twin
  esft::expert_set dense = selection({0}, {1});
  dense.layers[layer_index{0}] = {expert_index{0}};
  EXPECT_NE(refusal({dense}).find("layer 0 "), std::string::npos);
  esft::expert_set missing = selection({0}, {1});
  missing.layers.erase(layer_index{2});
  EXPECT_NE(refusal({missing}).find("layer 2 "), std::string::npos);
  EXPECT_NE(refusal({selection({0}, {4})}).find("expert 4"), std::string::npos);
  EXPECT_NE(refusal({selection({-1}, {0})}).find("expert -1"), std::string::npos);
  EXPECT_NE(refusal({selection({2, 2}, {0})}).find("twice"), std::string::npos);
}

}  // namespace peft_plans_tests
