// SPDX-License-Identifier: Apache-2.0
// Balance losses with known values, of plain decisions and of routers with a capacity, and their gradients through such routers.
#include "backend_list.hpp"
#include "numeric.hpp"

#include <esft/moe/balance_across_layers.hpp>
#include <esft/moe/balance_loss.hpp>
#include <esft/moe/routers.hpp>

namespace moe_balance_tests {

using esft::extents;
using esft_test::expect_close;
using esft_test::make;
using esft_test::make_ids;
using esft_test::to_host;

template <class Backend>
class balance_losses : public ::testing::Test {
 protected:
  using sum_type = esft::accum_t<Backend>;
  Backend backend;
  /// Of sums of a few numbers below 3 that are rounded once each.
  static constexpr double rounding = std::is_same_v<sum_type, double> ? 1e-15 : 2e-7;

  auto sums(const extents<2>& shape, const std::vector<double>& values) { return make<sum_type>(backend, shape, values); }
  esft::routing<Backend> decided(esft::index tokens, const std::vector<std::int32_t>& ids, const std::vector<double>& probabilities) {
    esft::routing<Backend> decision;
    decision.ids = make_ids(backend, extents<2>{tokens, static_cast<esft::index>(ids.size()) / tokens}, ids);
    decision.weights = backend.template make_tensor<sum_type>(decision.ids.shape());
    decision.probabilities = sums({tokens, static_cast<esft::index>(probabilities.size()) / tokens}, probabilities);
    return decision;
  }
  double loss(const esft::routing<Backend>& decision, const esft::balance_terms& terms) {
    return esft::balance_loss(backend, decision, terms, {}).loss;
  }
  auto route(const auto& router, esft::index tokens, const std::vector<double>& logits) {
    const auto z = sums({tokens, static_cast<esft::index>(logits.size()) / tokens}, logits);
    return router.route(backend, z.view());
  }
};
TYPED_TEST_SUITE(balance_losses, esft_test::backends, esft_test::backend_names);

/// Four tokens over three experts whose means are .5, .3125 and .1875; `exact` has the same means in numbers that float holds.
const std::vector<double> affinities{.7, .2, .1, .6, .3, .1, .2, .5, .3, .5, .25, .25};
const std::vector<double> exact{.75, .125, .125, .5, .375, .125, .25, .5, .25, .5, .25, .25};
const std::vector<std::int32_t> one_each{0, 0, 1, 0};
const std::vector<std::int32_t> two_each{0, 1, 0, 1, 1, 2, 0, 1};  // 3, 4 and 1 times

TYPED_TEST(balance_losses, of_experts) {
  EXPECT_EQ(this->loss(this->decided(4, one_each, exact), {.expert = 1}), 1.359375);
  EXPECT_EQ(this->loss(this->decided(4, one_each, exact), {.switch_form = 1}), 1.359375);  // one expert a token: the same
  EXPECT_EQ(this->loss(this->decided(4, two_each, exact), {.expert = 1}), 1.1015625);
  EXPECT_NEAR(this->loss(this->decided(4, one_each, affinities), {.expert = 1}), 1.359375, this->rounding);
  EXPECT_NEAR(this->loss(this->decided(4, two_each, affinities), {.expert = 1}), 1.1015625, this->rounding);
}

TYPED_TEST(balance_losses, in_the_form_of_switch_and_transformers) {
  auto& b = this->backend;
  const auto decision = this->decided(4, two_each, exact);
  const auto result = esft::balance_loss(b, decision, {.switch_form = 1}, {});
  EXPECT_EQ(result.loss, 2.203125);
  std::vector<double> wanted;  // E / T^2 times the choices of each expert
  for (int t = 0; t < 4; ++t) wanted.insert(wanted.end(), {9.0 / 16, 12.0 / 16, 3.0 / 16});
  EXPECT_EQ(to_host(b, result.dprobabilities), wanted);
  EXPECT_NEAR(this->loss(this->decided(4, two_each, affinities), {.switch_form = 1}), 2.203125, this->rounding);
  esft::balance_across_layers alone;
  alone.add<TypeParam>(b, decision, {});
  EXPECT_EQ(alone.loss(1), 2.203125);
  EXPECT_EQ(alone.slope(1), (std::vector<double>{9.0 / 16, 12.0 / 16, 3.0 / 16}));
}

TYPED_TEST(balance_losses, of_devices_that_differ_in_size) {
  const auto decision = this->decided(4, two_each, exact);
  // f' = 21/16, 3/8; P' = .8125, .1875
  EXPECT_EQ(this->loss(decision, {.device = 1, .group_sizes = {2, 1}}), 1.13671875);
  EXPECT_NEAR(this->loss(this->decided(4, two_each, affinities), {.device = 1, .group_sizes = {2, 1}}), 1.13671875, this->rounding);
  // all four tokens are sent to the first device, one to the second; D = 2, M = 2: f'' = 1, 1/4
  EXPECT_EQ(this->loss(decision, {.communication = 1, .sent_to = 2, .group_sizes = {2, 1}}), .8125 + .1875 / 4);
  EXPECT_EQ(this->loss(decision, {.device = 1, .group_sizes = {1, 1, 1}}), this->loss(decision, {.device = 1, .groups = 3}));
  for (const std::vector<esft::index>& wrong : {std::vector<esft::index>{2}, {2, 2}, {3, 0}, {4, -1}}) {
    EXPECT_THROW(this->loss(decision, {.device = 1, .group_sizes = wrong}), esft::contract_violation);
  }
  EXPECT_THROW(this->loss(decision, {.device = 1, .groups = 2}), esft::contract_violation);
}

TYPED_TEST(balance_losses, of_sequences_divide_affinities_by_their_sum) {
  const std::vector<double> sigmoids{.9, .3, .3, .8, .8, .4};  // to .6 .2 .2 and .4 .4 .2: P = .5 .3 .2
  const double mean[] = {.5, .3, .2};
  for (std::int32_t e = 0; e < 3; ++e) {  // both tokens choose e: f_e = 3
    const auto decision = this->decided(2, {e, e}, sigmoids);
    EXPECT_NEAR(this->loss(decision, {.sequence = 1}), 3 * mean[e], 2 * this->rounding) << e;
  }
}

TEST(balance_bias, moves_by_the_sign_of_what_is_missing) {
  std::vector<float> bias(3);
  const std::vector<std::int64_t> load{3, 4, 1};  // mean 8 / 3
  esft::balance_bias(bias, load, .001);
  EXPECT_EQ(bias, (std::vector<float>{-.001F, -.001F, .001F}));
  bias = {0, 0, 0};
  esft::balance_bias(bias, load, -.001);  // ExpertCondenser: away from the mean
  EXPECT_EQ(bias, (std::vector<float>{.001F, .001F, -.001F}));
}

// An expert may be idle in one layer and busy in the next: what counts is the mean over the layers.
TYPED_TEST(balance_losses, across_layers_are_those_of_all_tokens_together) {
  auto& b = this->backend;
  const std::vector<double> second{.125, .125, .75, .25, .25, .5, .5, 0, .5, .25, .5, .25};
  const std::vector<std::int32_t> chosen{2, 0, 2, 1, 2, 0, 1, 2};  // 2, 2 and 4 times
  const auto sample = make_ids(b, extents<1>{4}, {0, 0, 1, 1});
  esft::balance_across_layers sum;
  sum.add(b, this->decided(4, two_each, exact), sample.view());
  sum.add(b, this->decided(4, chosen, second), sample.view());
  std::vector<std::int32_t> ids = two_each;
  ids.insert(ids.end(), chosen.begin(), chosen.end());
  std::vector<double> rows = exact;
  rows.insert(rows.end(), second.begin(), second.end());
  const auto together = esft::balance_loss(b, this->decided(8, ids, rows), {.switch_form = 1}, {});
  // 3 (5/8 P0 + 6/8 P1 + 5/8 P2) over eight tokens with P = 3.125/8, 2.125/8, 2.75/8
  EXPECT_EQ(sum.loss(1), 3 * (5 * 3.125 + 6 * 2.125 + 5 * 2.75) / 64);
  EXPECT_EQ(sum.loss(1), together.loss);
  const auto slope = sum.slope(1);
  EXPECT_EQ(slope, (std::vector<double>{15.0 / 64, 18.0 / 64, 15.0 / 64}));
  const auto gradient = to_host(b, together.dprobabilities);
  for (std::size_t i = 0; i < gradient.size(); ++i) EXPECT_EQ(gradient[i], slope[i % 3]);
  // A layer adds the slope to its own gradient, and nothing to its loss.
  const auto layer = esft::balance_loss(b, this->decided(4, two_each, exact), {}, sample.view(), 0.5, slope);
  EXPECT_EQ(layer.loss, 0);
  const auto there = to_host(b, layer.dprobabilities);
  for (std::size_t i = 0; i < there.size(); ++i) EXPECT_EQ(there[i], 0.5 * slope[i % 3]);
  EXPECT_THROW(this->loss(this->decided(4, two_each, exact), {.across_layers = 1}), esft::contract_violation);
}

TYPED_TEST(balance_losses, across_layers_leave_padding_out) {
  auto& b = this->backend;
  const auto sample = make_ids(b, extents<1>{4}, {0, 0, 0, -1});
  esft::balance_across_layers sum;
  sum.add(b, this->decided(4, one_each, exact), sample.view());
  EXPECT_DOUBLE_EQ(sum.loss(1), this->loss(this->decided(3, {0, 0, 1}, {exact.begin(), exact.begin() + 9}), {.switch_form = 1}));  // thirds
  esft::balance_across_layers nothing;
  EXPECT_EQ(nothing.loss(1), 0);
  EXPECT_TRUE(nothing.slope(1).empty());
  const auto padding = make_ids(b, extents<1>{4}, {-1, -1, -1, -1});
  nothing.add(b, this->decided(4, one_each, exact), padding.view());
  EXPECT_EQ(nothing.loss(1), 0);
  EXPECT_EQ(nothing.slope(1), (std::vector<double>{0, 0, 0}));
}

/// Logits whose softmax is known: the best expert gets p of two, the other 1 - p.
double odds(double p) { return std::log(p / (1 - p)); }

// Four tokens want expert 0 with .75, .75, .75 and .75; it has room for two. Of the overload the loss must see all: f = 2, 0, and not 1, 0.
TYPED_TEST(balance_losses, of_switch_count_tokens_that_found_no_room) {
  auto& b = this->backend;
  const std::vector<double> z{odds(.75), 0, odds(.75), 0, odds(.75), 0, odds(.75), 0};
  const auto tight = this->route(esft::switch_top1_router(1), 4, z);
  EXPECT_EQ(to_host<std::int32_t>(b, tight.ids), (std::vector<std::int32_t>{0, 0, -1, -1}));
  EXPECT_EQ(to_host<std::int32_t>(b, tight.counted), (std::vector<std::int32_t>{0, 0, 0, 0}));
  EXPECT_NEAR(this->loss(tight, {.expert = 1}), 2 * .75, 1e-6);
  EXPECT_NEAR(this->loss(tight, {.switch_form = 1}), 2 * .75, 1e-6);
  EXPECT_NEAR(this->loss(tight, {.device = 1, .groups = 2}), 2 * .75, 1e-6);
  EXPECT_NEAR(this->loss(tight, {.sequence = 1}), 2 * .75, 1e-6);
  // What is sent to a device is what it serves: two tokens of four to the first, D / M = 2
  EXPECT_NEAR(this->loss(tight, {.communication = 1, .groups = 2}), 2 * .5 * .75, 1e-6);
  const auto gradient = to_host(b, esft::balance_loss(b, tight, {.expert = 1}, {}).dprobabilities);
  EXPECT_EQ(gradient, (std::vector<double>{.5, 0, .5, 0, .5, 0, .5, 0}));
  esft::balance_across_layers sum;
  sum.add<TypeParam>(b, tight, {});
  EXPECT_NEAR(sum.loss(1), 2 * .75, 1e-6);
  const auto roomy = this->route(esft::switch_top1_router(2), 4, z);
  EXPECT_EQ(this->loss(tight, {.expert = 1}), this->loss(roomy, {.expert = 1}));
}

// c_e counts first choices, served or not: 3, 1, 0 of four tokens. GShard's own loss is 1 / E sum_e c_e / S m_e.
TYPED_TEST(balance_losses, of_gshard_count_first_choices) {
  auto& b = this->backend;
  const double high = std::log(4);  // softmax .5, .25, .25 of log 4, log 2, log 2
  const double low = std::log(2);
  const double third = std::log(1.5);
  const std::vector<double> z{high, low, third, high, low, third, high, low, third, low, high, third};
  const std::vector<double> s{4 / 7.5, 2 / 7.5, 1.5 / 7.5};
  const double m0 = (3 * s[0] + s[1]) / 4;
  const double m1 = (3 * s[1] + s[0]) / 4;
  const double own = (.75 * m0 + .25 * m1) / 3;
  for (const esft::gshard_top2_options& options : {esft::gshard_top2_options{.5, false, 0}, {.5, true, 3}, {4, false, 0}, {4, true, 3}}) {
    const auto decision = this->route(esft::gshard_top2_router(options), 4, z);
    EXPECT_EQ(to_host<std::int32_t>(b, decision.counted), (std::vector<std::int32_t>{0, 0, 0, 1}));
    EXPECT_NEAR(this->loss(decision, {.switch_form = 1}), 9 * own, 1e-6);
    EXPECT_NEAR(this->loss(decision, {.expert = 1}), 9 * own, 1e-6);
    EXPECT_NEAR(this->loss(decision, {.device = 1, .group_sizes = {1, 2}}),  // f' = 9/4 and 3/8; P' = m0 and the rest
                2.25 * m0 + .375 * (1 - m0), 1e-6);
    if (options.capacity_factor > 1) continue;
    const auto ids = to_host<std::int32_t>(b, decision.ids);  // ceil(.5 * 8 / 3) = 2 rows: the third first choice of expert 0 is dropped
    EXPECT_EQ(ids[0], 0);
    EXPECT_EQ(ids[4], esft::no_expert);
  }
}

TYPED_TEST(balance_losses, routers_without_room_to_run_out_of_keep_nothing_more) {
  const std::vector<double> z{2, 1, 0, 0, 1, 2};
  EXPECT_EQ(this->route(esft::softmax_topk_router(2), 2, z).counted.size(), 0);
  EXPECT_EQ(this->route(esft::sigmoid_topk_router(2), 2, z).counted.size(), 0);
  EXPECT_EQ(this->route(esft::null_experts_router(2, 1), 2, z).counted.size(), 0);
  EXPECT_EQ(this->route(esft::expert_choice_router(2), 2, z).counted.size(), 0);
}

/// Every loss through a router, as a function of its logits; tokens without room among them, and padding.
template <class Router>
void expect_gradients(const Router& router, const char* name) {
  esft::reference_backend<double> b;
  esft_test::subject tested;
  using number = esft::accum_t<esft_test::subject>;
  constexpr esft::index tokens = 9;
  auto z = esft_test::random_tensor<double>(b, extents<2>{tokens, 5}, 21);
  for (esft::index t = 0; t < tokens; t += 2) z.view()(t, 1) += 3;  // more than expert 1 has room for
  const std::vector<std::int32_t> samples{0, 0, 0, 0, 1, 1, 1, 1, -1};
  const auto sample = make_ids(b, extents<1>{tokens}, samples);
  const auto sample_there = make_ids(tested, extents<1>{tokens}, samples);
  const auto at_rest = router.route(b, std::as_const(z).view());
  const auto ids = to_host<std::int32_t>(b, at_rest.ids);
  EXPECT_GT(std::count(ids.begin(), ids.end(), esft::no_expert), 0) << name << ": every token finds room, which checks nothing";
  for (const esft::balance_terms& terms : {esft::balance_terms{.expert = .7},
                                           {.switch_form = .7},
                                           {.device = .7, .group_sizes = {2, 3}},
                                           {.communication = .7, .sent_to = 2, .group_sizes = {2, 3}},
                                           {.sequence = .7},
                                           {.across_layers = .7}}) {
    esft::balance_terms layer = terms;
    layer.across_layers = 0;
    const auto loss = [&] {
      const auto decision = router.route(b, std::as_const(z).view());
      if (to_host<std::int32_t>(b, decision.ids) != ids) ADD_FAILURE() << "the choice changed with the step of the difference";
      esft::balance_across_layers together;
      together.add(b, decision, sample.view());
      return esft::balance_loss(b, decision, layer, sample.view()).loss + together.loss(terms.across_layers);
    };
    const auto there = make<number>(tested, z.shape(), to_host(b, z));
    const auto decision = router.route(tested, there.view());
    esft::balance_across_layers together;
    together.add(tested, decision, sample_there.view());
    const auto extra = esft::balance_loss(tested, decision, layer, sample_there.view(), 1, together.slope(terms.across_layers));
    auto dweights = tested.template make_tensor<number>(decision.weights.shape());
    tested.fill(dweights.view(), number{});
    auto dlogits = tested.template make_tensor<number>(z.shape());
    router.backward(tested, decision, std::as_const(dweights).view(), extra.dprobabilities.view(), dlogits.view());
    EXPECT_GT(loss(), 0);
    esft_test::expect_central_differences({z.data(), static_cast<std::size_t>(z.size())}, to_host(tested, dlogits), loss, name, 4096,
                                          esft_test::rule_of<esft_test::subject>);
  }
}

TEST(balance_gradients, equal_central_differences_where_a_capacity_takes_choices_away) {
  expect_gradients(esft::switch_top1_router(1), "Switch");
  expect_gradients(esft::gshard_top2_router({.75, true, 5}), "GShard");
}

}  // namespace moe_balance_tests
