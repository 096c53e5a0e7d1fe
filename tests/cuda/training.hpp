// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Training on the GPU backend: lists of pieces, whole steps, how often the host waits, failures in the middle. Included by one source of
/// each program that has the backend.

#include "../train/tiny_model.hpp"
#include "behaviour.hpp"

#include <esft/peft/plan.hpp>

#include <string>
#include <utility>
#include <vector>

namespace esft::test {

/// Pieces of these sizes, which begin at even and at odd places of the state: with and without accesses of 16 bytes.
template <class T>
void check_update_list() {
  const std::vector<index> sizes{16384, 40, 0, 5, 16391, 8};
  cuda_backend<T> backend;
  reference_backend<T> reference;
  const counter_rng rng(21, rng_stream::test);
  std::uint64_t at = 0;
  const auto numbers = [&](index count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (float& x : values) x = static_cast<float>(rng.normal(at++));
    return values;
  };
  const auto device = [&]<class U>(const std::vector<float>& values, U) {
    auto t = backend.template make_tensor<U>(extents<1>{static_cast<index>(values.size())});
    backend.copy_in(std::span<const float>(values), t.view());
    return t;
  };
  const auto host = [&](const auto& t) {
    std::vector<float> values(static_cast<std::size_t>(t.size()));
    backend.copy_out(t.view(), std::span<float>(values));
    return values;
  };
  index total = 0;
  for (const index size : sizes) total += size;
  const auto master = numbers(total);
  const auto m = numbers(total);
  auto v = numbers(total);
  for (float& x : v) x = x * x + 0.01F;
  auto device_master = device(master, float{});
  auto device_m = device(m, float{});
  auto device_v = device(v, float{});
  std::vector<tensor<T, 1, cuda_space>> weights;
  std::vector<tensor<float, 1, cuda_space>> gradients;
  std::vector<std::vector<float>> gradient;
  std::vector<update_slice<cuda_backend<T>>> slices;
  double squares = 0;
  for (const index size : sizes) {
    gradient.push_back(numbers(size));
    for (const float g : gradient.back()) squares += static_cast<double>(g) * static_cast<double>(g);
    weights.push_back(device(numbers(size), T{}));
    gradients.push_back(device(gradient.back(), float{}));
    slices.push_back({weights.back().view(), gradients.back().view(), slices.size() % 2 == 0});
  }
  const auto list = backend.make_update_list(slices);
  EXPECT_NEAR(backend.sum_of_squares(list), squares, 1e-12 * squares);

  adamw_step step{.learning_rate = 0.01, .weight_decay = 0.1, .step = 3, .gradient_scale = 0.5};
  backend.adamw(list, device_master.view(), device_m.view(), device_v.view(), step);
  const std::vector<float> after[] = {host(device_master), host(device_m), host(device_v)};
  std::size_t first = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto size = static_cast<std::size_t>(sizes[i]);
    const auto part = [&](const std::vector<float>& all) {
      auto t = make_host_tensor<float, 1>({sizes[i]});
      std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(first), size, t.data());
      return t;
    };
    auto wanted_weight = make_host_tensor<T, 1>({sizes[i]});
    auto wanted_master = part(master);
    auto wanted_m = part(m);
    auto wanted_v = part(v);
    step.weight_decay = i % 2 == 0 ? 0.1 : 0;
    reference.adamw(wanted_weight.view(), wanted_master.view(), wanted_m.view(), wanted_v.view(), {gradient[i].data(), {sizes[i]}}, step);
    const auto weight = host(weights[i]);
    const auto near = [](float actual, float wanted, float unit) { return std::abs(actual - wanted) <= unit * (1 + std::abs(wanted)); };
    const float unit = std::same_as<T, bf16> ? 0x1.0p-8F : 1e-6F;
    for (std::size_t j = 0; j < size; ++j) {
      ASSERT_TRUE(near(after[0][first + j], wanted_master.data()[j], 1e-6F)) << "master " << j << " of piece " << i;
      ASSERT_TRUE(near(after[1][first + j], wanted_m.data()[j], 1e-6F)) << "m " << j << " of piece " << i;
      ASSERT_TRUE(near(after[2][first + j], wanted_v.data()[j], 1e-6F)) << "v " << j << " of piece " << i;
      ASSERT_TRUE(near(weight[j], static_cast<float>(wanted_weight.data()[j]), unit)) << "weight " << j << " of piece " << i;
    }
    first += size;
  }
  backend.clear_gradients(list);
  for (const auto& g : gradients) EXPECT_EQ(host(g), std::vector<float>(static_cast<std::size_t>(g.size())));
  EXPECT_EQ(backend.sum_of_squares(list), 0);
}

