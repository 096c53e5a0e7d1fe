// SPDX-License-Identifier: Apache-2.0
// The gradient of the whole model, every parameter, against central differences in double, for the shapes of model we know.
#include "backend_list.hpp"
#include "tiny_model.hpp"

#include <map>

#include <gtest/gtest-spi.h>

namespace gradients_tests {

using oracle = esft::reference_backend<double>;
using esft_test::subject;
using esft::query_key_norm;

struct variant {
  std::string name;
  void (*change)(esft::decoder_config&);
  esft::balance_terms balance = {};
};

void PrintTo(const variant& v, std::ostream* out) { *out << v.name; }

class whole_model_gradient : public ::testing::TestWithParam<variant> {};

TEST_P(whole_model_gradient, equals_central_differences) {
  oracle b;
  subject s;
  auto config = esft_test::tiny_config();
  GetParam().change(config);
  auto model = esft_test::make_tiny(b, config);
  auto tested = esft_test::make_tiny(s, config);
  esft_test::train_everything(b, model);
  esft_test::train_everything(s, tested);
  const auto batch = esft_test::tiny_batch();
  esft::backward_options options;
  options.loss_scale = 0.125;
  options.balance = GetParam().balance;

  const auto at_rest = tested.accumulate_gradients(s, batch, options);
  EXPECT_EQ(at_rest.labelled, 7);
  EXPECT_GT(at_rest.loss, 1);
  EXPECT_EQ(at_rest.balance_loss > 0, options.balance.any());

  std::map<esft::parameter_key, std::vector<double>> gradients;
  esft::for_each_parameter(tested.parameters, [&](esft::parameter_key key, auto& w) { gradients[key] = esft_test::to_host(s, w.gradient); });

  std::vector<std::int32_t> chosen;
  static_cast<void>(tested.evaluate(s, batch, [&](const esft::routing_record& record) {
    chosen.insert(chosen.end(), record.ids.begin(), record.ids.end());
  }));
  const auto loss = [&] {
    std::vector<std::int32_t> now;
    double sum = options.loss_scale * model.evaluate(b, batch, [&](const esft::routing_record& record) {
      now.insert(now.end(), record.ids.begin(), record.ids.end());
    }).loss;
    if (now != chosen) ADD_FAILURE() << "a routing decision differs, or changed with the step of the difference: pick another seed";
    if (options.balance.any()) {  // only the training pass computes it
      sum += model.accumulate_gradients(b, batch, options).balance_loss;
    }
    return sum;
  };
  esft::for_each_parameter(model.parameters, [&](esft::parameter_key key, auto& w) {
    esft_test::expect_central_differences({w.value.data(), static_cast<std::size_t>(w.value.size())}, gradients.at(key), loss,
                                          esft_test::to_string(key), 64, esft_test::rule_of<subject>);
  });
}

const variant variants[] = {
    {"dense_first_layer_shared_experts", [](esft::decoder_config&) {}},
    {"no_shared_experts", [](esft::decoder_config& c) { c.shared_width = 0; }},
    {"all_layers_route", [](esft::decoder_config& c) { c.moe_layer = {true, true, true}; }},
    {"normalised", [](esft::decoder_config& c) { c.normalise_topk = true; }},
    {"scaled", [](esft::decoder_config& c) { c.routed_scale = 2.5; }},
    {"normalised_and_scaled", [](esft::decoder_config& c) { c.normalise_topk = true; c.routed_scale = 1.5; }},
    {"tied_head", [](esft::decoder_config& c) { c.tied_head = true; }},
    {"norm_per_head", [](esft::decoder_config& c) { c.attention.norm = query_key_norm::per_head; }},
    {"norm_full_width", [](esft::decoder_config& c) { c.attention.norm = query_key_norm::full_width; }},
    {"as_many_key_value_heads", [](esft::decoder_config& c) { c.attention.key_value_heads = 4; }},
    {"one_key_value_head", [](esft::decoder_config& c) { c.attention.key_value_heads = 1; }},
    {"heads_wider_than_the_model", [](esft::decoder_config& c) { c.attention.head_width = 6; }},
    {"every_expert_active", [](esft::decoder_config& c) { c.active = c.experts; }},
    {"one_expert_active", [](esft::decoder_config& c) { c.active = 1; }},
    {"balance_loss", [](esft::decoder_config&) {}, {.expert = 0.3}},
    {"balance_loss_across_layers", [](esft::decoder_config& c) { c.moe_layer = {true, true, true}; }, {.across_layers = 0.3}},
    {"balance_losses_of_sigmoids",
     [](esft::decoder_config& c) { c.router = esft::router_kind::sigmoid; },
     {.sequence = 0.2, .across_layers = 0.1}},
};
INSTANTIATE_TEST_SUITE_P(shapes, whole_model_gradient, ::testing::ValuesIn(variants),
                         [](const auto& info) { return info.param.name; });

// The check can fail: a gradient that is off by one part in a thousand, or by its sign, is not accepted.
TEST(central_differences, notice_a_wrong_gradient) {
  std::vector<double> x{0.5, -1.5};
  const auto loss = [&] { return x[0] * x[0] * x[1]; };
  const std::vector<double> gradient{2 * x[0] * x[1], x[0] * x[0]};
  esft_test::expect_central_differences(x, gradient, loss, "the right gradient");
  for (const double factor : {1.001, -1.0}) {
    const std::vector<double> wrong{gradient[0], factor * gradient[1]};
    EXPECT_NONFATAL_FAILURE(esft_test::expect_central_differences(x, wrong, loss, "wrong"), "wrong");
  }
}

}  // namespace gradients_tests
