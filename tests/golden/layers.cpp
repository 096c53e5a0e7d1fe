// SPDX-License-Identifier: Apache-2.0
// Every layer, forward and all gradients, against PyTorch (layers.safetensors, made by generate.py), on every backend.
#include "backend_list.hpp"
#include "goldens.hpp"

#include <esft/moe/layer.hpp>
#include <esft/moe/routers/softmax_topk.hpp>
#include <esft/nn/attention.hpp>
#include <esft/nn/cross_entropy.hpp>

namespace golden_layers_tests {

using esft::extents;
using esft::parameter_role;
using esft::write_mode;
using esft_test::goldens;

template <class Backend>
class golden_layers : public ::testing::Test {
 protected:
  using T = esft::value_t<Backend>;
  using A = esft::accum_t<Backend>;
  Backend backend;

  static goldens open(const std::string& name) { return goldens("layers.safetensors", name + "/"); }
  auto matrix(const goldens& golden, const std::string& name) { return golden.tensor<T, 2>(backend, name); }
};
TYPED_TEST_SUITE(golden_layers, esft_test::backends, esft_test::backend_names);

TYPED_TEST(golden_layers, rms_norm) {
  auto& b = this->backend;
  const goldens golden = this->open("rms_norm");
  const auto x = this->matrix(golden, "x");
  const auto dy = this->matrix(golden, "dy");
  esft::weight<TypeParam, 1, parameter_role::final_norm> w;
  golden.load(b, w, "weight");
  esft::rms_norm_saved<TypeParam> saved;
  golden.expect(b, esft::rms_norm_forward(b, x.view(), w, 1e-5, saved), "y");
  auto dx = b.template make_tensor<esft::value_t<TypeParam>>(x.shape());
  auto view = dx.view();
  esft::rms_norm_backward(b, dy.view(), x.view(), w, saved, &view, write_mode::overwrite);
  golden.expect(b, dx, "d_x");
  golden.expect_gradient(b, w, "weight");
}

TYPED_TEST(golden_layers, rope) {
  using T = esft::value_t<TypeParam>;
  auto& b = this->backend;
  const goldens golden = this->open("rope");
  const auto positions = esft_test::make_ids(b, golden.shape<1>("positions"), golden.ids("positions"));
  auto x = golden.tensor<T, 3>(b, "x");
  b.rope(x.view(), positions.view(), 1e4, 1);
  golden.expect(b, x, "y");
  auto dx = golden.tensor<T, 3>(b, "dy");
  b.rope(dx.view(), positions.view(), 1e4, -1);
  golden.expect(b, dx, "d_x");
}

TYPED_TEST(golden_layers, attention_over_two_packed_documents) {
  auto& b = this->backend;
  const esft::token_batch batch{std::vector<std::int32_t>(9), {}, {0, 1, 2, 3, 0, 1, 2, 3, 4}, {0, 0, 0, 0, 4, 4, 4, 4, 4}, {}};
  const auto context = esft::causal_context(b, batch);
  const std::pair<std::string, esft::query_key_norm> norms[] = {{"none", esft::query_key_norm::none},
                                                                {"per_head", esft::query_key_norm::per_head},
                                                                {"full_width", esft::query_key_norm::full_width}};
  for (const auto& [name, norm] : norms) {
    const goldens golden = this->open("attention_" + name);
    const auto x = this->matrix(golden, "x");
    const auto dy = this->matrix(golden, "dy");
    const esft::attention_config config{4, 2, 6, 1e4, 1e-6, norm};
    esft::attention_parameters<TypeParam> p;
    esft::for_each_member(p, [&](std::string_view member, auto& w) { golden.load(b, w, std::string(member)); });
    esft::attention_saved<TypeParam> saved;
    golden.expect(b, esft::attention_forward(b, config, p, x.view(), context, saved), "y");
    auto dx = b.template make_tensor<esft::value_t<TypeParam>>(x.shape());
    auto view = dx.view();
    esft::attention_backward(b, config, p, dy.view(), x.view(), context, saved, &view);
    golden.expect(b, dx, "d_x");
    esft::for_each_member(p, [&](std::string_view member, auto& w) { golden.expect_gradient(b, w, std::string(member)); });
  }
}

TYPED_TEST(golden_layers, swiglu) {
  auto& b = this->backend;
  const goldens golden = this->open("swiglu");
  const auto x = this->matrix(golden, "x");
  const auto dy = this->matrix(golden, "dy");
  esft::swiglu_parameters<TypeParam, parameter_role::dense_gate_up, parameter_role::dense_down> p;
  golden.load(b, p.gate_up, "gate_up");
  golden.load(b, p.down, "down");
  esft::swiglu_saved<TypeParam> saved;
  auto y = b.template make_tensor<esft::value_t<TypeParam>>(x.shape());
  esft::swiglu_forward(b, p, x.view(), y.view(), write_mode::overwrite, saved);
  golden.expect(b, y, "y");
  auto dx = b.template make_tensor<esft::value_t<TypeParam>>(x.shape());
  auto view = dx.view();
  esft::swiglu_backward(b, p, dy.view(), x.view(), saved, &view, write_mode::overwrite);
  golden.expect(b, dx, "d_x");
  golden.expect_gradient(b, p.gate_up, "gate_up");
  golden.expect_gradient(b, p.down, "down");
}

TYPED_TEST(golden_layers, router) {
  using A = esft::accum_t<TypeParam>;
  auto& b = this->backend;
  const std::pair<std::string, esft::softmax_topk_router> routers[] = {{"plain", esft::softmax_topk_router(3)},
                                                                       {"normalised", esft::softmax_topk_router(3, true)},
                                                                       {"scaled", esft::softmax_topk_router(3, false, 2.5)},
                                                                       {"both", esft::softmax_topk_router(3, true, 2.5)}};
  for (const auto& [name, choose] : routers) {
    const goldens golden = this->open("router_" + name);
    const auto logits = golden.tensor<A, 2>(b, "logits");
    const auto decision = choose.route(b, logits.view());
    EXPECT_EQ(esft_test::to_host<std::int32_t>(b, decision.ids), golden.ids("ids"));
    golden.expect(b, decision.weights, "y");
    golden.expect(b, decision.probabilities, "probabilities");
    const auto dweights = golden.tensor<A, 2>(b, "dy");
    const auto dprobabilities = golden.tensor<A, 2>(b, "d_probabilities");
    auto dlogits = b.template make_tensor<A>(logits.shape());
    choose.backward(b, decision, dweights.view(), dprobabilities.view(), dlogits.view());
    golden.expect(b, dlogits, "d_logits");
  }
}

TYPED_TEST(golden_layers, deepseek_moe) {
  using T = esft::value_t<TypeParam>;
  auto& b = this->backend;
  struct variant {
    std::string name;
    esft::softmax_topk_router choose;
    double balance;
  };
  const variant variants[] = {{"plain", esft::softmax_topk_router(2), 0},
                              {"shared", esft::softmax_topk_router(2), 0},
                              {"normalised", esft::softmax_topk_router(2, true), 0},
                              {"scaled_balanced", esft::softmax_topk_router(2, false, 2.5), 0.3}};
  for (const auto& [name, choose, balance] : variants) {
    const goldens golden = this->open("moe_" + name);
    const auto x = this->matrix(golden, "x");
    const auto dy = this->matrix(golden, "dy");
    esft::moe_parameters<TypeParam> p;
    golden.load(b, p.router, "router");
    golden.load(b, p.gate_up, "gate_up");
    golden.load(b, p.down, "down");
    golden.load(b, p.shared.gate_up, "shared.gate_up");
    golden.load(b, p.shared.down, "shared.down");
    esft::moe_saved<TypeParam> saved;
    auto y = b.template make_tensor<T>(x.shape());
    b.fill(y.view(), T{});
    esft::moe_forward(b, choose, p, x.view(), y.view(), saved);
    EXPECT_EQ(esft_test::to_host<std::int32_t>(b, saved.decision.ids), golden.ids("ids"));
    golden.expect(b, y, "y");
    auto dx = b.template make_tensor<T>(x.shape());
    auto view = dx.view();
    const double loss = esft::moe_backward(b, choose, p, dy.view(), x.view(), saved, &view, {{balance}, 0, {}, 1});
    EXPECT_NEAR(loss, golden.numbers("balance_loss")[0], 1e-6);
    golden.expect(b, dx, "d_x");
    golden.expect_gradient(b, p.router, "router");
    golden.expect_gradient(b, p.gate_up, "gate_up");
    golden.expect_gradient(b, p.down, "down");
    golden.expect_gradient(b, p.shared.gate_up, "shared.gate_up");
    golden.expect_gradient(b, p.shared.down, "shared.down");
  }
}

TYPED_TEST(golden_layers, head_and_cross_entropy_with_ignored_labels) {
  using A = esft::accum_t<TypeParam>;
  auto& b = this->backend;
  const goldens golden = this->open("head");
  const auto x = this->matrix(golden, "x");
  const auto head = this->matrix(golden, "head");
  const auto labels = esft_test::make_ids(b, golden.shape<1>("labels"), golden.ids("labels"));
  const double loss = golden.numbers("loss")[0];
  EXPECT_NEAR(esft::head_loss(b, x.view(), head.view(), labels.view()), loss, 1e-6 * loss);
  auto dx = b.template make_tensor<esft::value_t<TypeParam>>(x.shape());
  auto view = dx.view();
  auto dhead = b.template make_tensor<A>(head.shape());
  b.fill(dhead.view(), A{});
  EXPECT_NEAR(esft::head_loss_backward(b, x.view(), head.view(), labels.view(), 0.25, &view, dhead.view()), loss, 1e-6 * loss);
  golden.expect(b, dx, "d_x");
  golden.expect(b, dhead, "d_head");
}

// A wrong constant is seen: the bound is not so wide that it accepts another epsilon, another rope base or a missing gate.
TEST(golden_bound, notices_a_wrong_constant) {
  esft::reference_backend<double> b;
  const goldens golden("layers.safetensors", "rope/");
  const auto positions = esft_test::make_ids(b, golden.shape<1>("positions"), golden.ids("positions"));
  auto x = golden.tensor<double, 3>(b, "x");
  b.rope(x.view(), positions.view(), 1.0001e4, 1);
  const auto got = esft_test::to_host(b, x);
  const auto want = golden.numbers("y");
  double error = 0;
  for (std::size_t i = 0; i < got.size(); ++i) error = std::max(error, std::abs(got[i] - want[i]));
  EXPECT_GT(error, 10 * esft_test::golden_bound * esft_test::scale_of(want));
}

}  // namespace golden_layers_tests