TEST_F(cuda_behaviour, a_list_of_pieces_is_updated_like_one_piece_after_another) {
  check_update_list<float>();
  check_update_list<bf16>();
}

/// Losses of a few steps that train everything, and the weights after them.
template <class Backend>
auto train_tiny(Backend& backend, int steps) {
  auto model = tiny::model(backend);
  apply(backend, model.parameters, tiny::everything(model));
  trainer<decoder<Backend>> run(backend, model, {.learning_rate = 1e-2});
  const auto data = tiny::schedule();
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    const token_batch batch = data.batch(static_cast<std::uint64_t>(i));
    losses.push_back(run.step(std::span<const token_batch>(&batch, 1)).loss);
  }
  return std::pair(losses, tiny::values(backend, model));
}

TEST_F(cuda_behaviour, training_gives_the_losses_of_the_reference_and_the_same_bits_again) {
  reference_backend<float> reference;
  const auto [wanted, unused] = train_tiny(reference, 4);
  const auto [losses, weights] = train_tiny(*backend, 4);
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(losses[i], wanted[i], 1e-4 * wanted[i]) << "step " << i;
  EXPECT_LT(losses.back(), losses.front());
  const auto [again, same] = train_tiny(*backend, 4);
  EXPECT_EQ(again, losses);
  EXPECT_EQ(same, weights);
}

TEST_F(cuda_behaviour, a_step_waits_once_per_moe_layer_and_for_its_report) {
  auto model = tiny::model(*backend);
  apply(*backend, model.parameters, tiny::some_experts());
  trainer<decoder<cuda_backend<float>>> run(*backend, model, {});
  const token_batch batch = tiny::schedule().batch(0);
  for (int i = 0; i < 2; ++i) {
    const std::int64_t before = backend->host_synchronisations();
    run.queue(std::span<const token_batch>(&batch, 1));
    EXPECT_EQ(backend->host_synchronisations() - before, 2);  // two MoE layers
    static_cast<void>(run.finish());
    EXPECT_EQ(backend->host_synchronisations() - before, 2 + 1);
  }
}

