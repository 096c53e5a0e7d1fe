// SPDX-License-Identifier: Apache-2.0
// Routes that are forced on passes of whole models: recorded and replayed, layer by layer, from logs, and refused.
#include "backend_list.hpp"
#include "scratch_directory.hpp"
#include "tiny_model.hpp"

#include <esft/io/routing_log.hpp>

#include <tuple>

namespace model_forced_routes_tests {

using esft::layer_index;
using esft_test::subject;
using esft_test::tiny_batch;

template <class Backend>
class forced_model : public ::testing::Test {};
TYPED_TEST_SUITE(forced_model, esft_test::backends, esft_test::backend_names);

template <class Model>
esft::forced_routes routes_of(typename Model::backend_type& backend, const Model& model, const esft::token_batch& batch) {
  esft::forced_routes routes;
  static_cast<void>(model.evaluate(backend, batch, esft::route_recorder{routes}));
  return routes;
}

/// Every id moved on by `step`, so that no row keeps both of its experts.
esft::layer_routes moved(esft::layer_routes routes, std::int32_t step, std::int32_t experts) {
  for (std::int32_t& id : routes.ids) id = (id + step) % experts;
  return routes;
}

struct training_pass {
  double loss = 0;
  double balance_loss = 0;
  esft_test::gradient_map gradients;
  bool operator==(const training_pass&) const = default;
};
template <class Backend>
training_pass train(Backend& backend, esft_test::tiny_decoder<Backend>& model, const esft::token_batch& batch, bool recompute) {
  esft_test::train_everything(backend, model);
  esft::backward_options options{.loss_scale = 0.125, .recompute = recompute};
  options.balance.expert = 0.3;
  options.z_loss = 0.1;
  const auto result = model.accumulate_gradients(backend, batch, options);
  return {result.loss, result.balance_loss, esft_test::gradients(backend, model)};
}

/// Models of every kind of router that configurations name; biases on the choice where there are any.
template <class Backend>
std::vector<esft_test::tiny_decoder<Backend>> models(Backend& backend) {
  std::vector<esft_test::tiny_decoder<Backend>> result;
  for (const esft::router_kind kind : {esft::router_kind::softmax, esft::router_kind::group_limited, esft::router_kind::sigmoid}) {
    auto config = esft_test::tiny_config();
    config.router = kind;
    config.normalise_topk = kind != esft::router_kind::softmax;
    config.routed_scale = 1.5;
    config.experts = 6;
    if (kind != esft::router_kind::softmax) std::tie(config.groups, config.kept_groups) = std::tuple{3, 2};
    result.push_back(esft_test::make_tiny(backend, config));
    esft::for_each_buffer(result.back().parameters, [&](esft::parameter_key, auto& bias) {
      backend.copy_in(std::span<const float>(std::vector<float>{0.3F, -0.2F, 0, 0.1F, 0.2F, -0.3F}), bias.value.view());
    });
  }
  return result;
}

TYPED_TEST(forced_model, recorded_routes_change_no_bit_when_they_are_replayed) {
  TypeParam backend;
  for (auto& model : models(backend)) {
    auto batch = tiny_batch();
    const double loss = model.evaluate(backend, batch).loss;
    const auto usual = train(backend, model, batch, false);
    batch.routes = routes_of(backend, model, batch);
    EXPECT_EQ(batch.routes.size(), 2U);
    EXPECT_EQ(model.evaluate(backend, batch).loss, loss);
    for (const bool recompute : {false, true}) EXPECT_EQ(train(backend, model, batch, recompute), usual) << recompute;
  }
}

TYPED_TEST(forced_model, a_replay_holds_the_choice_while_parameters_move) {
  TypeParam backend;
  esft::decoder<TypeParam> model = esft_test::make_tiny(backend, esft_test::tiny_config());
  esft::token_batch batch = tiny_batch();
  esft::forced_routes routes;
  model.evaluate(backend, batch, esft::route_recorder{routes});  // what the model chooses now
  batch.routes = routes;                                         // and takes from here on, in this batch
  const double loss = model.evaluate(backend, batch).loss;

  esft_test::randomise(backend, model.parameters, 2);
  EXPECT_EQ(routes_of(backend, model, batch).at(layer_index{1}).ids, routes.at(layer_index{1}).ids);
  EXPECT_EQ(routes_of(backend, model, batch).at(layer_index{2}).ids, routes.at(layer_index{2}).ids);
  EXPECT_NE(model.evaluate(backend, batch).loss, loss);
  EXPECT_NE(routes_of(backend, model, tiny_batch()).at(layer_index{2}).ids, routes.at(layer_index{2}).ids) << "pick another seed";
}

TYPED_TEST(forced_model, every_layer_takes_its_own_routes) {
  TypeParam backend;
  for (auto& model : models(backend)) {
    const auto usual = routes_of(backend, model, tiny_batch());
    auto batch = tiny_batch();
    batch.routes[layer_index{1}] = moved(usual.at(layer_index{1}), 1, 6);
    batch.routes[layer_index{2}] = moved(usual.at(layer_index{2}), 3, 6);
    batch.routes[layer_index{2}].ids[5] = esft::no_expert;
    const auto both = routes_of(backend, model, batch);
    EXPECT_EQ(both.at(layer_index{1}).ids, batch.routes.at(layer_index{1}).ids);
    EXPECT_EQ(both.at(layer_index{2}).ids, batch.routes.at(layer_index{2}).ids);
    EXPECT_EQ(train(backend, model, batch, true), train(backend, model, batch, false)) << "the forward in the backward takes them too";

    batch.routes.erase(layer_index{1});
    const auto upper = routes_of(backend, model, batch);
    EXPECT_EQ(upper.at(layer_index{1}).ids, usual.at(layer_index{1}).ids) << "a layer without routes is routed by its router";
    EXPECT_EQ(upper.at(layer_index{2}).ids, batch.routes.at(layer_index{2}).ids);
    EXPECT_NE(model.evaluate(backend, batch).loss, model.evaluate(backend, tiny_batch()).loss);
  }
}

TYPED_TEST(forced_model, routes_of_a_log_are_replayed_with_their_weights) {
  TypeParam backend;
  esft::decoder<TypeParam> model = esft_test::make_tiny(backend, esft_test::tiny_config());
  auto batch = tiny_batch();
  for (auto* column : {&batch.tokens, &batch.labels, &batch.position, &batch.key_begin, &batch.sample}) column->resize(9);  // no padding
  const esft::test::scratch_directory scratch;
  esft::routing_log_writer log(scratch / "log");
  const double loss = model.evaluate(backend, batch, [&](const esft::routing_record& record) { log.observe(record); }).loss;
  log.commit();

  for (const bool with_weights : {false, true}) {
    auto again = batch;
    esft::read_routing_logs(scratch / "log", {.experts = 5, .active = 2}, esft::route_recorder{again.routes, with_weights});
    ASSERT_EQ(again.routes.size(), 2U);
    // a log holds floats
    const bool exact = !with_weights || std::is_same_v<esft::accum_t<TypeParam>, float>;
    EXPECT_NEAR(model.evaluate(backend, again).loss, loss, exact ? 0 : 1e-6);
    EXPECT_EQ(routes_of(backend, model, again).at(layer_index{2}).ids, again.routes.at(layer_index{2}).ids);
    // Only weights that were not forced have a gradient.
    esft_test::train_everything(backend, model);
    static_cast<void>(model.accumulate_gradients(backend, again, {}));
    for (const auto& [key, gradient] : esft_test::gradients(backend, model)) {
      if (key.first.role != esft::parameter_role::router) continue;
      EXPECT_EQ(esft_test::scale_of(gradient, 0) == 0, with_weights) << esft_test::to_string(key.first);
    }
  }
}

TEST(forced_model_gradient, equals_central_differences) {
  using oracle = esft::reference_backend<double>;
  oracle b;
  subject s;
  auto config = esft_test::tiny_config();
  config.normalise_topk = true;
  auto model = esft_test::make_tiny(b, config);
  auto tested = esft_test::make_tiny(s, config);
  auto batch = tiny_batch();
  batch.routes = routes_of(b, model, batch);
  for (auto& [layer, routes] : batch.routes) routes = moved(routes, layer.value, 5);
  auto& upper = batch.routes.at(layer_index{2}).ids;
  upper[0] = upper[6] = upper[7] = esft::no_expert;  // token 0 has one expert, token 3 none
  esft_test::train_everything(s, tested);
  EXPECT_GT(tested.accumulate_gradients(s, batch, {.loss_scale = 0.125}).loss, 1);

  std::map<esft::parameter_key, std::vector<double>> gradients;
  esft::for_each_parameter(tested.parameters, [&](esft::parameter_key key, auto& w) {
    gradients[key] = esft_test::to_host(s, w.gradient);
  });
  const auto loss = [&] { return 0.125 * model.evaluate(b, batch).loss; };
  esft::for_each_parameter(model.parameters, [&](esft::parameter_key key, auto& w) {
    esft_test::expect_central_differences({w.value.data(), static_cast<std::size_t>(w.value.size())}, gradients.at(key), loss,
                                          esft_test::to_string(key), 24, esft_test::rule_of<subject>);
  });
}

template <class Model>
std::string complaint(typename Model::backend_type& backend, Model& model, const esft::token_batch& batch) {
  std::string evaluated;
  try {
    static_cast<void>(model.evaluate(backend, batch));
  } catch (const esft::usage_error& problem) {
    evaluated = problem.what();
  }
  try {
    static_cast<void>(model.accumulate_gradients(backend, batch, {}));
    EXPECT_EQ(evaluated, "");
  } catch (const esft::usage_error& problem) {
    EXPECT_EQ(problem.what(), evaluated);
  }
  return evaluated;
}

TEST(forced_model_routes, that_do_not_fit_are_refused_by_layer_and_token) {
  subject backend;
  auto model = esft_test::make_tiny(backend, esft_test::tiny_config());
  esft_test::train_everything(backend, model);
  const auto good = routes_of(backend, model, tiny_batch());
  const auto says = [&](const esft::forced_routes& routes, const std::vector<std::string>& words) {
    auto batch = tiny_batch();
    batch.routes = routes;
    const std::string said = complaint(backend, model, batch);
    for (const std::string& word : words) EXPECT_NE(said.find(word), std::string::npos) << "'" << word << "' is not in: " << said;
    return said;
  };
  EXPECT_EQ(says(good, {}), "");
  says({{layer_index{0}, good.at(layer_index{1})}}, {"layer 0", "no MoE layer"});
  says({{layer_index{3}, good.at(layer_index{1})}}, {"layer 3", "no MoE layer"});
  says({{layer_index{-1}, good.at(layer_index{1})}}, {"layer -1", "no MoE layer"});
  auto bad = good;
  bad.at(layer_index{2}).ids[2 * 7 + 1] = bad.at(layer_index{2}).ids[2 * 7];
  says(bad, {"layer 2", "token 7", "twice"});
  bad = good;
  bad.at(layer_index{1}).ids[2 * 10] = 5;
  says(bad, {"layer 1", "token 10", "expert 5", "0..4"});
  bad = good;
  bad.at(layer_index{1}).ids.resize(2 * 9);  // without rows for padding
  says(bad, {"layer 1", "18 ids", "11 tokens"});
}

}  // namespace model_forced_routes_tests
