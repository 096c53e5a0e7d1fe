// SPDX-License-Identifier: Apache-2.0
// Small cases with known answers: routing weights, router gradients, balance loss.
#include "backend_list.hpp"
#include "numeric.hpp"

#include <esft/moe/balance_loss.hpp>
#include <esft/moe/dispatch.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

namespace {

using esft::extents;
using esft_test::expect_close;
using esft_test::make;
using esft_test::make_ids;
using esft_test::to_host;

template <class Backend>
class moe_oracles : public ::testing::Test {
 protected:
  using sum_type = esft::accum_t<Backend>;
  Backend backend;

  auto sums(const extents<2>& shape, const std::vector<double>& values) { return make<sum_type>(backend, shape, values); }
  auto route(const esft::softmax_topk_router& router, const std::vector<double>& logits) {
    const auto z = sums({1, static_cast<esft::index>(logits.size())}, logits);
    return router.route(backend, z.view());
  }
};
TYPED_TEST_SUITE(moe_oracles, esft_test::backends, esft_test::backend_names);

TYPED_TEST(moe_oracles, softmax_then_top_k) {
  auto& b = this->backend;
  const std::vector<double> z{2, 1, 0, -1};
  const auto plain = this->route(esft::softmax_topk_router(2), z);
  EXPECT_EQ(to_host<std::int32_t>(b, plain.ids), (std::vector<std::int32_t>{0, 1}));
  expect_close(to_host(b, plain.probabilities), {0.643914, 0.236883, 0.087144, 0.032059}, 1e-6, "probabilities");
  expect_close(to_host(b, plain.weights), {0.643914, 0.236883}, 1e-6, "weights of DeepSeekMoE and OLMoE");
  const auto normalised = this->route(esft::softmax_topk_router(2, true), z);
  expect_close(to_host(b, normalised.weights), {0.731059, 0.268941}, 1e-6, "weights of Mixtral and Qwen3");
  const auto scaled = this->route(esft::softmax_topk_router(2, false, 16), z);
  expect_close(to_host(b, scaled.weights), {16 * 0.643914, 16 * 0.236883}, 1e-6, "scaled weights");
  const auto both = this->route(esft::softmax_topk_router(2, true, 2.5), z);
  expect_close(to_host(b, both.weights), {2.5 * 0.731059, 2.5 * 0.268941}, 1e-6, "normalised and scaled weights");
}

TYPED_TEST(moe_oracles, greedy_choice_over_all_experts) {
  const auto decision = this->route(esft::softmax_topk_router(3), {0.9, 0.1, 0.8, 0.7, 0.95, -2, 0, 0});
  EXPECT_EQ(to_host<std::int32_t>(this->backend, decision.ids), (std::vector<std::int32_t>{4, 0, 2}));
  expect_close(to_host(this->backend, decision.weights), {0.206442, 0.196374, 0.177686}, 2e-6, "weights");  // oracle has 6 digits
}

TYPED_TEST(moe_oracles, ties_go_to_the_lower_id) {
  const auto decision = this->route(esft::softmax_topk_router(3), {1, 2, 2, 1, 2, 1});
  EXPECT_EQ(to_host<std::int32_t>(this->backend, decision.ids), (std::vector<std::int32_t>{1, 2, 4}));
  const auto flat = this->route(esft::softmax_topk_router(3), {0, 0, 0, 0});
  EXPECT_EQ(to_host<std::int32_t>(this->backend, flat.ids), (std::vector<std::int32_t>{0, 1, 2}));
}

// Far beyond the range in which exp is finite, and differences below the resolution of the probabilities: the logits decide.
TYPED_TEST(moe_oracles, huge_and_tiny_logits) {
  const auto decision = this->route(esft::softmax_topk_router(2), {-3e4, 1e4, -2e4, -1e4});
  EXPECT_EQ(to_host<std::int32_t>(this->backend, decision.ids), (std::vector<std::int32_t>{1, 3}));
  EXPECT_EQ(to_host(this->backend, decision.weights), (std::vector<double>{1, 0}));
}

TYPED_TEST(moe_oracles, router_gradients) {
  auto& b = this->backend;
  const std::vector<double> z{2, 1, 0, -1};
  const auto gradient = [&](const esft::softmax_topk_router& router, double scale_of_dw) {
    auto dlogits = this->sums({1, 4}, {9, 9, 9, 9});  // must be overwritten
    const auto dw = this->sums({1, 2}, {scale_of_dw, 0});
    router.backward(b, this->route(router, z), dw.view(), {}, dlogits.view());
    return to_host(b, dlogits);
  };
  const std::vector<double> plain{0.229289, -0.152532, -0.056113, -0.020643};
  const std::vector<double> normalised{0.196612, -0.196612, 0, 0};
  expect_close(gradient(esft::softmax_topk_router(2), 1), plain, 4e-6, "not normalised: unselected logits get gradient");  // 6 digits
  expect_close(gradient(esft::softmax_topk_router(2, true), 1), normalised, 4e-6, "normalised: only selected logits");
  expect_close(gradient(esft::softmax_topk_router(2, false, 2.5), 0.4), plain, 4e-6, "scaled");
  expect_close(gradient(esft::softmax_topk_router(2, true, 2.5), 0.4), normalised, 4e-6, "normalised and scaled");
}

TYPED_TEST(moe_oracles, balance_loss) {
  using A = esft::accum_t<TypeParam>;
  auto& b = this->backend;
  const std::vector<double> probabilities{.7, .2, .1, .6, .3, .1, .2, .5, .3, .5, .25, .25};
  const auto loss = [&](esft::index active, const std::vector<std::int32_t>& ids, double coefficient,
                        const std::vector<std::int32_t>& sample, const std::vector<double>& wanted_row) {
    esft::routing<TypeParam> decision;
    decision.ids = make_ids(b, extents<2>{4, active}, ids);
    decision.weights = b.template make_tensor<A>(extents<2>{4, active});
    decision.probabilities = this->sums({4, 3}, probabilities);
    const auto samples = make_ids(b, extents<1>{static_cast<esft::index>(sample.size())}, sample);
    const auto result = esft::balance_loss(b, decision, coefficient, samples.view(), 0.5);
    std::vector<double> wanted;  // gradient_scale 0.5 is on the gradient alone
    for (std::size_t t = 0; t < 4; ++t) {
      for (const double value : wanted_row) wanted.push_back(!sample.empty() && sample[t] < 0 ? 0 : 0.5 * coefficient * value);
    }
    expect_close(to_host(b, result.dprobabilities), wanted, 1e-6, "gradient");
    return result.loss;
  };
  // f = [9/4, 3/4, 0], P = [.5, .3125, .1875]; the gradient of each token is f / T
  EXPECT_NEAR(loss(1, {0, 0, 1, 0}, 1, {}, {9.0 / 16, 3.0 / 16, 0}), 1.359375, 1e-6);
  EXPECT_NEAR(loss(1, {0, 0, 1, 0}, 1, {0, 0, 1, 1}, {9.0 / 16, 3.0 / 16, 0}), 1.359375, 1e-6);
  // f = [9/8, 3/2, 3/8]
  EXPECT_NEAR(loss(2, {0, 1, 0, 1, 1, 2, 0, 1}, 1, {}, {9.0 / 32, 3.0 / 8, 3.0 / 32}), 1.1015625, 1e-6);
  EXPECT_NEAR(loss(2, {0, 1, 0, 1, 1, 2, 0, 1}, 0.01, {}, {9.0 / 32, 3.0 / 8, 3.0 / 32}), 0.011015625, 1e-8);
  // the last token is padding: f = [2, 1, 0] over 3 tokens, P = [.5, 1/3, 1/6]
  EXPECT_NEAR(loss(1, {0, 0, 1, 0}, 1, {0, 0, 0, -1}, {2.0 / 3, 1.0 / 3, 0}), 2 * 0.5 + 1.0 / 3, 1e-6);
  // padding only: nothing to balance
  EXPECT_EQ(loss(1, {0, 0, 1, 0}, 1, {-1, -1, -1, -1}, {0, 0, 0}), 0);
}

TYPED_TEST(moe_oracles, dispatch_sorts_by_expert_and_keeps_token_order) {
  auto& b = this->backend;
  const auto ids = make_ids(b, extents<2>{4, 2}, {2, 0, 0, 3, 2, 3, 0, 2});
  const auto plan = esft::plan_dispatch(b, ids.view(), 5);
  EXPECT_EQ(to_host<std::int32_t>(b, plan.offsets), (std::vector<std::int32_t>{0, 3, 3, 6, 8, 8}));
  EXPECT_EQ(to_host<std::int32_t>(b, plan.row_slot), (std::vector<std::int32_t>{1, 2, 6, 0, 4, 7, 3, 5}));
  EXPECT_EQ(to_host<std::int32_t>(b, plan.slot_row), (std::vector<std::int32_t>{3, 0, 1, 6, 4, 7, 2, 5}));
}

}  // namespace