/// What steps report and leave behind: three of two micro-batches, three of a larger one; `ahead` of them are queued before one is finished.
template <class T>
auto train_ahead(cuda_backend<T>& backend, bool record, std::size_t ahead, std::int64_t& waits) {
  auto model = tiny::model(backend);
  apply(backend, model.parameters, tiny::some_experts());
  trainer<decoder<cuda_backend<T>>> run(
      backend, model,
      {.learning_rate = 1e-2, .schedule = [](std::int64_t s) { return 1.0 / static_cast<double>(s); }, .clip_norm = 0.01, .record = record});
  const auto small = tiny::schedule(11, 1);
  const auto large = tiny::schedule(11, 2);
  std::vector<step_report> reports;
  std::int64_t finished = 0;
  const std::int64_t before = backend.host_synchronisations();
  for (std::uint64_t i = 0; i < 6; ++i) {
    std::vector<token_batch> batches{large.batch(i)};
    if (i < 3) batches = {small.batch(2 * i), small.batch(2 * i + 1)};
    if (i == 2) batches[1].labels.assign(batches[1].labels.size(), ignored_label);  // another loss scale
    run.queue(batches);
    if (i < ahead) continue;
    reports.push_back(run.finish());
    ++finished;
  }
  waits = backend.host_synchronisations() - before - finished;
  while (reports.size() < 6) reports.push_back(run.finish());
  EXPECT_EQ(run.optimizer.steps, 6);
  return std::pair(reports, tiny::values(backend, model));
}
template <class T>
void check_recorded_steps(const std::vector<std::size_t>& steps_ahead) {
  cuda_backend<T> backend({.grouped = cuda_grouped::device});
  std::int64_t waits = -1;
  const auto [wanted, weights] = train_ahead(backend, false, 0, waits);
  EXPECT_EQ(waits, 0);  // beside the reports
  int clipped = 0;
  for (const step_report& report : wanted) {
    EXPECT_FALSE(report.skipped);
    clipped += report.gradient_norm > 0.01 ? 1 : 0;
  }
  EXPECT_GT(clipped, 0);
  for (const std::size_t ahead : steps_ahead) {
    const auto [reports, same] = train_ahead(backend, true, ahead, waits);
    EXPECT_EQ(waits, 2);  // each recording waits once: of steps of the one size, and of the other
    ASSERT_EQ(reports.size(), wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_EQ(reports[i].step, wanted[i].step);
      EXPECT_EQ(reports[i].loss, wanted[i].loss) << "step " << i;
      EXPECT_EQ(reports[i].gradient_norm, wanted[i].gradient_norm) << "step " << i;
      EXPECT_EQ(reports[i].learning_rate, wanted[i].learning_rate);
      EXPECT_EQ(reports[i].labelled, wanted[i].labelled);
    }
    EXPECT_EQ(same, weights) << ahead << " steps ahead";
  }
}
TEST_F(cuda_behaviour, whole_steps_are_queued_ahead_and_recorded_to_the_same_bits) { check_recorded_steps<float>({1}); }

/// A step's numbers stay on the device, and so does the decision on its update: a bad step changes nothing, whoever reads of it and when.
TEST_F(cuda_behaviour, a_step_with_numbers_that_are_not_finite_changes_nothing_even_before_anybody_reads_them) {
  cuda_backend<float> device({.grouped = cuda_grouped::device});
  for (const bool record : {false, true}) {
    auto model = tiny::model(device);
    apply(device, model.parameters, tiny::some_experts());
    trainer<decoder<cuda_backend<float>>> run(device, model, {.learning_rate = 1e-2, .record = record});
    const token_batch batch = tiny::schedule(11, 1).batch(0);
    const std::span<const token_batch> one(&batch, 1);
    for (int i = 0; i < 2; ++i) EXPECT_FALSE(run.step(one).skipped);
    auto& norm = model.parameters.final_norm.value;
    std::vector<float> good(static_cast<std::size_t>(norm.size()));
    device.copy_out(std::as_const(norm).view(), std::span<float>(good));
    std::vector<float> bad = good;
    bad[3] = std::numeric_limits<float>::infinity();
    const auto set = [&](const std::vector<float>& values) { device.copy_in(std::span<const float>(values), norm.view()); };
    const auto before = tiny::values(device, model);
    set(bad);
    run.queue(one);
    set(good);
    EXPECT_EQ(tiny::values(device, model), before);
    run.queue(one);  // the next one is good again
    EXPECT_TRUE(run.finish().skipped);
    EXPECT_FALSE(run.finish().skipped);
    EXPECT_EQ(run.optimizer.steps, 3);
    EXPECT_EQ(run.skipped, 1);
    EXPECT_NE(tiny::values(device, model), before);
  }
}

TEST_F(cuda_behaviour, a_step_with_an_id_out_of_range_is_thrown_when_it_is_read_and_changes_nothing) {
  auto model = tiny::model(*backend);
  apply(*backend, model.parameters, tiny::some_experts());
  trainer<decoder<cuda_backend<float>>> run(*backend, model, {.learning_rate = 1e-2});
  const auto before = tiny::values(*backend, model);
  token_batch batch = tiny::schedule(11, 1).batch(0);
  const token_batch good = batch;
  batch.tokens[3] = 24;
  EXPECT_THROW(static_cast<void>(run.step(std::span<const token_batch>(&batch, 1))), contract_violation);
  EXPECT_EQ(tiny::values(*backend, model), before);
  EXPECT_TRUE(std::isfinite(run.step(std::span<const token_batch>(&good, 1)).loss));
  EXPECT_NE(tiny::values(*backend, model), before);
}

