// SPDX-License-Identifier: Apache-2.0
// What an adapter says of a plan: enough to load what was trained, for every built-in plan; and what it cannot say.
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/peft/plans.hpp>
#include <esft/train/save_adapter.hpp>

#include <map>
#include <optional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace described_plans_tests {

using esft::expert_index;
using esft::layer_index;
using esft::parameter_role;

class described_plans : public testing::Test {
 protected:
  template <class Plan>
  esft::adapter_manifest describe(const Plan& plan) {
    return describe_set(plan.trainable(esft::inventory(model_.parameters)));
  }
  esft::adapter_manifest describe_set(const esft::trainable_set& set) { return esft::describe_adapter(model_, set, "name", "digest"); }

  esft::reference_backend<float> backend_;
  esft::decoder<esft::reference_backend<float>> model_ = tiny::model(backend_);
  esft::expert_set selection_{{{layer_index{1}, {expert_index{4}, expert_index{1}}}, {layer_index{2}, {expert_index{0}}}}};
};

TEST_F(described_plans, experts_and_whole_modules) {
  const auto said = describe(esft::esft_plan{selection_, true, false});
  EXPECT_EQ(said.method, "name");
  EXPECT_EQ(said.base_digest, "digest");
  EXPECT_EQ(said.experts, (esft::expert_config{{tiny::some_experts().experts}, true, false}));
  EXPECT_EQ(said.low_rank, std::nullopt);
  EXPECT_TRUE(describe(esft::esft_plan{selection_, false, true}).experts.non_expert_modules);
  const auto all = describe(esft::full_plan{});
  EXPECT_TRUE(all.experts.shared_experts && all.experts.non_expert_modules);
  EXPECT_EQ(all.experts.experts.size(), 12U);
  EXPECT_EQ(all.planned, esft::planned_names(model_, tiny::everything(model_)));
}

TEST_F(described_plans, factors_with_their_scale_and_the_experts_that_have_them) {
  const esft::low_rank_options how{.rank = 3, .alpha = 5, .rank_stabilised = true};
  const auto said = describe(esft::lora_plan{how, {}, selection_});
  EXPECT_EQ(said.low_rank, how);
  EXPECT_EQ(said.experts.experts.layers, tiny::some_experts().experts);
  EXPECT_TRUE(said.low_rank_active.empty());
  esft::hybrid_plan both{.whole = {selection_}};
  both.factors.how = how;
  both.factors.experts = esft::expert_set{{{layer_index{1}, {expert_index{1}, expert_index{2}}}, {layer_index{2}, {expert_index{3}}}}};
  EXPECT_EQ(describe(both).low_rank, how);
  EXPECT_EQ(describe(both).experts.experts.layers, tiny::some_experts().experts);
}

TEST_F(described_plans, how_many_of_several_pairs_a_token_uses) {
  esft::hilo_plan plan;
  plan.low_rank_experts = {1, 3, 4};
  plan.ranks = {2, 4, 3};
  plan.active = {1, 2, 3};
  const auto said = describe(plan);
  EXPECT_EQ(said.low_rank_active, (std::map<layer_index, std::int64_t>{{layer_index{1}, 2}, {layer_index{2}, 3}}));
  EXPECT_EQ(said.low_rank->alpha, plan.how.alpha);
}

TEST_F(described_plans, factors_that_the_adapter_could_not_tell_apart_are_refused) {
  const esft::parameter_key query{parameter_role::query, layer_index{1}};
  const esft::parameter_key output{parameter_role::attention_output, layer_index{1}};
  esft::trainable_set set;
  set.low_rank[query] = {{.rank = 2}, {}, {.experts = 3, .active = 2}};
  set.low_rank[output] = {{.rank = 4}, {}, {.experts = 3, .active = 2}};
  EXPECT_NO_THROW(describe_set(set));  // ranks may differ
  set.low_rank[output].how.alpha = 7;
  EXPECT_THROW(describe_set(set), esft::usage_error);
  set.low_rank[output].how.alpha = set.low_rank[query].how.alpha;
  set.low_rank[output].mixture.active = 1;
  EXPECT_THROW(describe_set(set), esft::usage_error);
}

}  // namespace described_plans_tests
