// SPDX-License-Identifier: Apache-2.0
// Forced routes of one layer: the router's own choice back, other experts by hand and by central differences, refusals.
#include "backend_list.hpp"
#include "moe_case.hpp"

#include <esft/moe/routers.hpp>

#include <cmath>
#include <limits>

namespace forced_routes_tests {

using esft::extents;
using esft::layer_routes;
using esft::no_expert;
using esft_test::moe_case;
using esft_test::moe_shape;
using esft_test::subject;

/// Two of five experts for nine tokens; slots stay empty, token 4 has no expert, and nobody takes expert 3.
const std::vector<std::int32_t> others{0, 1, 2, 4, no_expert, 2, 1, no_expert, no_expert, no_expert, 4, 0, 2, 1, 0, 4, 1, 0};

template <class Backend>
class forced_layer : public ::testing::Test {};
TYPED_TEST_SUITE(forced_layer, esft_test::backends, esft_test::backend_names);

TYPED_TEST(forced_layer, the_choice_of_the_router_itself_changes_no_bit) {
  TypeParam backend;
  for (const moe_shape& shape : {moe_shape{}, moe_shape{9, 6, 5, 2, 4, 3, true, 1}, moe_shape{40, 6, 17, 3, 4, 0, true, 2.5, true}}) {
    moe_case<TypeParam> layer(backend, shape);
    esft::balance_options<TypeParam> how;
    how.terms.expert = 0.7;
    how.z = 0.3;
    how.dense_router_gradient = true;
    layer.train_everything();
    const auto usual = layer.run(true, how);
    layer.force(layer.ids());
    layer.train_everything();
    const auto again = layer.run(true, how);
    EXPECT_EQ(again.y, usual.y);
    EXPECT_EQ(again.dx, usual.dx);
    EXPECT_EQ(again.gradient, usual.gradient);
    EXPECT_EQ(again.balance_loss, usual.balance_loss);
  }
}

/// The layer in plain loops: affinities, weights of the given experts, their outputs. @shape x [T, 6]; no shared experts
std::vector<double> by_hand(const moe_shape& shape, const std::vector<double>& x, const std::vector<double>& router,
                            const std::vector<double>& gate_up, const std::vector<double>& down, const std::vector<std::int32_t>& ids,
                            std::vector<double>& weights) {
  const auto experts = static_cast<std::size_t>(shape.experts);
  const auto active = static_cast<std::size_t>(shape.active);
  const auto inner = static_cast<std::size_t>(shape.expert_width);
  std::vector<double> y(x.size());
  weights.assign(ids.size(), 0);
  for (std::size_t t = 0; t < static_cast<std::size_t>(shape.tokens); ++t) {
    std::vector<double> s(experts);
    double all = 0;
    for (std::size_t e = 0; e < experts; ++e) {
      double z = 0;
      for (std::size_t d = 0; d < 6; ++d) z += router[e * 6 + d] * x[t * 6 + d];
      all += s[e] = std::exp(z);
    }
    double forced = 0;
    for (std::size_t k = 0; k < active; ++k) {
      if (ids[t * active + k] != no_expert) forced += s[static_cast<std::size_t>(ids[t * active + k])];
    }
    for (std::size_t k = 0; k < active; ++k) {
      if (ids[t * active + k] == no_expert) continue;
      const auto e = static_cast<std::size_t>(ids[t * active + k]);
      const double weight = weights[t * active + k] = shape.scale * s[e] / (shape.normalise ? forced : all);
      for (std::size_t i = 0; i < inner; ++i) {
        double gate = 0;
        double up = 0;
        for (std::size_t d = 0; d < 6; ++d) {
          gate += gate_up[(e * 2 * inner + i) * 6 + d] * x[t * 6 + d];
          up += gate_up[(e * 2 * inner + inner + i) * 6 + d] * x[t * 6 + d];
        }
        const double h = gate / (1 + std::exp(-gate)) * up;
        for (std::size_t d = 0; d < 6; ++d) y[t * 6 + d] += weight * down[(e * 6 + d) * inner + i] * h;
      }
    }
  }
  return y;
}

TYPED_TEST(forced_layer, other_experts_answer_with_the_weights_of_the_formula) {
  TypeParam backend;
  const double bound = std::is_same_v<esft::value_t<TypeParam>, double> ? 1e-13 : 2e-6;  // sums of a few dozen products in another order
  for (const bool normalise : {false, true}) {
    const moe_shape shape{9, 6, 5, 2, 4, 0, normalise, 1.5};
    moe_case<TypeParam> layer(backend, shape);
    layer.forward();
    ASSERT_NE(layer.ids(), others);
    layer.force(others);
    const auto y = layer.forward();
    EXPECT_EQ(layer.ids(), others);
    const auto host = [&](const auto& t) { return esft_test::to_host(backend, t); };
    std::vector<double> weights;
    const auto wanted = by_hand(shape, host(layer.x), host(layer.p.router.value), host(layer.p.gate_up.value), host(layer.p.down.value),
                                others, weights);
    esft_test::expect_close(host(layer.saved.decision.weights), weights, bound, "weights");
    esft_test::expect_close(y, wanted, bound, "y");
    for (std::size_t d = 24; d < 30; ++d) EXPECT_EQ(y[d], 0) << "token 4 has no expert";
  }
}

TYPED_TEST(forced_layer, forced_weights_are_constants) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {9, 6, 5, 2, 4, 0, true, 1.5});
  std::vector<float> weights(18);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = 0.25F * static_cast<float>(i % 7) - 0.5F;
  weights[4] = std::numeric_limits<float>::quiet_NaN();  // of an empty slot
  layer.force(others, weights);
  layer.train_everything();
  const auto result = layer.run();
  std::vector<double> used(weights.begin(), weights.end());
  for (std::size_t i = 0; i < used.size(); ++i) {
    if (others[i] == no_expert) used[i] = 0;
  }
  EXPECT_EQ(esft_test::to_host(backend, layer.saved.decision.weights), used);
  for (const double g : result.gradient.at("router")) EXPECT_EQ(g, 0);
  EXPECT_GT(esft_test::scale_of(result.gradient.at("down")), 0.01);

  esft::balance_options<TypeParam> how;
  how.terms.expert = 0.7;  // what a balance loss says about the router's affinities still counts
  EXPECT_GT(esft_test::scale_of(layer.run(true, how).gradient.at("router"), 0), 1e-4);
  how.dense_router_gradient = true;
  EXPECT_THROW(layer.run(true, how), esft::contract_violation);

  layer.forced.reset();
  layer.train_everything();
  EXPECT_GT(esft_test::scale_of(layer.run().gradient.at("router"), 0), 0.01) << "the next pass routes by itself again";
}