TEST_F(cuda_behaviour, what_needs_the_host_in_a_step_is_refused_before_it_is_recorded) {
  auto model = tiny::model(*backend);
  apply(*backend, model.parameters, tiny::some_experts());
  using run = trainer<decoder<cuda_backend<float>>>;
  const auto refused = [&](trainer_options how, const std::string& named) {
    how.record = true;
    try {
      run(*backend, model, std::move(how));
      ADD_FAILURE() << "a recorded step with a " << named;
    } catch (const usage_error& failure) {
      EXPECT_NE(std::string(failure.what()).find(named), std::string::npos) << failure.what();
    }
  };
  refused({.z_loss = 0.1}, "balance loss");
  refused({.balance = {.expert = 0.1}}, "balance loss");
  refused({.balance = {.sequence = 0.1}}, "balance loss");
  run sizes_on_the_host(*backend, model, {.record = true});  // cuBLAS wants them there
  const token_batch batch = tiny::schedule(11, 1).batch(0);
  const std::span<const token_batch> one(&batch, 1);
  EXPECT_NO_THROW(static_cast<void>(sizes_on_the_host.step(one)));
  EXPECT_THROW(static_cast<void>(sizes_on_the_host.step(one)), device_error);
}

/// GPT-OSS: biases and a clamp in the experts, sinks and a window in attention, everything trained.
TEST_F(cuda_behaviour, a_recorded_step_trains_biases_of_experts_and_sinks_to_the_same_bits) {
  cuda_backend<float> device({.grouped = cuda_grouped::device});
  const auto train = [&](bool record) {
    decoder_config config = tiny::config();
    config.shared_width = 0;
    config.expert_biases = true;
    config.clamp.limit = 7;
    config.attention.biased = config.attention.output_biased = config.attention.sinks = true;
    config.window = 3;
    config.windowed_layer = {true, false, true};
    decoder<cuda_backend<float>> model(device, config);
    initialise(device, model.parameters, config, 5);
    const auto before = tiny::values(device, model);
    apply(device, model.parameters, tiny::everything(model));
    trainer<decoder<cuda_backend<float>>> run(device, model, {.learning_rate = 1e-2, .record = record});
    for (std::uint64_t i = 0; i < 4; ++i) {
      const token_batch batch = tiny::schedule(11, 1).batch(i);
      EXPECT_FALSE(run.step(std::span<const token_batch>(&batch, 1)).skipped);
    }
    const auto after = tiny::values(device, model);
    for (const parameter_role role : {parameter_role::expert_down_bias, parameter_role::expert_gate_up_bias,
                                      parameter_role::attention_sink}) {
      EXPECT_NE(after.at({role, layer_index{1}}), before.at({role, layer_index{1}}));
    }
    return after;
  };
  EXPECT_EQ(train(true), train(false));
}

/// Routes lie with the recorded batch; other layers or weights are another recording.
TEST_F(cuda_behaviour, a_recorded_step_takes_the_routes_of_its_batch_to_the_same_bits) {
  cuda_backend<float> device({.grouped = cuda_grouped::device});
  const auto train = [&](bool record) {
    auto model = tiny::model(device);
    apply(device, model.parameters, tiny::everything(model));
    trainer<decoder<cuda_backend<float>>> run(device, model, {.learning_rate = 1e-2, .record = record});
    for (std::uint64_t i = 0; i < 9; ++i) {
      token_batch batch = tiny::schedule(11, 1).batch(i);
      const auto force = [&](std::int32_t layer) {
        layer_routes& routes = batch.routes[layer_index{layer}];
        routes.active = 2;
        for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
          const auto e = static_cast<std::int32_t>((t + i) % 6);
          routes.ids.push_back(e);
          routes.ids.push_back(t % 5 == 0 ? no_expert : (e + layer) % 6);
        }
        if (i >= 6) routes.weights.assign(routes.ids.size(), 0.125F * static_cast<float>(i));
      };
      force(1);
      if (i >= 3) force(2);
      EXPECT_FALSE(run.step(std::span<const token_batch>(&batch, 1)).skipped);
    }
    return tiny::values(device, model);
  };
  EXPECT_EQ(train(true), train(false));
}

