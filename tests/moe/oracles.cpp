// SPDX-License-Identifier: Apache-2.0
// Small cases with known answers: routing weights, router gradients, balance loss.
#include "backend_list.hpp"
#include "numeric.hpp"

#include <esft/moe/balance_loss.hpp>
#include <esft/moe/dispatch.hpp>
#include <esft/moe/routers.hpp>

namespace moe_oracles_tests {

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
  auto route(const auto& router, const std::vector<double>& logits) {
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
  expect_close(to_host(b, normalised.weights), {0.731059, 0.268941}, 1e-6, "weights of Mixtral, Qwen3 and GPT-OSS");
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

TYPED_TEST(moe_oracles, groups_rank_by_their_best_expert) {
  auto& b = this->backend;
  const std::vector<double> z{0.9, 0.1, 0.8, 0.7, 0.95, -2, 0, 0};
  const auto decision = this->route(esft::group_limited_router(3, 4, 2), z);
  EXPECT_EQ(to_host<std::int32_t>(b, decision.ids), (std::vector<std::int32_t>{4, 0, 1}));
  expect_close(to_host(b, decision.weights), {0.206442, 0.196374, 0.088236}, 4e-6, "weights");  // oracle has 6 digits
  const std::vector<double> affinities{.196374, .088236, .177686, .160777, .206442, .010805, .07984, .07984};
  expect_close(to_host(b, decision.probabilities), affinities, 4e-6, "affinities");
  const auto all = this->route(esft::group_limited_router(3, 4, 4), z);
  EXPECT_EQ(to_host<std::int32_t>(b, all.ids), (std::vector<std::int32_t>{4, 0, 2}));
  EXPECT_THROW(this->route(esft::group_limited_router(3, 4, 1), z), esft::contract_violation);  // two experts in a group
  EXPECT_THROW(this->route(esft::group_limited_router(3, 3, 2), z), esft::contract_violation);  // 8 experts, 3 groups
  EXPECT_THROW(esft::group_limited_router(3, 4, 5), esft::contract_violation);
}

TYPED_TEST(moe_oracles, bound_experts_share_the_mean_of_their_affinities) {
  auto& b = this->backend;
  // affinities in 1/15.5: pairs of mean 1, 2.25, 2.5 and 2, so that the second best expert, of affinity 3, is not taken
  std::vector<double> z;
  for (const double s : {1.0, 1.0, 4.0, 0.5, 2.5, 2.5, 3.0, 1.0}) z.push_back(std::log(s));
  const auto decision = this->route(esft::grouped_experts_router(4, 2), z);
  EXPECT_EQ(to_host<std::int32_t>(b, decision.ids), (std::vector<std::int32_t>{4, 5, 2, 3}));
  expect_close(to_host(b, decision.weights), {2.5 / 15.5, 2.5 / 15.5, 2.25 / 15.5, 2.25 / 15.5}, 1e-6, "weights");
  expect_close(to_host(b, decision.probabilities), {1 / 15.5, 1 / 15.5, 4 / 15.5, .5 / 15.5, 2.5 / 15.5, 2.5 / 15.5, 3 / 15.5, 1 / 15.5},
               1e-6, "affinities");
  const auto normalised = this->route(esft::grouped_experts_router(4, 2, true, 2), z);
  expect_close(to_host(b, normalised.weights), {2 * 2.5 / 9.5, 2 * 2.5 / 9.5, 2 * 2.25 / 9.5, 2 * 2.25 / 9.5}, 1e-6, "normalised");
  const auto fours = this->route(esft::grouped_experts_router(4, 4), z);
  EXPECT_EQ(to_host<std::int32_t>(b, fours.ids), (std::vector<std::int32_t>{4, 5, 6, 7}));
  EXPECT_THROW(this->route(esft::grouped_experts_router(3, 2), z), esft::contract_violation);  // a group and a half
  EXPECT_THROW(this->route(esft::grouped_experts_router(3, 3), z), esft::contract_violation);  // 8 experts in threes
  EXPECT_THROW(esft::grouped_experts_router(4, 0), esft::contract_violation);
}

TYPED_TEST(moe_oracles, groups_of_one_expert_are_no_groups) {
  auto& b = this->backend;
  const std::vector<double> z{0.9, 0.1, 0.8, 0.7, 0.95, -2, 0, 0};
  const auto plain = this->route(esft::softmax_topk_router(3, true), z);
  const auto grouped = this->route(esft::grouped_experts_router(3, 1, true), z);
  EXPECT_EQ(to_host<std::int32_t>(b, grouped.ids), to_host<std::int32_t>(b, plain.ids));
  expect_close(to_host(b, grouped.weights), to_host(b, plain.weights), 1e-6, "weights");
}

/// Logits with these sigmoids.
std::vector<double> logits_of(const std::vector<double>& sigmoids) {
  std::vector<double> z;
  for (const double s : sigmoids) z.push_back(std::log(s / (1 - s)));
  return z;
}

TYPED_TEST(moe_oracles, sigmoid_affinities) {
  auto& b = this->backend;
  esft::sigmoid_topk_options options;
  const auto normalised = this->route(esft::sigmoid_topk_router(2, options), {2, 1, 0, -1});
  EXPECT_EQ(to_host<std::int32_t>(b, normalised.ids), (std::vector<std::int32_t>{0, 1}));
  expect_close(to_host(b, normalised.probabilities), {0.880797, 0.731059, 0.5, 0.268941}, 1e-6, "affinities");
  expect_close(to_host(b, normalised.weights), {0.546449, 0.453551}, 1e-6, "weights");
  options.scale = 2.5;
  expect_close(to_host(b, this->route(esft::sigmoid_topk_router(2, options), {2, 1, 0, -1}).weights), {1.366123, 1.133877}, 1e-6, "scaled");
  options.normalise = false;
  const auto plain = this->route(esft::sigmoid_topk_router(2, options), {2, 1, 0, -1});
  expect_close(to_host(b, plain.weights), {2.5 * 0.880797, 2.5 * 0.731059}, 1e-6, "not normalised");
}

TYPED_TEST(moe_oracles, the_bias_chooses_and_does_not_weigh) {
  auto& b = this->backend;
  esft::sigmoid_topk_options options{{4, 2, esft::group_rank::sum_of_two_best}, true, 2.5, {0, 0, .2F, .2F, -.3F, 0, 0, 0}};
  const auto z = logits_of({.9, .1, .6, .5, .8, .2, .3, .3});
  const auto decision = this->route(esft::sigmoid_topk_router(3, options), z);
  EXPECT_EQ(to_host<std::int32_t>(b, decision.ids), (std::vector<std::int32_t>{0, 2, 3}));  // expert 4, .8, lies outside the best groups
  expect_close(to_host(b, decision.weights), {1.125, 0.75, 0.625}, 1e-6, "weights");
  options.bias = {0, 0};
  EXPECT_THROW(this->route(esft::sigmoid_topk_router(3, options), z), esft::contract_violation);
}

// Where every score in the best groups is negative, an excluded expert that scores 0 would win: transformers does so, DeepSeek does not.
TYPED_TEST(moe_oracles, excluded_experts_lose_unless_asked_for) {
  auto& b = this->backend;
  esft::sigmoid_topk_options options{{4, 2, esft::group_rank::sum_of_two_best}, true, 2.5, std::vector<float>(8, -1)};
  const auto z = logits_of({.95, .1, .6, .5, .8, .2, .3, .3});
  const auto strict = this->route(esft::sigmoid_topk_router(3, options), z);
  EXPECT_EQ(to_host<std::int32_t>(b, strict.ids), (std::vector<std::int32_t>{0, 2, 3}));
  expect_close(to_host(b, strict.weights), {1.158537, 0.731707, 0.609756}, 1e-6, "weights");
  options.excluded = 0;
  const auto filled = this->route(esft::sigmoid_topk_router(3, options), z);
  EXPECT_EQ(to_host<std::int32_t>(b, filled.ids), (std::vector<std::int32_t>{4, 5, 6}));
  expect_close(to_host(b, filled.weights), {1.538462, 0.384615, 0.576923}, 1e-6, "weights");
}

TYPED_TEST(moe_oracles, an_expert_serves_no_more_than_its_capacity) {
  auto& b = this->backend;
  // Best experts of the five tokens: 0 0 1 0 0; capacity ceil(1 * 5 / 3) = 2.
  const auto z = this->sums({5, 3}, {3, 0, 0, 2, 0, 0, 0, 1, 0, 4, 0, 0, 5, 0, 0});
  const auto decision = esft::switch_top1_router(1).route(b, z.view());
  EXPECT_EQ(to_host<std::int32_t>(b, decision.ids), (std::vector<std::int32_t>{0, 0, 1, -1, -1}));
  const auto weights = to_host(b, decision.weights);
  const auto gate = [](double best) { return std::exp(best) / (std::exp(best) + 2); };
  expect_close(weights, {gate(3), gate(2), gate(1), 0, 0}, 1e-6, "weights");
  const auto roomy = esft::switch_top1_router(2).route(b, z.view());
  EXPECT_EQ(to_host<std::int32_t>(b, roomy.ids), (std::vector<std::int32_t>{0, 0, 1, 0, 0}));
  EXPECT_THROW(esft::switch_top1_router(0), esft::contract_violation);
}

TYPED_TEST(moe_oracles, first_choices_are_served_before_second_ones) {
  auto& b = this->backend;
  // Choices 0 then 1, 0 then 1, 1 then 0, 2 then 0; capacity ceil(0.75 * 8 / 3) = 2: expert 0 is full of first choices, expert 1 takes one
  // second choice.
  const auto z = this->sums({4, 3}, {3, 2, 0, 3, 2, 0, 2, 3, 0, 1, 0, 2});
  const auto decision = esft::gshard_top2_router({0.75, false, 0}).route(b, z.view());
  EXPECT_EQ(to_host<std::int32_t>(b, decision.ids), (std::vector<std::int32_t>{0, 1, 0, -1, 1, -1, 2, -1}));
  const double first = std::exp(1) / (std::exp(1) + 1);  // 0.731059
  expect_close(to_host(b, decision.weights), {first, 1 - first, first, 0, first, 0, first, 0}, 1e-6, "gates are not shared out again");
}

TYPED_TEST(moe_oracles, a_second_expert_serves_by_chance) {
  auto& b = this->backend;
  constexpr esft::index tokens = 4000;
  std::vector<double> logits;
  for (esft::index t = 0; t < tokens; ++t) logits.insert(logits.end(), {std::log(4.0), 0.0});  // gates 0.8 and 0.2
  const auto z = this->sums({tokens, 2}, logits);
  const auto second = [&](std::uint64_t seed) {
    return to_host<std::int32_t>(b, esft::gshard_top2_router({4, true, seed}).route(b, z.view()).ids);
  };
  const auto ids = second(1);
  const auto served = std::count(ids.begin(), ids.end(), 1);
  EXPECT_NEAR(static_cast<double>(served) / tokens, 0.4, 0.031);  // four standard deviations of a mean of 4000 draws
  EXPECT_EQ(second(1), ids);
  EXPECT_NE(second(2), ids);
}

TYPED_TEST(moe_oracles, null_experts_cost_nothing) {
  auto& b = this->backend;
  const esft::null_experts_router router(2, 2);  // experts 0 and 1 are real, 2 and 3 are null
  const auto z = this->sums({3, 4}, {2, 1, 0, -1, 1, 0, 2, -1, 0, 0, 2, 1});
  const auto decision = router.route(b, z.view());
  EXPECT_EQ(to_host<std::int32_t>(b, decision.ids), (std::vector<std::int32_t>{0, 1, -1, 0, -1, -1}));
  expect_close(to_host(b, decision.weights), {0.731059, 0.268941, 0, 1, 0, 0}, 1e-6, "weights of the real ones sum to one");
}

TYPED_TEST(moe_oracles, experts_choose_their_best_tokens) {
  auto& b = this->backend;
  // s of expert 0 for four tokens: .5 .9 .9 .1; each of two experts takes ceil(1 * 4 / 2) = 2.
  const auto odds = [](double s) { return std::log(s / (1 - s)); };
  const auto z = this->sums({4, 2}, {odds(.5), 0, odds(.9), 0, odds(.9), 0, odds(.1), 0});
  const auto decision = esft::expert_choice_router(2, 1).route(b, z.view());
  EXPECT_EQ(to_host<std::int32_t>(b, decision.ids), (std::vector<std::int32_t>{1, -1, 0, -1, 0, -1, 1, -1}));
  expect_close(to_host(b, decision.weights), {.5, 0, .9, 0, .9, 0, .9, 0}, 1e-6, "weights");
  // Three each: expert 1 takes the first of the two tokens that it likes equally little; one place a token keeps the better expert.
  const auto more = esft::expert_choice_router(2, 1.5).route(b, z.view());
  EXPECT_EQ(to_host<std::int32_t>(b, more.ids), (std::vector<std::int32_t>{0, 1, 0, 1, 0, -1, 1, -1}));
  const auto bounded = esft::expert_choice_router(1, 1.5).route(b, z.view());
  EXPECT_EQ(to_host<std::int32_t>(b, bounded.ids), (std::vector<std::int32_t>{0, 0, 0, 1}));
}

TEST(balance_bias, moves_towards_the_mean_load) {
  std::vector<float> bias{0, 1, -1, 0.5F};
  esft::balance_bias(bias, std::vector<std::int64_t>{8, 2, 5, 5}, 0.25);  // mean 5
  EXPECT_EQ(bias, (std::vector<float>{-0.25F, 1.25F, -1, 0.5F}));
  EXPECT_THROW(esft::balance_bias(bias, std::vector<std::int64_t>{1}, 0.25), esft::contract_violation);
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
    const auto result = esft::balance_loss(b, decision, {.expert = coefficient}, samples.view(), 0.5);
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

TYPED_TEST(moe_oracles, device_communication_and_sequence_losses) {
  auto& b = this->backend;
  esft::routing<TypeParam> decision;  // two tokens, two of four experts; devices {0, 1} and {2, 3}
  decision.ids = make_ids(b, extents<2>{2, 2}, {0, 1, 0, 2});
  decision.weights = this->sums({2, 2}, {.5, .3, .4, .3});
  decision.probabilities = this->sums({2, 4}, {.5, .3, .1, .1, .4, .2, .3, .1});
  const auto samples = make_ids(b, extents<1>{2}, {0, 1});
  const auto loss = [&](const esft::balance_terms& terms) { return esft::balance_loss(b, decision, terms, samples.view()).loss; };
  // f = 4 / (2 * 2) * (2, 1, 1, 0), P = (.45, .25, .2, .1)
  EXPECT_NEAR(loss({.expert = 1}), 2 * .45 + .25 + .2, 1e-6);
  EXPECT_NEAR(loss({.device = 1, .groups = 2}), 1.5 * .7 + .5 * .3, 1e-6);
  // both tokens are sent to device 0, one to device 1: f'' = 2 / (2 * 2) * (2, 1)
  EXPECT_NEAR(loss({.communication = 1, .groups = 2, .sent_to = 2}), 1 * .7 + .5 * .3, 1e-6);
  // each token for itself: f = 2 for its two experts
  EXPECT_NEAR(loss({.sequence = 1}), (2 * (.5 + .3) + 2 * (.4 + .3)) / 2, 1e-6);
  // affinities that do not sum to one are divided by their sum
  decision.probabilities = this->sums({2, 4}, {1, .6, .2, .2, .8, .4, .6, .2});
  EXPECT_NEAR(loss({.sequence = 1}), (2 * (.5 + .3) + 2 * (.4 + .3)) / 2, 1e-6);
  EXPECT_NEAR(loss({.expert = .1, .sequence = .01}), .1 * 2 * (2 * .45 + .25 + .2) + .01 * 1.5, 1e-6);
  EXPECT_THROW(loss({.device = 1, .groups = 3}), esft::contract_violation);
}

TYPED_TEST(moe_oracles, z_loss) {
  auto& b = this->backend;
  const auto logits = this->sums({3, 2}, {0, 0, std::log(3.0), 0, 7, 8});
  const auto samples = make_ids(b, extents<1>{3}, {0, 0, -1});
  auto dlogits = this->sums({3, 2}, {1, 1, 1, 1, 1, 1});
  const double two = std::log(2.0);
  const double four = std::log(4.0);
  EXPECT_NEAR(esft::z_loss(b, logits.view(), 0.5, samples.view(), 2, dlogits.view()), 0.5 * (two * two + four * four) / 2, 1e-6);
  expect_close(to_host(b, dlogits), {1 + two / 2, 1 + two / 2, 1 + four * .75, 1 + four * .25, 1, 1}, 1e-6, "added, padding left alone");
}

TYPED_TEST(moe_oracles, dispatch_sorts_by_expert_and_keeps_token_order) {
  auto& b = this->backend;
  const auto ids = make_ids(b, extents<2>{4, 2}, {2, 0, 0, 3, 2, 3, 0, 2});
  const auto plan = esft::plan_dispatch(b, ids.view(), 5);
  EXPECT_EQ(to_host<std::int32_t>(b, plan.offsets), (std::vector<std::int32_t>{0, 3, 3, 6, 8, 8}));
  EXPECT_EQ(to_host<std::int32_t>(b, plan.row_slot), (std::vector<std::int32_t>{1, 2, 6, 0, 4, 7, 3, 5}));
  EXPECT_EQ(to_host<std::int32_t>(b, plan.slot_row), (std::vector<std::int32_t>{3, 0, 1, 6, 4, 7, 2, 5}));
}

TYPED_TEST(moe_oracles, empty_slots_get_no_row) {
  auto& b = this->backend;
  const auto ids = make_ids(b, extents<2>{3, 2}, {2, -1, -1, 0, -1, 2});
  const auto plan = esft::plan_dispatch(b, ids.view(), 3);
  EXPECT_EQ(to_host<std::int32_t>(b, plan.offsets), (std::vector<std::int32_t>{0, 1, 1, 3}));
  EXPECT_EQ(to_host<std::int32_t>(b, plan.row_slot), (std::vector<std::int32_t>{3, 0, 5, -1, -1, -1}));
  EXPECT_EQ(to_host<std::int32_t>(b, plan.slot_row), (std::vector<std::int32_t>{1, -1, -1, 0, -1, 2}));
}

}  // namespace moe_oracles_tests
