// SPDX-License-Identifier: Apache-2.0
// The program that measures a whole step, in small: what it plans is what a model then takes, and a step runs.
#include "../../benchmarks/gpu/step.hpp"

#include <esft/backends/cuda.hpp>
#include <esft/peft/plans/esft.hpp>

#include <gtest/gtest.h>

namespace esft::bench {
namespace {

TEST(gpu_step, plans_the_parameters_that_a_model_has) {
  cuda_backend<bf16> backend;
  const decoder<cuda_backend<bf16>> model(backend, small());
  const parameter_inventory there = inventory(model.parameters);
  const parameter_inventory planned = planned_inventory(small());
  ASSERT_EQ(planned.size(), there.size());
  for (std::size_t i = 0; i < there.size(); ++i) {
    EXPECT_EQ(planned[i].key, there[i].key) << i;
    EXPECT_EQ(planned[i].elements, there[i].elements) << i;
    EXPECT_EQ(planned[i].experts, there[i].experts) << i;
  }
}

TEST(gpu_step, the_model_of_the_figures_has_15_7_billion_parameters) {
  std::int64_t all = 0;
  for (const parameter_entry& entry : planned_inventory(v2_lite())) all += entry.elements;
  EXPECT_NEAR(static_cast<double>(all), 15.7e9, 0.1e9);
}

// Recorded: no part of a step of this family needs the host.
TEST(gpu_step, a_small_step_runs_recorded_and_takes_the_state_that_was_planned) {
  cuda_backend<bf16> backend({.grouped = cuda_grouped::device});
  expert_set experts;
  for (const int layer : {1, 2}) experts.layers[layer_index{layer}] = {expert_index{0}, expert_index{3}};
  const trainable_set trainable = esft_plan{experts}.trainable(planned_inventory(small()));
  const step_figures f = measure_step(backend, small(), trainable, 2, 8, 1, true, [&] { backend.synchronise(); });
  EXPECT_EQ(f.trained, 2 * 2 * 3 * 16 * 32);
  EXPECT_EQ(f.weights_and_state, f.planned.weights + f.planned.gradients + f.planned.optimizer);
  EXPECT_GT(f.seconds_per_token, 0);
  EXPECT_NEAR(f.loss, std::log(64.0), 1.5);  // nothing is known yet
}

}  // namespace
}  // namespace esft::bench