TYPED_TEST(forced_layer, no_tokens_are_legal) {
  TypeParam backend;
  moe_case<TypeParam> layer(backend, {0, 6, 5, 2, 4, 3, false, 1});
  layer.force({});
  layer.train_everything();
  EXPECT_TRUE(layer.run().y.empty());
}

// The forced experts stay while the logits change: no choice can flip.
TEST(forced_gradient, equals_central_differences) {
  using backend = esft::reference_backend<double>;
  std::vector<float> constants(18, 0.75F);
  constants[7] = -1.5F;
  for (const bool weighed : {false, true}) {
    for (const moe_shape& shape : {moe_shape{9, 6, 5, 2, 4, 3, false, 1}, moe_shape{9, 6, 5, 2, 4, 0, true, 2.5, true}}) {
      backend b;
      subject s;
      moe_case<backend> layer(b, shape);
      moe_case<subject> tested(s, shape);
      const std::vector<float> weights = weighed ? constants : std::vector<float>{};
      layer.force(others, weights);
      tested.force(others, weights);
      tested.train_everything();
      const auto result = tested.run();
      const auto loss = [&] {
        const auto y = layer.forward();
        double sum = 0;
        for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * layer.dy.data()[i];
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
      if (shape.biased) check(layer.p.router_bias.value, result.gradient.at("router_bias"), "router_bias");
    }
  }
}

/// What is wrong with these routes of 2 tokens to 2 of 4 experts in layer 3, or nothing.
std::string complaint(const layer_routes& routes) {
  subject backend;
  try {
    const esft::placed_routes<subject> placed(backend, routes, esft::layer_index{3}, extents<2>{2, 2}, 4);
    return "";
  } catch (const esft::usage_error& problem) {
    return problem.what();
  }
}

TEST(forced_routes, that_do_not_fit_are_refused_by_layer_and_token) {
  const auto says = [](const layer_routes& routes, const std::vector<std::string>& words) {
    const std::string said = complaint(routes);
    for (const std::string& word : words) EXPECT_NE(said.find(word), std::string::npos) << "'" << word << "' is not in: " << said;
  };
  EXPECT_EQ(complaint({2, {0, 3, no_expert, 1}}), "");
  EXPECT_EQ(complaint({2, {0, 3, no_expert, no_expert}, {1, 2, 3, 4}}), "");
  says({2, {0, 3, 2}}, {"layer 3", "3 ids", "2 tokens"});
  says({2, {0, 3, 2, 1, 0, 1}}, {"layer 3", "6 ids"});
  says({2, {}}, {"layer 3", "0 ids"});
  says({1, {0, 3, 2, 1}}, {"layer 3", "rows of 1", "2 experts each"});
  says({2, {0, 3, 2, 1}, {1, 1}}, {"layer 3", "4 ids", "2 weights"});
  says({2, {0, 3, 4, 1}}, {"layer 3", "token 1", "expert 4", "0..3"});
  says({2, {0, -2, 3, 1}}, {"layer 3", "token 0", "expert -2"});
  says({2, {0, 3, 1, 1}}, {"layer 3", "token 1", "expert 1", "twice"});
  says({2, {0, 3, 2, 1}, {1, 1, INFINITY, 1}}, {"layer 3", "token 1", "expert 2", "finite"});
}

TEST(forced_routes, checked_for_another_layer_are_refused) {
  subject backend;
  moe_case<subject> layer(backend, {});
  const auto place = [&](const extents<2>& slots, esft::index experts) {
    std::vector<std::int32_t> ids;
    for (esft::index t = 0; t < slots[0]; ++t) {
      for (std::int32_t k = 0; k < slots[1]; ++k) ids.push_back(k);
    }
    layer.forced.emplace(backend, layer_routes{static_cast<int>(slots[1]), ids}, esft::layer_index{0}, slots, experts);
  };
  for (const auto& [slots, experts] : {std::pair{extents<2>{8, 2}, 5}, {extents<2>{9, 3}, 5}, {extents<2>{9, 2}, 6}}) {
    place(slots, experts);
    EXPECT_THROW(layer.forward(), esft::contract_violation) << slots[0] << " x " << slots[1] << " of " << experts;
  }
  place({9, 2}, 5);
  EXPECT_NO_THROW(layer.forward());
}

TEST(forced_routes, a_router_that_does_not_weigh_takes_them_with_weights_only) {
  static_assert(!esft::weighing_router<esft::gshard_top2_router, subject>);
  subject backend;
  moe_case<subject> layer(backend, {});
  const esft::gshard_top2_router choose;
  const auto forward = [&] {
    auto y = backend.make_tensor<esft::value_t<subject>>(layer.x.shape());
    esft::moe_forward(backend, choose, layer.p, std::as_const(layer.x).view(), y.view(), layer.saved, &*layer.forced);
  };
  layer.force(others);
  try {
    forward();
    ADD_FAILURE() << "weights of a second expert that lost its draw are not in the ids";
  } catch (const esft::usage_error& problem) {
    EXPECT_NE(std::string(problem.what()).find("gshard-top2"), std::string::npos) << problem.what();
  }
  layer.force(others, std::vector<float>(18, 0.5F));
  EXPECT_NO_THROW(forward());
  EXPECT_EQ(layer.ids(), others);
}

TEST(route_recorder, appends_records_by_layer) {
  const std::vector<std::int32_t> ids{0, 1, 2, no_expert};
  const std::vector<float> weights{0.5F, 0.25F, 1, 0};
  const esft::routing_record record{esft::layer_index{2}, 4, 2, ids, weights, {}};
  esft::forced_routes routes;
  esft::route_recorder{routes}(record);
  EXPECT_EQ(routes.at(esft::layer_index{2}).active, 2);
  EXPECT_EQ(routes.at(esft::layer_index{2}).ids, ids);
  EXPECT_TRUE(routes.at(esft::layer_index{2}).weights.empty());
  esft::forced_routes both;
  const esft::route_recorder with_weights{both, true};
  with_weights(record);
  with_weights(record);
  EXPECT_EQ(both.at(esft::layer_index{2}).ids, (std::vector<std::int32_t>{0, 1, 2, no_expert, 0, 1, 2, no_expert}));
  EXPECT_EQ(both.at(esft::layer_index{2}).weights, (std::vector<float>{0.5F, 0.25F, 1, 0, 0.5F, 0.25F, 1, 0}));
  EXPECT_EQ(both.size(), 1U);
  EXPECT_THROW(with_weights({esft::layer_index{2}, 4, 4, ids, weights, {}}), esft::contract_violation);
}

}  // namespace forced_routes_tests
