// SPDX-License-Identifier: Apache-2.0
// What is trained gets exactly the gradient that full training would give it; what is frozen costs neither memory nor work.
#include "backend_list.hpp"
#include "tiny_model.hpp"

#include <esft/peft/plans.hpp>

#include <map>

namespace model_trainable_tests {

using esft::expert_index;
using esft::layer_index;
using esft::parameter_key;
using esft::parameter_role;
using esft_test::make_tiny;
using esft_test::tiny_batch;
using esft_test::tiny_config;

/// A selection that leaves one layer empty or not, never the same experts twice.
esft::expert_set selection(std::vector<std::int32_t> lower, std::vector<std::int32_t> upper) {
  esft::expert_set result;
  for (const std::int32_t e : lower) result.layers[layer_index{1}].push_back(expert_index{e});
  for (const std::int32_t e : upper) result.layers[layer_index{2}].push_back(expert_index{e});
  result.layers[layer_index{1}];
  result.layers[layer_index{2}];
  return result;
}

template <class Backend>
void train_only(Backend& backend, esft_test::tiny_decoder<Backend>& model, const esft::expert_set& experts) {
  esft::apply(backend, model.parameters, esft::esft_plan{experts, false, false}.trainable(esft::inventory(model.parameters)));
}

template <class Backend>
class partial_training : public ::testing::Test {};
TYPED_TEST_SUITE(partial_training, esft_test::backends, esft_test::backend_names);

TYPED_TEST(partial_training, gives_the_bits_of_the_full_gradient) {
  TypeParam backend;
  const esft::backward_options options{0.125, false, {}, 0, 1};
  auto full = make_tiny(backend, tiny_config());
  esft_test::train_everything(backend, full);
  const auto full_pass = full.accumulate_gradients(backend, tiny_batch(), options);
  const auto full_gradients = esft_test::gradients(backend, full);

  const esft::esft_plan plans[] = {
      {selection({0, 3}, {1, 2, 4}), false, false}, {selection({}, {0}), false, false}, {selection({4}, {}), true, false},
      {selection({1}, {3}), false, true},           {selection({}, {}), false, true},
      {selection({0, 1, 2, 3, 4}, {0, 1, 2, 3, 4}), true, true},
  };
  for (const auto& plan : plans) {
    auto model = make_tiny(backend, tiny_config());
    const auto inventory = esft::inventory(model.parameters);
    const auto trainable = plan.trainable(inventory);
    esft::apply(backend, model.parameters, trainable);
    const auto pass = model.accumulate_gradients(backend, tiny_batch(), options);
    EXPECT_EQ(pass.loss, full_pass.loss);
    std::int64_t elements = 0;
    for (const auto& [key, gradient] : esft_test::gradients(backend, model)) {
      elements += static_cast<std::int64_t>(gradient.size());
      EXPECT_EQ(gradient, full_gradients.at(key)) << esft_test::to_string(key.first) << " expert " << key.second;
    }
    EXPECT_EQ(elements, esft::trained_elements(trainable, inventory));
    EXPECT_GT(elements, 0);
  }
}

TYPED_TEST(partial_training, frozen_parameters_have_no_gradient_memory) {
  TypeParam backend;
  auto model = make_tiny(backend, tiny_config());
  esft_test::train_everything(backend, model);  // what was trained before must be given back
  train_only(backend, model, selection({2}, {0, 4}));
  std::map<parameter_key, esft::index> memory;
  esft::for_each_parameter(model.parameters, [&](parameter_key key, const auto& w) {
    if (w.gradient.data() != nullptr) memory[key] = w.gradient.size();
  });
  const std::map<parameter_key, esft::index> wanted{{{parameter_role::expert_gate_up, layer_index{1}}, 1 * 6 * 8},
                                                    {{parameter_role::expert_down, layer_index{1}}, 1 * 8 * 3},
                                                    {{parameter_role::expert_gate_up, layer_index{2}}, 2 * 6 * 8},
                                                    {{parameter_role::expert_down, layer_index{2}}, 2 * 8 * 3}};
  EXPECT_EQ(memory, wanted);
}

TYPED_TEST(partial_training, gradients_add_up_over_micro_batches) {
  TypeParam backend;
  const esft::backward_options options{0.125, false, {}, 0, 1};
  auto model = make_tiny(backend, tiny_config());
  esft_test::train_everything(backend, model);
  static_cast<void>(model.accumulate_gradients(backend, tiny_batch(), options));
  auto once = esft_test::gradients(backend, model);
  static_cast<void>(model.accumulate_gradients(backend, tiny_batch(), options));
  const double tolerance = std::is_same_v<esft::value_t<TypeParam>, double> ? 1e-14 : 1e-6;  // 2 g against g + g summed in another order
  for (const auto& [key, gradient] : esft_test::gradients(backend, model)) {
    for (double& value : once.at(key)) value *= 2;
    esft_test::expect_close(gradient, once.at(key), tolerance, esft_test::to_string(key.first));
  }
}

// The layers below the lowest trained one have no gradient, but the loss across layers counts them.
TYPED_TEST(partial_training, frozen_layers_count_for_the_balance_loss_across_layers) {
  TypeParam backend;
  esft::backward_options options{0.125};
  options.balance.across_layers = 0.5;
  const esft::parameter_key router{parameter_role::router, layer_index{2}};
  std::map<bool, esft_test::gradient_map> result;
  std::map<bool, double> loss;
  for (const bool recompute : {false, true}) {
    for (const bool everything : {true, false}) {
      auto model = make_tiny(backend, tiny_config());
      esft::trainable_set one;
      one.whole.insert(router);
      if (everything) {
        esft_test::train_everything(backend, model);
      } else {
        esft::apply(backend, model.parameters, one);
      }
      options.recompute = recompute;
      loss[everything] = model.accumulate_gradients(backend, tiny_batch(), options).balance_loss;
      result[everything] = esft_test::gradients(backend, model);
    }
    EXPECT_EQ(loss[true], loss[false]);
    EXPECT_GT(loss[true], 0);
    ASSERT_EQ(result[false].size(), 1U);
    EXPECT_EQ(result[false].begin()->first.first, router);
    EXPECT_EQ(result[false].begin()->second, result[true].at(result[false].begin()->first));
  }
}

TYPED_TEST(partial_training, recomputation_gives_the_same_bits) {
  TypeParam backend;
  for (const bool everything : {true, false}) {
    std::map<bool, esft_test::gradient_map> result;
    std::map<bool, esft::pass_result> pass;
    for (const bool recompute : {false, true}) {
      auto model = make_tiny(backend, tiny_config());
      esft_test::train_everything(backend, model);
      if (!everything) train_only(backend, model, selection({2}, {0, 4}));
      pass[recompute] = model.accumulate_gradients(backend, tiny_batch(), {0.125, recompute, {.expert = 0.1, .across_layers = 0.2}, 0, 1});
      result[recompute] = esft_test::gradients(backend, model);
    }
    EXPECT_EQ(pass[true].loss, pass[false].loss);
    EXPECT_EQ(pass[true].balance_loss, pass[false].balance_loss);
    EXPECT_EQ(result[true], result[false]);
    EXPECT_FALSE(result[true].empty());
  }
}

TYPED_TEST(partial_training, same_bits_when_run_twice) {
  TypeParam backend;
  const auto run = [&] {
    auto model = make_tiny(backend, tiny_config());
    esft_test::train_everything(backend, model);
    static_cast<void>(model.accumulate_gradients(backend, tiny_batch(), {}));
    return esft_test::gradients(backend, model);
  };
  EXPECT_EQ(run(), run());
}

TYPED_TEST(partial_training, an_expert_without_tokens_gets_exactly_zero) {
  TypeParam backend;
  auto config = tiny_config();
  config.experts = 40;  // 11 tokens choose 2 each: at least 18 get none
  auto model = make_tiny(backend, config);
  esft_test::train_everything(backend, model);
  std::set<std::pair<layer_index, std::int32_t>> used;
  static_cast<void>(model.evaluate(backend, tiny_batch(), [&](const esft::routing_record& record) {
    for (const std::int32_t e : record.ids) used.insert({record.layer, e});
  }));
  static_cast<void>(model.accumulate_gradients(backend, tiny_batch(), {}));
  int unused = 0;
  for (const auto& [key, gradient] : esft_test::gradients(backend, model)) {
    if (key.second < 0) continue;
    const bool zero = std::all_of(gradient.begin(), gradient.end(), [](double g) { return g == 0.0 && !std::signbit(g); });
    const bool finite = std::all_of(gradient.begin(), gradient.end(), [](double g) { return std::isfinite(g); });
    EXPECT_TRUE(finite);
    if (!used.contains({key.first.layer, key.second})) {
      EXPECT_TRUE(zero) << esft_test::to_string(key.first) << " expert " << key.second;
      ++unused;
    }
  }
  EXPECT_GE(unused, 2 * 2 * 18);
}

/// Counts the calls of the backward ops: what is not needed must not be computed.
class counting_backend : public esft::reference_backend<double> {
  using base = esft::reference_backend<double>;

