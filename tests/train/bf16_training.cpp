// SPDX-License-Identifier: Apache-2.0
// Training in bf16 from end to end on the CPU: weights and activations in bf16, sums and optimizer state in float, all matrices in the
// backend's tiles.
#include "golden/whole_models.hpp"
#include "scratch_directory.hpp"
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/machine.hpp>
#include <esft/model/load.hpp>
#include <esft/train/evaluation.hpp>
#include <esft/train/run_directory.hpp>
#include <esft/train/snapshot.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>

#include <gtest/gtest.h>

namespace bf16_training_tests {

using half = esft::eigen_backend<esft::bf16>;
using single = esft::eigen_backend<float>;

constexpr std::int64_t total = 12;

template <class Backend>
struct session {
  Backend backend;
  esft::decoder<Backend> model;
  esft::trainer<esft::decoder<Backend>> run;

  explicit session(Backend made, bool everything = false)
      : backend(std::move(made)), model(fresh(backend)), run((apply(everything), backend), model, options()) {}

  static esft::decoder<Backend> fresh(Backend& b) {
    esft::decoder<Backend> result(b, tiny::wide_config(esft::dtype::bfloat16));
    esft::initialise(b, result.parameters, result.config, 5);
    return result;
  }
  void apply(bool everything) {
    esft::apply(backend, model.parameters, everything ? tiny::everything(model) : tiny::some_experts());
  }
  static esft::trainer_options options() {
    esft::trainer_options result;
    result.learning_rate = 3e-3;
    result.adamw.round_to_bf16 = true;
    return result;
  }
  /// Losses of the steps from `run.steps` to `last`.
  std::vector<double> train(std::int64_t last = total, const esft::batch_schedule<>& data = tiny::schedule()) {
    std::vector<double> losses;
    esft::run_steps(run, data, last, 1, [&](const esft::step_report& step) {
      losses.push_back(step.loss);
      return true;
    });
    return losses;
  }
};

TEST(bf16_training, follows_training_in_float) {
  session<half> in_half(half(2), true);
  session<single> in_single(single(2), true);
  const std::vector<double> a = in_half.train();
  const std::vector<double> b = in_single.train();
  ASSERT_EQ(a.size(), static_cast<std::size_t>(total));
  EXPECT_LT(b.back(), 0.8 * b.front());  // there is something to learn, and it is learned
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 0.03 * b[i]) << "step " << i + 1;
}

/// Two steps of everything on each instruction set of this CPU: the products of a step, but for the router's, are shared by the threads.
template <class T>
void expect_the_same_bits_from_threads() {
  namespace kernels = esft::detail::eigen;
  const auto config = tiny::wide_config();
  const auto least = std::min({config.width, config.dense_width, config.expert_width, config.vocabulary, config.attention.head_width});
  const double routed = static_cast<double>(tiny::large_batch) * static_cast<double>(config.active) / static_cast<double>(config.experts);
  ASSERT_GE(2 * static_cast<double>(tiny::large_batch * static_cast<std::size_t>(least * config.width)), kernels::machine::worth_waking);
  ASSERT_GE(2 * static_cast<double>(config.experts) * routed * static_cast<double>(least * config.width), kernels::machine::worth_waking);
  for (const auto set : kernels::all_isas) {
    if (set > kernels::best_isa_for<T>()) continue;
    SCOPED_TRACE(kernels::name_of(set));
    const auto train = [&](int threads) {
      session<esft::eigen_backend<T>> s(esft::eigen_backend<T>(threads), true);
      s.backend.use(kernels::name_of(set));
      const auto losses = s.train(2, tiny::large_schedule());
      return std::pair(losses, tiny::values(s.backend, s.model));
    };
    const auto one = train(1);
    EXPECT_EQ(train(1), one);
    for (const int threads : {2, 4}) EXPECT_EQ(train(threads), one) << threads << " threads";
  }
}

TEST(bf16_training, same_bits_for_any_number_of_threads) {
  expect_the_same_bits_from_threads<esft::bf16>();
  expect_the_same_bits_from_threads<float>();
}

TEST(bf16_training, moves_nothing_that_is_frozen) {
  session<half> s(half(2));
  const esft::parameter_snapshot<esft::decoder<half>> before(s.backend, s.model);
  static_cast<void>(s.train());
  const auto moved = before.compare(s.backend, s.model);
  EXPECT_EQ(moved.frozen_changed, 0U);
  EXPECT_EQ(moved.trained_unchanged, 0U);
  EXPECT_EQ(moved.trained_changed, 2U * 3U);  // gate_up and down of three experts
}

/// Squared distance as a share of the squares of `want`.
double distance(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return error == 0 ? 0 : error / norm;  // an expert that no token chose has no gradient
}

/// Bounds of docs/guarantees.md for a model in bf16 beside its golden numbers. The first three are squared distances.
constexpr double logits_bound = 0x1.0p-10;
constexpr double gradients_bound = 0x1.0p-7;
constexpr double one_gradient_bound = 0x1.0p-3;
constexpr double loss_bound = 0.01;
constexpr double gate_bound = 0x1.0p-4;