TEST_F(cuda_behaviour, a_step_that_fails_anywhere_leaves_a_backend_that_trains) {
  auto model = tiny::model(*backend);
  const auto before = tiny::values(*backend, model);
  apply(*backend, model.parameters, tiny::some_experts());
  trainer<decoder<cuda_backend<float>>> run(*backend, model, {.learning_rate = 1e-2});
  const token_batch batch = tiny::schedule().batch(0);
  const auto step = [&] { return run.step(std::span<const token_batch>(&batch, 1)); };
  for (const cuda_operation kind : {cuda_operation::allocation, cuda_operation::launch}) {
    int failed = 0;
    for (std::int64_t after = 0;; after = 2 * after + 1) {
      backend->inject_failure(kind, after);
      try {
        static_cast<void>(step());
        break;  // the step needs fewer
      } catch (const device_error&) {
        ++failed;
      }
    }
    backend->inject_failure(kind, -1);
    EXPECT_GT(failed, 4);
    EXPECT_TRUE(std::isfinite(step().loss));
  }
  const auto after = tiny::values(*backend, model);
  EXPECT_EQ(after.at({parameter_role::embedding, layer_index{-1}}), before.at({parameter_role::embedding, layer_index{-1}}));
  EXPECT_NE(after.at({parameter_role::expert_down, layer_index{1}}), before.at({parameter_role::expert_down, layer_index{1}}));
}

TEST_F(cuda_behaviour, the_options_change_how_and_not_what) {
  cuda_backend<float> other({.deterministic = false, .grouped = cuda_grouped::batched});
  const auto run = [](cuda_backend<float>& b) {
    const auto put = [&]<class U, std::size_t R>(std::vector<U> values, extents<R> shape) {
      auto t = b.make_tensor<U>(shape);
      b.copy_in(std::span<const U>(values), t.view());
      return t;
    };
    const auto tokens = put(std::vector<std::int32_t>{2, 0, 2, 2}, extents<1>{4});
    const auto x = put(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}, extents<2>{4, 2});
    const auto w = put(std::vector<float>{1, 0, 2, 1, 3, -1, 0, 4, 1, 1, 5, 2}, extents<3>{3, 2, 2});
    const auto offsets = put(std::vector<std::int32_t>{0, 1, 1, 4}, extents<1>{4});
    auto table = put(std::vector<float>(6, 1), extents<2>{3, 2});
    auto y = put(std::vector<float>(8), extents<2>{4, 2});
    auto dx = put(std::vector<float>(8), extents<2>{4, 2});
    auto dw = put(std::vector<float>(8), extents<3>{2, 2, 2});
    const std::vector<std::int32_t> selected{1, 2};
    b.embedding_dw(tokens.view(), x.view(), table.view());
    b.grouped_linear(x.view(), w.view(), offsets.view(), y.view());
    b.grouped_linear_dx(x.view(), w.view(), offsets.view(), dx.view());
    b.grouped_linear_dw(x.view(), x.view(), offsets.view(), selected, dw.view());
    std::vector<float> all;
    for (const auto view : {table.view().flat(), y.view().flat(), dx.view().flat(), dw.view().flat()}) {
      std::vector<float> part(static_cast<std::size_t>(view.size()));
      b.copy_out(view, std::span<float>(part));
      all.insert(all.end(), part.begin(), part.end());
    }
    return all;
  };
  const auto wanted = run(*backend);
  EXPECT_EQ(run(other), wanted);
  EXPECT_EQ(wanted[1], 5);  // token 0: 1 + its row
}

}  // namespace esft::test