 public:
  std::map<std::string, int> calls;

#define ESFT_COUNTED(op)                                        \
  template <class... Arguments>                                 \
    requires requires(base& b, Arguments&&... a) { b.op(a...); } \
  auto op(Arguments&&... arguments) {                           \
    ++calls[#op];                                               \
    return base::op(std::forward<Arguments>(arguments)...);     \
  }
  ESFT_COUNTED(linear_dx)
  ESFT_COUNTED(linear_dw)
  ESFT_COUNTED(logits_dx)
  ESFT_COUNTED(logits_dw)
  ESFT_COUNTED(grouped_linear)
  ESFT_COUNTED(grouped_linear_dx)
  ESFT_COUNTED(grouped_linear_dw)
  ESFT_COUNTED(attention_backward)
  ESFT_COUNTED(rms_norm_dx)
  ESFT_COUNTED(rms_norm_dw)
  ESFT_COUNTED(embedding_dw)
#undef ESFT_COUNTED
};
static_assert(esft::transformer_backend<counting_backend>);

std::map<std::string, int> calls_of(const esft::trainable_set& trainable, bool recompute = false) {
  counting_backend backend;
  auto model = make_tiny(backend, tiny_config());
  esft::apply(backend, model.parameters, trainable);
  backend.calls.clear();
  static_cast<void>(model.accumulate_gradients(backend, tiny_batch(), {1, recompute, {}, 0, 1}));
  return backend.calls;
}

esft::parameter_inventory tiny_inventory() {
  counting_backend backend;
  return esft::inventory(make_tiny(backend, tiny_config()).parameters);
}

TEST(work, full_training_differentiates_everything) {
  const auto calls = calls_of(esft::full_plan{}.trainable(tiny_inventory()));
  const std::map<std::string, int> wanted{{"attention_backward", 3},  {"embedding_dw", 1},      {"grouped_linear", 4},
                                          {"grouped_linear_dw", 4},   {"grouped_linear_dx", 4}, {"linear_dw", 3 * 4 + 3 * 2},
                                          {"linear_dx", 3 * 4 + 3 * 2}, {"logits_dw", 3},       {"logits_dx", 3},
                                          {"rms_norm_dw", 7},         {"rms_norm_dx", 7}};
  EXPECT_EQ(calls, wanted);
}

TEST(work, experts_of_the_top_layer_need_nothing_below_them) {
  const auto calls = calls_of(esft::esft_plan{selection({}, {1, 3}), false, false}.trainable(tiny_inventory()));
  // The head's and the final norm's input gradient, then a product back to the hidden units for each of the two experts, of their rows
  // alone, and two weight gradients.
  const std::map<std::string, int> wanted{
      {"grouped_linear", 4}, {"grouped_linear_dw", 2}, {"linear_dx", 2}, {"logits_dx", 1}, {"rms_norm_dx", 1}};
  EXPECT_EQ(calls, wanted);
}

TEST(work, experts_of_two_layers_stop_at_the_lower_one) {
  const auto calls = calls_of(esft::esft_plan{selection({0}, {1, 3}), false, false}.trainable(tiny_inventory()));
  const std::map<std::string, int> wanted{{"attention_backward", 1},  // of the upper layer only
                                          {"grouped_linear", 4},
                                          {"grouped_linear_dw", 4},
                                          {"grouped_linear_dx", 2},   // both products of the upper layer
                                          {"linear_dx", 4 + 2 + 1},   // its projections and shared experts; the lower layer's one expert
                                          {"logits_dx", 2},           // head, and the upper router into the hidden state
                                          {"rms_norm_dx", 3}};
  EXPECT_EQ(calls, wanted);
}

TEST(work, recomputation_repeats_the_forward_of_the_differentiated_layers_only) {
  const auto plan = esft::esft_plan{selection({}, {1, 3}), false, false}.trainable(tiny_inventory());
  EXPECT_EQ(calls_of(plan, true).at("grouped_linear"), 4 + 2);
  EXPECT_EQ(calls_of(plan, false).at("grouped_linear"), 4);
}

TEST(work, a_trained_head_alone_needs_no_backward) {
  esft::trainable_set only_head;
  only_head.whole.insert({parameter_role::head, layer_index{-1}});
  const std::map<std::string, int> wanted{{"grouped_linear", 4}, {"logits_dw", 1}};
  EXPECT_EQ(calls_of(only_head), wanted);
}

TEST(applying_a_set, refuses_what_the_model_does_not_have) {
  counting_backend backend;
  auto model = make_tiny(backend, tiny_config());
  const auto refuses = [&](const esft::trainable_set& set) {
    EXPECT_THROW(esft::apply(backend, model.parameters, set), esft::usage_error);
  };
  refuses({});
  refuses({{{parameter_role::query_norm, layer_index{0}}}, {}});
  refuses({{}, {{layer_index{0}, {expert_index{0}}}}});   // the dense layer
  refuses({{}, {{layer_index{9}, {expert_index{0}}}}});
  refuses({{}, {{layer_index{1}, {expert_index{5}}}}});
  refuses({{}, {{layer_index{1}, {expert_index{-1}}}}});
  EXPECT_NO_THROW(esft::apply(backend, model.parameters, {{}, {{layer_index{1}, {expert_index{4}}}}}));
  EXPECT_NO_THROW(esft::apply(backend, model.parameters, {{{parameter_role::query, layer_index{0}}}, {}}));
}

}  // namespace model_trainable_tests