/// Whether two decisions of a layer are the same, but for one token that took another expert of a weight as large: a tie, which rounding
/// decides. Weights of equal choices are compared one by one.
bool agrees(const esft_test::sorted_routing& got, const esft_test::sorted_routing& want, std::size_t active) {
  std::size_t ties = 0;
  for (std::size_t token = 0; token * active < want.ids.size(); ++token) {
    std::map<std::int32_t, std::pair<double, double>> weights;
    for (std::size_t i = token * active; i < (token + 1) * active; ++i) {
      weights[got.ids[i]].first = got.weights[i];
      weights[want.ids[i]].second = want.weights[i];
    }
    const double allowed = gate_bound * esft_test::scale_of(want.weights);
    std::vector<double> apart;
    for (const auto& [expert, both] : weights) {
      if (weights.size() == active || (both.first != 0 && both.second != 0)) {
        if (std::abs(both.first - both.second) > allowed) return false;
      } else {
        apart.push_back(both.first + both.second);  // one of the two is 0
      }
    }
    if (apart.size() > 2) return false;
    if (apart.size() == 2 && std::abs(apart[0] - apart[1]) > allowed) return false;
    ties += apart.size() / 2;
  }
  return ties <= 1;
}

TEST(bf16_training, golden_models_of_every_family_keep_logits_loss_routing_and_gradients) {
  half backend(2);
  for (const std::string& family : esft_test::golden_models()) {
    SCOPED_TRACE(family);
    const esft_test::goldens golden(family + "/golden.safetensors");
    auto model = esft::load_decoder(backend, esft::model_directory::open(esft_test::golden_path(family)));
    const auto shape = golden.shape<2>("tokens");
    const esft::token_batch batch = esft_test::packed(golden);
    auto cache = model.make_cache(backend, shape[0], shape[1]);
    const auto logits = model.decode(backend, cache, shape[1], batch.tokens, batch.sample, batch.position);
    EXPECT_LT(distance({logits.begin(), logits.end()}, golden.numbers("logits")), logits_bound);

    const double loss = golden.numbers("loss")[0];
    esft_test::routing_comparison routing(golden, [&](const auto& got, const auto& want, const std::string& name) {
      const auto active = static_cast<std::size_t>(model.config.active);
      EXPECT_TRUE(agrees(got, want, active)) << name;
      esft_test::sorted_routing moved = got;  // a decision that is none of the golden ones is seen
      std::rotate(moved.weights.begin(), moved.weights.begin() + 1, moved.weights.end());
      EXPECT_FALSE(agrees(moved, want, active)) << name;
    });
    EXPECT_NEAR(model.evaluate(backend, batch, std::ref(routing)).loss, loss, loss_bound * loss);
    routing.finish(model.config);

    esft::apply(backend, model.parameters, esft::full_plan{}.trainable(esft::inventory(model.parameters)));
    EXPECT_NEAR(model.accumulate_gradients(backend, batch, {}).loss, loss, loss_bound * loss);
    std::vector<double> all, wanted;
    for (const auto& [name, gradient] : esft_test::gradients_by_name(backend, model)) {
      const std::vector<double> want = golden.numbers("d_" + name);
      EXPECT_LT(distance(gradient, want), one_gradient_bound) << name;
      all.insert(all.end(), gradient.begin(), gradient.end());
      wanted.insert(wanted.end(), want.begin(), want.end());
    }
    EXPECT_LT(distance(all, wanted), gradients_bound);
  }
}

TEST(bf16_training, resumes_to_the_same_bits) {
  session<half> whole(half(2));
  static_cast<void>(whole.train());
  for (const std::int64_t split : {1, 5, 11}) {
    const esft::test::scratch_directory directory;
    session<half> first(half(2));
    static_cast<void>(first.train(split));
    esft::save_checkpoint(directory.path(), first.backend, first.run, {{"seed", "1"}});
    session<half> second(half(1));
    ASSERT_TRUE(esft::resume_from_checkpoint(directory.path(), second.backend, second.run, {{"seed", "1"}}).has_value());
    static_cast<void>(second.train());
    EXPECT_EQ(tiny::values(second.backend, second.model), tiny::values(whole.backend, whole.model)) << "split " << split;
  }
}

// Checkpoints hold row-major order: what one backend saved from its tiles, another reads without knowing them.
TEST(optimizer_state, is_the_same_file_from_tiles_and_from_rows) {
  const esft::test::scratch_directory directory;
  session<single> tiled{single(2)};
  ASSERT_FALSE(tiled.model.parameters.blocks[1].moe.down.layout().row_major());
  static_cast<void>(tiled.train(3));
  esft::save_checkpoint(directory.path(), tiled.backend, tiled.run, {});
  session<esft::reference_backend<float>> plain{esft::reference_backend<float>()};
  ASSERT_TRUE(plain.model.parameters.blocks[1].moe.down.layout().row_major());
  ASSERT_TRUE(esft::resume_from_checkpoint(directory.path(), plain.backend, plain.run, {}).has_value());
  const auto rows_of = [](auto& s, std::size_t slice, auto view) {
    const auto& about = s.run.optimizer.slices()[slice];
    std::vector<float> host(static_cast<std::size_t>(view.size()));
    esft::copy_out(s.backend, esft::matrix_rows{view.reshape(about.shape), about.layout, 0, about.shape[0]}, std::span<float>(host));
    return host;
  };
  const std::size_t slices = tiled.run.optimizer.slices().size();
  ASSERT_EQ(slices, plain.run.optimizer.slices().size());
  for (std::size_t i = 0; i < slices; ++i) {
    EXPECT_EQ(rows_of(tiled, i, tiled.run.optimizer.master[i]), rows_of(plain, i, plain.run.optimizer.master[i]));
    EXPECT_EQ(rows_of(tiled, i, tiled.run.optimizer.second_moment[i]), rows_of(plain, i, plain.run.optimizer.second_moment[i]));
  }
  EXPECT_EQ(tiny::values(tiled.backend, tiled.model), tiny::values(plain.backend, plain.model));
}

}  // namespace bf16_training_tests
