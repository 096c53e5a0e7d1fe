// SPDX-License-Identifier: Apache-2.0
// AdamW against values computed by hand from the published algorithm.
#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>
#include <esft/optim/optimizers/adamw.hpp>

#include <array>
#include <cmath>

#include <gtest/gtest.h>

namespace optim_adamw_tests {

static_assert(esft::optimizer<esft::adamw_optimizer<esft::reference_backend<float>>, esft::reference_backend<float>>);

template <class Backend>
struct fixture {
  using T = esft::value_t<Backend>;
  Backend backend;
  esft::tensor_t<Backend, T, 1> value = backend.template make_tensor<T>(esft::extents<1>{3});
  esft::tensor_t<Backend, esft::accum_t<Backend>, 1> gradient = backend.template make_tensor<esft::accum_t<Backend>>(esft::extents<1>{3});

  fixture() {
    set(value, {1.0, -2.0, 0.5});
    set(gradient, {0.1, -0.2, 0.0});
  }
  template <class Tensor>
  void set(Tensor& tensor, std::array<double, 3> numbers) {
    for (int i = 0; i < 3; ++i)
      tensor.view()[i] = static_cast<std::remove_cvref_t<decltype(tensor.view()[i])>>(numbers[static_cast<std::size_t>(i)]);
  }
  esft::adamw_optimizer<Backend> make(esft::adamw_options options, bool decays = true) {
    return {backend, {{{}, -1, decays, value.view(), gradient.view()}}, options};
  }
};

/// Two steps of algorithm 2 of arXiv 1711.05101 in double, written out.
std::array<double, 2> by_hand(double w, double g1, double g2, double rate, const esft::adamw_options& o, double decay) {
  double m = (1 - o.beta1) * g1;
  double v = (1 - o.beta2) * g1 * g1;
  const double w1 = w - rate * (m / (1 - o.beta1) / (std::sqrt(v / (1 - o.beta2)) + o.epsilon) + decay * w);
  m = o.beta1 * m + (1 - o.beta1) * g2;
  v = o.beta2 * v + (1 - o.beta2) * g2 * g2;
  const double w2 = w1 - rate * (m / (1 - o.beta1 * o.beta1) / (std::sqrt(v / (1 - o.beta2 * o.beta2)) + o.epsilon) + decay * w1);
  return {w1, w2};
}

template <class Backend>
void check_two_steps(double tolerance) {
  for (const bool decays : {true, false}) {
    fixture<Backend> f;
    const esft::adamw_options options{.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .weight_decay = 0.1, .round_to_bf16 = false};
    auto optimizer = f.make(options, decays);
    const std::array<double, 3> start{1.0, -2.0, 0.5};
    const std::array<double, 3> g1{0.1, -0.2, 0.0};
    const std::array<double, 3> g2{-0.3, 0.4, 0.0};
    optimizer.update(f.backend, 0.01, 1.0);
    for (int i = 0; i < 3; ++i) {
      const auto at = static_cast<std::size_t>(i);
      EXPECT_NEAR(static_cast<double>(f.value.view()[i]), by_hand(start[at], g1[at], g2[at], 0.01, options, decays ? 0.1 : 0)[0],
                  tolerance);
    }
    f.set(f.gradient, {-0.6, 0.8, 0.0});
    optimizer.update(f.backend, 0.01, 0.5);  // the gradient's scale comes on top
    for (int i = 0; i < 3; ++i) {
      const auto at = static_cast<std::size_t>(i);
      EXPECT_NEAR(static_cast<double>(f.value.view()[i]), by_hand(start[at], g1[at], g2[at], 0.01, options, decays ? 0.1 : 0)[1],
                  tolerance);
    }
    EXPECT_EQ(optimizer.steps, 2);
  }
}

TEST(adamw, two_steps_by_hand) {
  check_two_steps<esft::reference_backend<double>>(1e-15);
  check_two_steps<esft::reference_backend<float>>(1e-6);
  check_two_steps<esft::eigen_backend<float>>(1e-6);
}

TEST(adamw, the_first_step_moves_every_weight_by_the_rate) {
  // without decay and with epsilon -> 0, m / sqrt(v) of the first step is the sign of the gradient
  fixture<esft::reference_backend<double>> f;
  auto optimizer = f.make({0.9, 0.95, 0x1p-200, 0, false});
  optimizer.update(f.backend, 0.125, 1.0);
  EXPECT_NEAR(f.value.view()[0], 0.875, 1e-12);
  EXPECT_NEAR(f.value.view()[1], -1.875, 1e-12);
  EXPECT_EQ(f.value.view()[2], 0.5);  // no gradient, no decay: no change
}

TEST(adamw, decays_only_where_asked_to) {  // or an expert that no token reached would count as trained
  for (const bool asked : {false, true}) {
    fixture<esft::reference_backend<double>> f;
    auto optimizer = f.make(asked ? esft::adamw_options{.weight_decay = 0.1} : esft::adamw_options{});
    optimizer.update(f.backend, 0.01, 1.0);
    EXPECT_EQ(f.value.view()[2] == 0.5, !asked);  // the one without a gradient
  }
}

TEST(adamw, rate_zero_changes_no_bit) {
  fixture<esft::eigen_backend<float>> f;
  auto optimizer = f.make({});
  optimizer.update(f.backend, 0.0, 1.0);
  EXPECT_EQ(f.value.view()[0], 1.0F);
  EXPECT_EQ(f.value.view()[1], -2.0F);
  EXPECT_EQ(f.value.view()[2], 0.5F);
}

TEST(adamw, state_bytes) {
  fixture<esft::reference_backend<float>> f;
  EXPECT_EQ(f.make({}).state_bytes(), 3 * 12);
  fixture<esft::reference_backend<double>> d;
  EXPECT_EQ(d.make({}).state_bytes(), 3 * 24);
}

TEST(adamw, rounds_working_weights_and_keeps_finer_master_weights) {
  fixture<esft::reference_backend<float>> f;
  auto optimizer = f.make({0.9, 0.95, 1e-8, 0.1, true});
  for (int i = 0; i < 8; ++i) optimizer.update(f.backend, 1e-4, 1.0);  // below one unit of the bf16 grid at 1.0 (2^-8)
  EXPECT_EQ(f.value.view()[0], 1.0F);
  EXPECT_LT(optimizer.master[0][0], 1.0F - 7e-4F);
  for (int i = 0; i < 64; ++i) optimizer.update(f.backend, 1e-4, 1.0);  // the master weight carries small steps across a grid point
  EXPECT_LT(f.value.view()[0], 1.0F);
  EXPECT_EQ(f.value.view()[0], static_cast<float>(esft::bf16(f.value.view()[0])));
}

TEST(adamw, restoring_sets_the_working_weights_from_the_master_weights) {
  for (const bool round : {false, true}) {
    fixture<esft::reference_backend<float>> f;
    auto optimizer = f.make({0.9, 0.95, 1e-8, 0.1, round});
    optimizer.update(f.backend, 0.01, 1.0);
    const float trained = f.value.view()[0];
    f.set(f.value, {7, 7, 7});
    optimizer.restore_weights(f.backend);
    EXPECT_EQ(f.value.view()[0], trained);
  }
}

}  // namespace optim_adamw_tests
