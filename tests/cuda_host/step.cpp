// SPDX-License-Identifier: Apache-2.0
// The program that measures a whole step, in small: what it plans is what a model then takes, and a step runs.
#include "../../benchmarks/gpu/floors.hpp"
#include "../../benchmarks/step.hpp"

#include <esft/backends/cuda.hpp>
#include <esft/peft/plans/esft.hpp>

#include <cmath>
#include <string>
#include <utility>

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
  std::int64_t asked = 0;
  const step_figures f = measure_step(
      backend, small(), trainable, 2, 8, 1, true, [&] { backend.synchronise(); }, [&] { return ++asked; });
  EXPECT_EQ(f.resident, 1);
  EXPECT_EQ(f.trained, 2 * 2 * 3 * 16 * 32);
  EXPECT_EQ(f.weights_and_state, f.planned.weights + f.planned.gradients + f.planned.optimizer);
  EXPECT_GT(f.seconds_per_token, 0);
  EXPECT_NEAR(f.loss, std::log(64.0), 1.5);  // nothing is known yet
}

TEST(gpu_figures, say_whether_they_meet_their_floor_and_a_missed_one_is_an_error) {
  using enum floor_side;
  floor_table table;
  EXPECT_EQ(table.text("a", "1 s", "fast", 1, {}), "| a | 1 s | fast | | |");
  EXPECT_EQ(table.text("a", "75 %", "", 75, {at_least, 75, "%"}), "| a | 75 % |  | >= 75 % | yes |");
  EXPECT_EQ(table.text("a", "60 GB", "", 60, {at_most, 60, "GB"}), "| a | 60 GB |  | <= 60 GB | yes |");
  EXPECT_EQ(table.exit_code(), 0);
  for (const auto& [figure, side] : {std::pair{59.0, at_least}, {61.0, at_most}, {std::nan(""), at_least}, {std::nan(""), at_most}}) {
    floor_table missing;
    EXPECT_NE(missing.text("a", "", "", figure, {side, 60, ""}).find("**no**"), std::string::npos) << figure;
    EXPECT_EQ(missing.exit_code(), floor_table::missed_exit_code);
    floor_table tried_out(false);
    EXPECT_EQ(tried_out.text("a", "", "", figure, {side, 60, ""}).find("**no**"), std::string::npos) << figure;
    EXPECT_EQ(tried_out.exit_code(), 0);
  }
}

}  // namespace
}  // namespace esft::bench
