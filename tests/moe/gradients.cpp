// SPDX-License-Identifier: Apache-2.0
// Backward of the MoE layer in double against central differences, in the corners too.
#include "moe_case.hpp"

#include <esft/backend/reference_backend.hpp>

namespace moe_gradients_tests {

using backend = esft::reference_backend<double>;
using esft_test::moe_shape;

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
  const auto& how = GetParam();
  esft_test::moe_case<backend> layer(b, how.shape);
  layer.train_everything();
  std::vector<std::int32_t> samples(static_cast<std::size_t>(how.shape.tokens), 0);
  if (how.padding) samples.back() = -1;
  if (how.padding) samples.front() = 1;  // two samples
  const auto sample = esft_test::make_ids(b, esft::extents<1>{how.shape.tokens}, samples);
  const esft::balance_options<backend> balance{how.balance, how.z, sample.view(), 1};
  const auto result = layer.run(true, balance);
  const auto ids = layer.ids();
  const auto loss = [&] {
    const auto y = layer.forward();
    if (layer.ids() != ids) ADD_FAILURE() << "the step of the difference changed a routing decision: pick another seed";
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
    esft_test::expect_central_differences({tensor.data(), static_cast<std::size_t>(tensor.size())}, gradient, loss, name);
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
    {"sequence_loss", {9, 6, 5, 2, 4, 0, false, 1}, {.sequence = 0.7}, 0, true},
    {"z_loss", {9, 6, 5, 2, 4, 0, false, 1}, {}, 0.3, true},
    {"all_losses", {9, 6, 6, 2, 4, 0, true, 1}, {.expert = .1, .device = .2, .communication = .3, .sequence = .1, .groups = 2}, .1, true},
};
INSTANTIATE_TEST_SUITE_P(shapes, moe_gradient, ::testing::ValuesIn(variants), [](const auto& info) { return info.param.name; });

}  // namespace moe_gradients_tests
