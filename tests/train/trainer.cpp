// SPDX-License-Identifier: Apache-2.0
// One optimizer step: what it may change, what it must not, and what it costs.
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/isa.hpp>
#include <esft/core/error.hpp>
#include <esft/peft/plan.hpp>

#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include <gtest/gtest.h>

namespace trainer_tests {

using reference = esft::reference_backend<float>;
using exact = esft::reference_backend<double>;

template <class Backend>
esft::trainer<esft::decoder<Backend>> make_trainer(Backend& backend, esft::decoder<Backend>& model, const esft::trainable_set& set,
                                                   esft::trainer_options options = {}) {
  esft::apply(backend, model.parameters, set);
  return {backend, model, std::move(options)};
}

esft::trainer_options at_rate(double rate) {
  esft::trainer_options options;
  options.learning_rate = rate;
  return options;
}

template <class Trainer>
esft::step_report one_step(Trainer& run, const esft::batch_schedule<>& data) {
  const esft::token_batch batch = data.batch(static_cast<std::uint64_t>(run.steps));
  return run.step(std::span<const esft::token_batch>(&batch, 1));
}

TEST(trainer, lowers_the_loss_and_leaves_frozen_bits_alone) {
  reference backend;
  auto model = tiny::model(backend);
  const auto before = tiny::values(backend, model);
  auto run = make_trainer(backend, model, tiny::some_experts(), at_rate(1e-2));
  const auto data = tiny::schedule();
  const double first = one_step(run, data).loss;
  double last = 0;
  for (int i = 0; i < 30; ++i) last = one_step(run, data).loss;
  EXPECT_LT(last, first);
  const auto after = tiny::values(backend, model);
  const auto config = tiny::config();
  for (const auto& [key, old] : before) {
    const auto& now = after.at(key);
    const bool stack = key.role == esft::parameter_role::expert_gate_up || key.role == esft::parameter_role::expert_down;
    const std::size_t parts = stack ? static_cast<std::size_t>(config.experts) : 1;
    const std::size_t size = old.size() / parts;
    for (std::size_t part = 0; part < parts; ++part) {
      const auto chosen = tiny::some_experts().experts_of(key.layer);
      const bool trained =
          stack && std::find(chosen.begin(), chosen.end(), esft::expert_index{static_cast<std::int32_t>(part)}) != chosen.end();
      const bool same =
          std::equal(old.begin() + static_cast<std::ptrdiff_t>(part * size), old.begin() + static_cast<std::ptrdiff_t>((part + 1) * size),
                     now.begin() + static_cast<std::ptrdiff_t>(part * size));
      EXPECT_EQ(same, !trained) << "role " << static_cast<int>(key.role) << " layer " << key.layer.value << " part " << part;
    }
  }
}

TEST(trainer, state_is_trained_elements_times_a_constant) {
  reference backend;
  auto model = tiny::model(backend);
  const auto inventory = esft::inventory(model.parameters);
  const std::int64_t expert = 3 * 8 * 16;  // gate, up, down
  {
    auto run = make_trainer(backend, model, tiny::some_experts());
    EXPECT_EQ(esft::trained_elements(tiny::some_experts(), inventory), 3 * expert);
    EXPECT_EQ(run.optimizer.state_bytes(), 3 * expert * 12);
    EXPECT_EQ(run.training_state_bytes(), 3 * expert * 16);
  }
  std::int64_t all = 0;
  for (const auto& entry : inventory) all += entry.elements;
  auto run = make_trainer(backend, model, tiny::everything(model));
  EXPECT_EQ(run.optimizer.state_bytes(), all * 12);
}

TEST(trainer, rate_zero_changes_nothing) {
  reference backend;
  auto model = tiny::model(backend);
  const auto before = tiny::values(backend, model);
  auto run = make_trainer(backend, model, tiny::everything(model), at_rate(0));
  const auto data = tiny::schedule();
  for (int i = 0; i < 3; ++i) EXPECT_GT(one_step(run, data).gradient_norm, 0);
  EXPECT_EQ(tiny::values(backend, model), before);
}

/// Poisons one trained weight's working value, so that loss and gradient are not finite; returns how to heal it.
template <class Backend>
void poison(Backend& backend, esft::decoder<Backend>& model, float value) {
  backend.fill(model.parameters.final_norm.value.view(), value);
}

TEST(trainer, a_non_finite_step_changes_no_bit_and_is_counted) {
  reference backend;
  auto model = tiny::model(backend);
  auto run = make_trainer(backend, model, tiny::some_experts(), at_rate(1e-2));
  const auto data = tiny::schedule();
  one_step(run, data);
  const auto weights = tiny::values(backend, model);
  const auto master = tiny::on_host(backend, run.optimizer.master.all());
  const auto first = tiny::on_host(backend, run.optimizer.first_moment.all());
  const auto second = tiny::on_host(backend, run.optimizer.second_moment.all());
  const auto norm = weights.at({esft::parameter_role::final_norm, esft::layer_index{-1}});

  poison(backend, model, std::numeric_limits<float>::quiet_NaN());
  const auto report = one_step(run, data);
  EXPECT_TRUE(report.skipped);
  EXPECT_EQ(run.skipped, 1);
  EXPECT_EQ(run.consecutive_skips, 1);
  EXPECT_EQ(run.steps, 2);
  EXPECT_EQ(run.optimizer.steps, 1);  // bias corrections must not move on
  backend.copy_in(std::span<const float>(norm), model.parameters.final_norm.value.view());
  EXPECT_EQ(tiny::values(backend, model), weights);
  EXPECT_EQ(tiny::on_host(backend, run.optimizer.master.all()), master);
  EXPECT_EQ(tiny::on_host(backend, run.optimizer.first_moment.all()), first);
  EXPECT_EQ(tiny::on_host(backend, run.optimizer.second_moment.all()), second);

  const auto healthy = one_step(run, data);  // the twin: after healing, a step does change things
  EXPECT_FALSE(healthy.skipped);
  EXPECT_EQ(run.consecutive_skips, 0);
  EXPECT_EQ(run.skipped, 1);
  EXPECT_NE(tiny::values(backend, model), weights);
}

TEST(trainer, a_non_finite_gradient_behind_a_finite_loss_is_skipped_too) {
  reference backend;
  auto model = tiny::model(backend);
  auto run = make_trainer(backend, model, tiny::everything(model), at_rate(1e-2));
  // The last token of a document carries no label and nobody attends to it: infinity there leaves the loss alone, but 0 * infinity is
  // a NaN in the weight gradients.
  const esft::token_batch batch{{1, 2, 3, 22}, {2, 3, 4, esft::ignored_label}, {0, 1, 2, 3}, {0, 0, 0, 0}, {0, 0, 0, 0}};
  const auto healthy = tiny::values(backend, model);
  backend.fill(model.parameters.embedding.value.view().slice(22, 23), std::numeric_limits<float>::infinity());
  const auto before = tiny::values(backend, model);
  const auto report = run.step(std::span<const esft::token_batch>(&batch, 1));
  EXPECT_TRUE(std::isfinite(report.loss));
  EXPECT_FALSE(std::isfinite(report.gradient_norm));
  EXPECT_TRUE(report.skipped);
  EXPECT_EQ(tiny::values(backend, model), before);
  const auto& row = healthy.at({esft::parameter_role::embedding, esft::layer_index{-1}});
  backend.copy_in(std::span<const float>(row), model.parameters.embedding.value.view());
  EXPECT_FALSE(run.step(std::span<const esft::token_batch>(&batch, 1)).skipped);
}

TEST(trainer, gives_up_after_ten_skipped_steps_in_a_row) {
  reference backend;
  auto model = tiny::model(backend);
  auto run = make_trainer(backend, model, tiny::some_experts(), at_rate(1e-2));
  const auto data = tiny::schedule();
  poison(backend, model, std::numeric_limits<float>::infinity());
  for (int i = 0; i < 9; ++i) EXPECT_TRUE(one_step(run, data).skipped);
  try {
    one_step(run, data);
    FAIL() << "the tenth must throw";
  } catch (const esft::numerics_error& problem) {
    EXPECT_EQ(problem.category(), esft::error_category::numerics);
    EXPECT_NE(std::string(problem.what()).find("step 10"), std::string::npos) << problem.what();
  }
}

TEST(trainer, two_half_batches_are_one_batch) {
  exact backend;
  const auto data = tiny::schedule(11, 4);
  const auto halves = tiny::schedule(11, 2);
  auto model_a = tiny::model(backend);
  auto a = make_trainer(backend, model_a, tiny::everything(model_a), at_rate(1e-2));
  auto model_b = tiny::model(backend);
  auto b = make_trainer(backend, model_b, tiny::everything(model_b), at_rate(1e-2));
  for (std::uint64_t step = 0; step < 3; ++step) {
    const esft::token_batch whole = data.batch(step);
    const std::vector<esft::token_batch> parts{halves.batch(2 * step), halves.batch(2 * step + 1)};
    const auto one = a.step(std::span<const esft::token_batch>(&whole, 1));
    const auto two = b.step(parts);
    EXPECT_EQ(one.labelled, two.labelled);
    EXPECT_NEAR(one.loss, two.loss, 1e-12);
    EXPECT_NEAR(one.gradient_norm, two.gradient_norm, 1e-12);
  }
  const auto va = tiny::values(backend, model_a);
  const auto vb = tiny::values(backend, model_b);
  for (const auto& [key, left] : va) {
    for (std::size_t i = 0; i < left.size(); ++i) ASSERT_NEAR(left[i], vb.at(key)[i], 1e-9);
  }
}

TEST(trainer, recomputation_gives_the_same_bits) {
  reference backend;
  const auto data = tiny::schedule();
  std::vector<std::map<esft::parameter_key, std::vector<float>>> results;
  for (const bool recompute : {false, true}) {
    auto model = tiny::model(backend);
    esft::trainer_options options = at_rate(1e-2);
    options.recompute = recompute;
    auto run = make_trainer(backend, model, tiny::everything(model), options);
    for (int i = 0; i < 3; ++i) one_step(run, data);
    results.push_back(tiny::values(backend, model));
  }
  EXPECT_EQ(results[0], results[1]);
}

// A batch carries its routes, so steps take them without a word of the trainer's options.
TEST(trainer, takes_the_routes_of_its_batches) {
  reference backend;
  const auto data = tiny::schedule(11, 2);
  std::vector<esft::token_batch> usual{data.batch(0), data.batch(1)};
  const auto train = [&](const std::vector<esft::token_batch>& batches, int steps) {
    auto model = tiny::model(backend);
    auto run = make_trainer(backend, model, tiny::everything(model), at_rate(1e-2));
    for (int i = 0; i < steps; ++i) EXPECT_FALSE(run.step(batches).skipped);
    return tiny::values(backend, model);
  };
  auto model = tiny::model(backend);
  auto recorded = usual;
  for (auto& batch : recorded) {
    esft::forced_routes routes;
    static_cast<void>(model.evaluate(backend, batch, esft::route_recorder{routes}));
    batch.routes = std::move(routes);
  }
  EXPECT_EQ(train(recorded, 1), train(usual, 1));
  auto swapped = recorded;
  std::swap(swapped[0].routes, swapped[1].routes);
  EXPECT_NE(train(swapped, 1), train(usual, 1));
}

TEST(trainer, routers_learn_from_all_experts_on_request) {
  const auto data = tiny::schedule();
  esft::trainer_options options = at_rate(1e-2);
  const auto losses = [&](auto backend) {
    auto model = tiny::model(backend);
    auto run = make_trainer(backend, model, tiny::everything(model), options);
    std::vector<double> result;
    for (int i = 0; i < 4; ++i) result.push_back(one_step(run, data).loss);
    return result;
  };
  const auto ordinary = losses(reference());
  options.dense_router_gradient = true;
  const auto dense = losses(reference());
  EXPECT_EQ(dense[0], ordinary[0]);  // the first forward is the same
  EXPECT_NE(dense[3], ordinary[3]);
  const auto elsewhere = losses(esft::eigen_backend<float>(2));
  for (std::size_t i = 0; i < dense.size(); ++i) EXPECT_NEAR(elsewhere[i], dense[i], 1e-5 * dense[i]);
  options.recompute = true;
  EXPECT_EQ(losses(reference()), dense);

  reference backend;
  auto model = tiny::model(backend);
  EXPECT_THROW(static_cast<void>(make_trainer(backend, model, tiny::some_experts(), options)), esft::usage_error);  // routers are frozen
}

TEST(trainer, clipping_scales_the_whole_gradient) {
  exact backend;
  const auto data = tiny::schedule();
  auto model = tiny::model(backend);
  // betas 0: the first moment is the (clipped) gradient itself
  esft::trainer_options options = at_rate(1e-3);
  options.adamw.beta1 = 0;
  options.clip_norm = 0.01;
  auto run = make_trainer(backend, model, tiny::everything(model), options);
  const auto report = one_step(run, data);
  ASSERT_GT(report.gradient_norm, 0.01);
  double squares = 0;
  for (const double g : tiny::on_host(backend, run.optimizer.first_moment.all())) squares += g * g;
  EXPECT_NEAR(std::sqrt(squares), 0.01, 1e-12);

  auto unclipped_model = tiny::model(backend);
  options.clip_norm = report.gradient_norm * 2;
  auto unclipped = make_trainer(backend, unclipped_model, tiny::everything(unclipped_model), options);
  one_step(unclipped, data);
  squares = 0;
  for (const double g : tiny::on_host(backend, unclipped.optimizer.first_moment.all())) squares += g * g;
  EXPECT_NEAR(std::sqrt(squares), report.gradient_norm, 1e-12);
}

TEST(trainer, bf16_checkpoints_stay_on_their_grid) {
  reference backend;
  auto model = tiny::model(backend, esft::dtype::bfloat16);
  auto run = make_trainer(backend, model, tiny::some_experts(), at_rate(1e-2));
  const auto data = tiny::schedule();
  for (int i = 0; i < 3; ++i) one_step(run, data);
  for (const auto& slice : run.optimizer.slices()) {
    for (esft::index i = 0; i < slice.value.size(); ++i) ASSERT_EQ(slice.value[i], static_cast<float>(esft::bf16(slice.value[i])));
  }
  bool off_grid = false;  // the twin: master weights are finer than the grid
  for (const float master : tiny::on_host(backend, run.optimizer.master.all()))
    off_grid |= master != static_cast<float>(esft::bf16(master));
  EXPECT_TRUE(off_grid);
}

// Narrow matrices, whose products one thread computes, while rows and updates are shared; wide ones are in bf16_training.cpp.
TEST(trainer, same_bits_for_any_number_of_threads) {
  const auto data = tiny::schedule(11, 16);
  const auto train = [&](std::string_view set, int threads) {
    esft::eigen_backend<float> backend(threads);
    backend.use(set);
    auto model = tiny::model(backend);
    esft::trainer_options options = at_rate(1e-2);
    options.balance.expert = 1e-2;
    auto run = make_trainer(backend, model, tiny::everything(model), options);
    double loss = 0;
    for (int i = 0; i < 5; ++i) loss = one_step(run, data).loss;
    return std::pair(loss, tiny::values(backend, model));
  };
  for (const auto set : esft::detail::eigen::all_isas) {
    if (set > esft::detail::eigen::best_isa_for<float>()) continue;
    const std::string_view name = esft::detail::eigen::name_of(set);
    const auto one = train(name, 1);
    for (const int threads : {2, 4}) EXPECT_EQ(train(name, threads), one) << name << ", " << threads << " threads";
  }
}

TEST(trainer, refuses_a_model_in_which_nothing_is_trained) {
  reference backend;
  auto model = tiny::model(backend);
  using trainer_type = esft::trainer<esft::decoder<reference>>;
  EXPECT_THROW(trainer_type(backend, model, {}), esft::contract_violation);
  esft::apply(backend, model.parameters, tiny::some_experts());
  EXPECT_NO_THROW(trainer_type(backend, model, {}));
}

}  // namespace trainer_tests
