// SPDX-License-Identifier: Apache-2.0
// Backward of the MoE layer against central differences in double, in the corners too.
#include "backend_list.hpp"
#include "moe_case.hpp"

#include <cmath>

namespace moe_gradients_tests {

using backend = esft::reference_backend<double>;
using esft_test::moe_shape;
using esft_test::subject;

struct variant {
  std::string name;
  moe_shape shape;
  esft::balance_terms balance = {};
  double z = 0;
  bool padding = false;
};
void PrintTo(const variant& v, std::ostream* out) { *out << v.name; }

class moe_gradient : public ::testing::TestWithParam<variant> {};

TEST_P(moe_gradient, equals_central_differences) {
  backend b;
  subject s;
  const auto& how = GetParam();
  esft_test::moe_case<backend> layer(b, how.shape);
  esft_test::moe_case<subject> tested(s, how.shape);
  tested.train_everything();
  std::vector<std::int32_t> samples(static_cast<std::size_t>(how.shape.tokens), 0);
  if (how.padding) samples.back() = -1;
  if (how.padding) samples.front() = 1;  // two samples
  const auto sample = esft_test::make_ids(b, esft::extents<1>{how.shape.tokens}, samples);
  const auto sample_there = esft_test::make_ids(s, esft::extents<1>{how.shape.tokens}, samples);
  const auto result = tested.run(true, {how.balance, how.z, sample_there.view(), 1});
  const auto ids = tested.ids();
  const auto loss = [&] {
    const auto y = layer.forward();
    if (layer.ids() != ids) ADD_FAILURE() << "a routing decision differs, or changed with the step of the difference";
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * layer.dy.data()[i];
    if (how.balance.any()) sum += esft::balance_loss(b, layer.saved.decision, how.balance, sample.view()).loss;
    if (how.z > 0) {
      auto logits = b.make_tensor<double>(layer.saved.decision.probabilities.shape());
      auto ignored = b.make_tensor<double>(logits.shape());
      b.fill(ignored.view(), 0.0);
      b.logits(std::as_const(layer.x).view(), layer.p.router.matrix(), logits.view());
      esft::add_bias(b, layer.p.router_bias, logits.view());
      sum += esft::z_loss(b, std::as_const(logits).view(), how.z, sample.view(), 1, ignored.view());
    }
    return sum;
  };
  const auto check = [&](auto& tensor, const std::vector<double>& gradient, const char* name) {
    esft_test::expect_central_differences({tensor.data(), static_cast<std::size_t>(tensor.size())}, gradient, loss, name, 4096,
                                          esft_test::rule_of<subject>);
  };
  check(layer.x, result.dx, "x");
  check(layer.p.router.value, result.gradient.at("router"), "router");
  check(layer.p.gate_up.value, result.gradient.at("gate_up"), "gate_up");
  check(layer.p.down.value, result.gradient.at("down"), "down");
  if (how.shape.biased) {
    check(layer.p.router_bias.value, result.gradient.at("router_bias"), "router_bias");
    check(layer.p.gate_up_bias.value, result.gradient.at("gate_up_bias"), "gate_up_bias");
    check(layer.p.down_bias.value, result.gradient.at("down_bias"), "down_bias");
  }
  if (how.shape.shared_width > 0) {
    check(layer.p.shared.gate_up.value, result.gradient.at("shared.gate_up"), "shared.gate_up");
    check(layer.p.shared.down.value, result.gradient.at("shared.down"), "shared.down");
  }
}

/// What a dense gradient of the router adds: the gate of an expert that was not chosen is its affinity over a constant, and its answer
/// counts although it is not part of the output.
TEST(dense_router_gradient, equals_central_differences_of_the_dense_mixture) {
  for (const bool normalise : {false, true}) {
    backend b;
    subject s;
    esft_test::moe_case<backend> layer(b, {9, 6, 5, 2, 4, 3, normalise, 1.5});
    esft_test::moe_case<subject> tested(s, layer.shape);
    tested.train_everything();
    const auto sparse = tested.run(true);
    esft::balance_options<subject> how;
    how.dense_router_gradient = true;
    tested.train_everything();
    const auto dense = tested.run(true, how);
    EXPECT_EQ(dense.y, sparse.y);
    for (const char* frozen : {"gate_up", "down", "shared.gate_up", "shared.down"}) {
      EXPECT_EQ(dense.gradient.at(frozen), sparse.gradient.at(frozen)) << frozen;
    }
    EXPECT_NE(dense.gradient.at("router"), sparse.gradient.at("router"));

    const auto ids = tested.ids();
    const auto x = layer.x.view();
    const auto answer = [&](esft::index t, esft::index e) {  // <dy_t, expert_e(x_t)>
      const auto gate_up = layer.p.gate_up.value.view()[e];
      const auto down = layer.p.down.value.view()[e];
      double sum = 0;
      for (esft::index i = 0; i < 4; ++i) {
        double gate = 0;
        double up = 0;
        for (esft::index d = 0; d < 6; ++d) {
          gate += gate_up(i, d) * x(t, d);
          up += gate_up(4 + i, d) * x(t, d);
        }
        for (esft::index d = 0; d < 6; ++d) sum += layer.dy.view()(t, d) * down(d, i) * gate / (1 + std::exp(-gate)) * up;
      }
      return sum;
    };
    std::vector<double> constant(9, 1);  // of the gates of unselected experts: the sum of the selected affinities, where it is divided by
    const auto mixture = [&](bool first) {
      double sum = 0;
      for (esft::index t = 0; t < 9; ++t) {
        std::vector<double> p(5);
        double all = 0;
        for (esft::index e = 0; e < 5; ++e) {
          double z = 0;
          for (esft::index d = 0; d < 6; ++d) z += layer.p.router.value.view()(e, d) * x(t, d);
          all += p[static_cast<std::size_t>(e)] = std::exp(z);
        }
        for (double& one : p) one /= all;
        const auto* taken = &ids[static_cast<std::size_t>(2 * t)];
        const double selected = p[static_cast<std::size_t>(taken[0])] + p[static_cast<std::size_t>(taken[1])];
        if (first && normalise) constant[static_cast<std::size_t>(t)] = selected;
        for (std::int32_t e = 0; e < 5; ++e) {
          const bool chosen = e == taken[0] || e == taken[1];
          const double over = !normalise ? 1 : chosen ? selected : constant[static_cast<std::size_t>(t)];
          sum += 1.5 * p[static_cast<std::size_t>(e)] / over * answer(t, e);
        }
      }
      return sum;
    };
    static_cast<void>(mixture(true));
    esft_test::expect_central_differences({layer.p.router.value.data(), 5 * 6}, dense.gradient.at("router"),
                                          [&] { return mixture(false); }, normalise ? "renormalised" : "plain", 4096,
                                          esft_test::rule_of<subject>);
  }
}

TEST(dense_router_gradient, is_the_ordinary_one_where_every_expert_is_active) {
  subject s;
  esft_test::moe_case<subject> layer(s, {5, 6, 4, 4, 3, 0, true, 1});
  layer.train_everything();
  const auto ordinary = layer.run(true);
  layer.train_everything();
  esft::balance_options<subject> how;
  how.dense_router_gradient = true;
  const auto dense = layer.run(true, how);
  EXPECT_EQ(dense.gradient.at("router"), ordinary.gradient.at("router"));
  EXPECT_EQ(dense.dx, ordinary.dx);
}

//                                   T  D  E  K  I  shared normalise scale
const variant variants[] = {
    {"plain", {9, 6, 5, 2, 4, 0, false, 1}},
    {"shared", {9, 6, 5, 2, 4, 3, false, 1}},
    {"normalised", {9, 6, 5, 2, 4, 3, true, 1}},
    {"scaled", {9, 6, 5, 2, 4, 3, false, 2.5}},
    {"normalised_and_scaled", {9, 6, 5, 3, 4, 0, true, 2.5}},
    {"one_token", {1, 6, 5, 2, 4, 3, false, 1}},
    {"every_expert_active", {5, 6, 4, 4, 3, 0, false, 1}},
    {"every_expert_active_normalised", {5, 6, 4, 4, 3, 0, true, 1}},
    {"one_expert_active", {7, 6, 5, 1, 3, 0, false, 1}},
    {"single_expert", {4, 6, 1, 1, 3, 2, false, 1}},
    {"biased", {9, 6, 5, 2, 4, 3, false, 2.5, true}},
    {"biased_most_experts_idle", {3, 6, 17, 2, 3, 0, true, 1, true}},
    {"clamped", {9, 6, 5, 2, 4, 0, true, 1, false, 0.4}},
    {"clamped_and_biased", {9, 6, 5, 2, 4, 0, true, 1, true, 0.6}, {}, 0.2},
    {"most_experts_idle", {3, 6, 17, 2, 3, 0, false, 1}},
    {"balance_loss", {9, 6, 5, 2, 4, 3, false, 1}, {.expert = 0.7}},
    {"balance_loss_with_padding", {9, 6, 5, 2, 4, 0, true, 2.5}, {.expert = 0.7}, 0, true},
    {"device_loss", {9, 6, 6, 2, 4, 0, false, 1}, {.device = 0.7, .groups = 3}},
    {"communication_loss", {9, 6, 6, 2, 4, 0, false, 1}, {.communication = 0.7, .groups = 3, .sent_to = 2}},
    {"losses_of_unequal_devices", {9, 6, 5, 2, 4, 0, false, 1}, {.device = .7, .communication = .3, .sent_to = 2, .group_sizes = {3, 2}}},
    {"switch_loss", {9, 6, 5, 2, 4, 0, false, 1}, {.switch_form = 0.4}, 0, true},
    {"sequence_loss", {9, 6, 5, 2, 4, 0, false, 1}, {.sequence = 0.7}, 0, true},
    {"z_loss", {9, 6, 5, 2, 4, 0, false, 1}, {}, 0.3, true},
    {"all_losses", {9, 6, 6, 2, 4, 0, true, 1}, {.expert = .1, .device = .2, .communication = .3, .sequence = .1, .groups = 2}, .1, true},
};
INSTANTIATE_TEST_SUITE_P(shapes, moe_gradient, ::testing::ValuesIn(variants), [](const auto& info) { return info.param.name; });

}  // namespace moe_gradients_tests
