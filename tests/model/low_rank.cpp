// SPDX-License-Identifier: Apache-2.0
// Low-rank factors beside frozen matrices: gradients against central differences, B = 0 is the base bit for bit, merging gives the same
// model, and nothing exists for what has no factors.
#include "backend_list.hpp"
#include "low_rank_factors.hpp"

#include <esft/peft/plans.hpp>

#include <map>
#include <optional>

namespace low_rank_tests {

using esft::expert_index;
using esft::layer_index;
using esft::low_rank_factor;
using esft::parameter_key;
using esft::parameter_role;
using esft_test::adapted;
using esft_test::factor_gradients;
using esft_test::for_each_factor;
using esft_test::logits;
using esft_test::make_tiny;
using esft_test::randomise_factors;
using esft_test::tiny_batch;
using esft_test::tiny_config;
using esft_test::subject;
using oracle = esft::reference_backend<double>;

const std::vector<std::string> all_targets{"attention", "dense", "shared", "experts", "router", "head"};

esft::expert_set selection(std::vector<std::int32_t> lower, std::vector<std::int32_t> upper) {
  esft::expert_set result;
  result.layers[layer_index{1}];
  result.layers[layer_index{2}];
  for (const std::int32_t e : lower) result.layers[layer_index{1}].push_back(expert_index{e});
  for (const std::int32_t e : upper) result.layers[layer_index{2}].push_back(expert_index{e});
  return result;
}

esft::lora_plan plan(const std::vector<std::string>& targets = all_targets, std::optional<esft::expert_set> experts = {},
                     double dropout = 0) {
  return {{.rank = 2, .alpha = 3, .dropout = dropout, .seed = 4}, esft::low_rank_roles(targets), std::move(experts)};
}

struct variant {
  std::string name;
  std::vector<std::string> targets = all_targets;
  std::optional<esft::expert_set> experts{};
  double dropout = 0;
  bool recompute = false;
};
void PrintTo(const variant& v, std::ostream* out) { *out << v.name; }
class low_rank_gradient : public ::testing::TestWithParam<variant> {};

TEST_P(low_rank_gradient, equals_central_differences) {
  oracle b;
  subject s;
  const variant& v = GetParam();
  auto model = adapted(b, plan(v.targets, v.experts, v.dropout));
  auto tested = adapted(s, plan(v.targets, v.experts, v.dropout));
  randomise_factors(b, model);
  randomise_factors(s, tested);
  esft::backward_options options;
  options.loss_scale = 0.125;
  options.recompute = v.recompute;
  options.dropout_draw = 9;
  static_cast<void>(tested.accumulate_gradients(s, tiny_batch(), options));
  const auto gradients = factor_gradients(s, tested);
  EXPECT_FALSE(gradients.empty());
  const auto loss = [&] { return options.loss_scale * model.accumulate_gradients(b, tiny_batch(), options).loss; };
  for_each_factor(model, [&](parameter_key key, auto& factor) {
    esft_test::expect_central_differences({factor.value.data(), static_cast<std::size_t>(factor.value.size())}, gradients.at(key), loss,
                                          esft_test::to_string(key) + (key.factor == low_rank_factor::a ? " A" : " B"), 48, esft_test::rule_of<subject>);
  });
}

const variant variants[] = {
    {"everything"},
    {"default_targets", {"attention", "dense", "shared", "experts"}},
    {"selected_experts", {"experts"}, selection({0, 3}, {1, 2, 4})},
    {"no_expert_in_the_lower_layer", {"experts"}, selection({}, {4})},
    {"gate_up_alone", {"experts_gate_up"}},
    {"down_alone", {"experts_down"}},
    {"attention", {"attention"}},
    {"head", {"head"}},
    {"dropout", all_targets, selection({0, 1, 2, 3, 4}, {1, 3}), 0.3},
    {"recomputed_with_dropout", all_targets, selection({0, 1, 2, 3, 4}, {1, 3}), 0.3, true},
};
INSTANTIATE_TEST_SUITE_P(targets, low_rank_gradient, ::testing::ValuesIn(variants), [](const auto& info) { return info.param.name; });

TEST(low_rank_beside_trained_experts, both_have_the_gradients_of_central_differences) {
  oracle b;
  subject s;
  esft::hybrid_plan both;
  both.whole.experts = selection({0}, {2, 4});
  both.factors = plan({"experts"}, selection({0, 3}, {1, 2}));
  auto model = adapted(b, both);
  auto tested = adapted(s, both);
  randomise_factors(b, model);
  randomise_factors(s, tested);
  esft::backward_options options;
  options.loss_scale = 0.125;
  static_cast<void>(tested.accumulate_gradients(s, tiny_batch(), options));
  const auto factors = factor_gradients(s, tested);
  EXPECT_EQ(factors.size(), 2U * 2U * 2U);
  std::map<parameter_key, std::vector<double>> slices;
  esft::for_each_parameter(tested.parameters, [&](parameter_key key, auto& w) {
    if (w.trained()) slices[key] = esft_test::to_host(s, w.gradient);
  });
  EXPECT_EQ(slices.size(), 2U * 2U);
  const auto loss = [&] { return options.loss_scale * model.accumulate_gradients(b, tiny_batch(), options).loss; };
  for_each_factor(model, [&](parameter_key key, auto& factor) {
    esft_test::expect_central_differences({factor.value.data(), static_cast<std::size_t>(factor.value.size())}, factors.at(key), loss,
                                          esft_test::to_string(key), 12, esft_test::rule_of<subject>);
  });
  esft::for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    if (!w.trained()) return;
    const auto [rows, columns] = w.part_shape();
    const auto part = static_cast<std::size_t>(rows * columns);
    for (std::size_t s = 0; s < w.selected.size(); ++s) {
      const std::vector<double> gradient(slices.at(key).begin() + static_cast<std::ptrdiff_t>(s * part),
                                         slices.at(key).begin() + static_cast<std::ptrdiff_t>((s + 1) * part));
      double* values = w.value.data() + static_cast<std::size_t>(w.selected[s]) * part;
      esft_test::expect_central_differences({values, part}, gradient, loss, esft_test::to_string(key), 12, esft_test::rule_of<subject>);
    }
  });
}

template <class Backend>
class low_rank : public ::testing::Test {};
TYPED_TEST_SUITE(low_rank, esft_test::backends, esft_test::backend_names);

TYPED_TEST(low_rank, begins_as_the_base_bit_for_bit) {
  TypeParam backend;
  const auto base = make_tiny(backend, tiny_config());
  auto model = adapted(backend, plan());
  EXPECT_EQ(logits(backend, model), logits(backend, base));
  EXPECT_EQ(model.evaluate(backend, tiny_batch()).loss, base.evaluate(backend, tiny_batch()).loss);
  randomise_factors(backend, model);
  EXPECT_NE(logits(backend, model), logits(backend, base));  // the twin
}

TYPED_TEST(low_rank, merged_gives_the_same_logits) {
  TypeParam backend;
  auto model = adapted(backend, plan(all_targets, selection({0, 3}, {1, 2, 4})));
  randomise_factors(backend, model);
  const auto with_factors = logits(backend, model);
  esft::for_each_parameter(model.parameters, [&](parameter_key, auto& w) {
    if (!w.low_rank) return;
    const auto pair = std::move(w.low_rank);
    const auto shape = w.part_shape();
    const auto rank = static_cast<std::size_t>(pair->how.rank);
    for (esft::index part = 0; part < pair->a.parts(); ++part) {
      std::vector<float> merged(static_cast<std::size_t>(shape[0] * shape[1]));
      std::vector<float> a(rank * static_cast<std::size_t>(shape[1]));
      std::vector<float> b(rank * static_cast<std::size_t>(shape[0]));
      const auto rows = w.rows(pair->experts.empty() ? 0 : pair->experts[static_cast<std::size_t>(part)], 0, shape[0]);
      esft::copy_out(backend, rows, std::span<float>(merged));
      esft::copy_out(backend, pair->a.rows(part, 0, pair->how.rank), std::span<float>(a));
      esft::copy_out(backend, pair->b.rows(part, 0, shape[0]), std::span<float>(b));
      esft::add_low_rank(merged, a, b, rank, pair->how.scale());
      esft::copy_in(backend, std::span<const float>(merged), rows);
    }
  });
  const auto after = logits(backend, model);
  esft_test::expect_close({after.begin(), after.end()}, {with_factors.begin(), with_factors.end()}, 2e-6, "merged logits");
}

TYPED_TEST(low_rank, gradients_equal_the_oracle) {
  TypeParam backend;
  oracle exact;
  for (const double dropout : {0.0, 0.25}) {
    auto want = adapted(exact, plan(all_targets, selection({0, 3}, {1, 2, 4}), dropout));
    auto model = adapted(backend, plan(all_targets, selection({0, 3}, {1, 2, 4}), dropout));
    randomise_factors(exact, want);
    randomise_factors(backend, model);
    static_cast<void>(want.accumulate_gradients(exact, tiny_batch(), {0.125}));
    static_cast<void>(model.accumulate_gradients(backend, tiny_batch(), {0.125}));
    const auto gradients = factor_gradients(exact, want);
    for_each_factor(model, [&](parameter_key key, auto& factor) {
      esft_test::expect_close(esft_test::to_host(backend, factor.gradient), gradients.at(key), 2e-5, esft_test::to_string(key));
    });
  }
}

TYPED_TEST(low_rank, memory_exists_for_factors_alone) {
  TypeParam backend;
  auto model = make_tiny(backend, tiny_config());
  const auto inventory = esft::inventory(model.parameters);
  const auto trainable = plan({"query", "experts"}, selection({2}, {0, 4})).trainable(inventory);
  esft::apply(backend, model.parameters, trainable);
  std::int64_t elements = 0;
  for_each_factor(model, [&](parameter_key, auto& factor) { elements += factor.gradient.size(); });
  EXPECT_EQ(elements, esft::trained_elements(trainable, inventory));
  EXPECT_EQ(elements, 3 * 2 * (16 + 8) + 3 * (2 * (6 + 8) + 2 * (8 + 3)));
  esft::for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    EXPECT_FALSE(w.trained()) << esft_test::to_string(key);
    EXPECT_EQ(w.low_rank != nullptr, trainable.low_rank.contains(key)) << esft_test::to_string(key);
  });
  esft::apply(backend, model.parameters, esft::esft_plan{selection({1}, {1})}.trainable(inventory));  // gives them back
  for_each_factor(model, [&](parameter_key key, auto&) { ADD_FAILURE() << esft_test::to_string(key); });
}

// What one expert's factors are and become does not depend on who else has some.
TYPED_TEST(low_rank, of_an_expert_are_the_same_whoever_else_is_selected) {
  TypeParam backend;
  auto few = adapted(backend, plan({"experts"}, selection({3}, {1, 4})));
  auto many = adapted(backend, plan({"experts"}));
  static_cast<void>(few.accumulate_gradients(backend, tiny_batch(), {0.125}));
  static_cast<void>(many.accumulate_gradients(backend, tiny_batch(), {0.125}));
  int compared = 0;
  for (const std::size_t l : {1U, 2U}) {
    const auto compare = [&](auto& some, auto& all) {
      const auto part = [&](auto& factor, auto rows) {
        std::vector<double> values(static_cast<std::size_t>(factor.part_shape()[0] * factor.part_shape()[1]));
        esft::copy_out(backend, rows, std::span<double>(values));
        return values;
      };
      for (std::size_t s = 0; s < some.experts.size(); ++s) {
        const auto here = static_cast<esft::index>(s);
        const auto there = static_cast<esft::index>(some.experts[s]);
        const auto rank = some.how.rank;
        EXPECT_EQ(part(some.a, some.a.rows(here, 0, rank)), part(all.a, all.a.rows(there, 0, rank)));
        const auto height = some.b.part_shape()[0];
        EXPECT_EQ(part(some.b, some.b.gradient_rows(here, 0, height)), part(all.b, all.b.gradient_rows(there, 0, height)));
        ++compared;
      }
    };
    compare(*few.parameters.blocks[l].moe.gate_up.low_rank, *many.parameters.blocks[l].moe.gate_up.low_rank);
    compare(*few.parameters.blocks[l].moe.down.low_rank, *many.parameters.blocks[l].moe.down.low_rank);
  }
  EXPECT_EQ(compared, 6);
}

TYPED_TEST(low_rank, dropout_is_drawn_anew_for_each_batch_and_off_in_evaluation) {
  TypeParam backend;
  auto model = adapted(backend, plan(all_targets, {}, 0.5));
  auto without = adapted(backend, plan());
  randomise_factors(backend, model);
  randomise_factors(backend, without);
  esft::backward_options first;
  first.dropout_draw = 1;
  esft::backward_options second;
  second.dropout_draw = 2;
  const double loss = model.accumulate_gradients(backend, tiny_batch(), first).loss;
  EXPECT_NE(loss, model.accumulate_gradients(backend, tiny_batch(), second).loss);
  EXPECT_EQ(loss, model.accumulate_gradients(backend, tiny_batch(), first).loss);
  EXPECT_EQ(model.evaluate(backend, tiny_batch()).loss, without.evaluate(backend, tiny_batch()).loss);
  EXPECT_NE(loss, model.evaluate(backend, tiny_batch()).loss);
}

TEST(low_rank_dropout, drops_the_asked_share_and_keeps_the_mean) {
  oracle b;
  esft::weight<oracle, 2, parameter_role::query> w;
  esft::allocate(b, w, {4, 501});
  esft::make_low_rank(b, w, {.rank = 1, .dropout = 0.3}, {}, 1);
  w.low_rank->draw = 3;
  const auto ones = esft_test::make<double>(b, esft::extents<2>{200, 501}, std::vector<double>(200 * 501, 1.0));
  const esft::detail::dropped_input<oracle> seen(b, {ones.view()}, *w.low_rank);
  double kept = 0;
  for (const double value : esft_test::to_host(
           b, esft_test::make<double>(b, esft::extents<1>{200 * 501}, std::vector<double>(seen().data(), seen().data() + 200 * 501)))) {
    EXPECT_TRUE(value == 0 || value == 1 / 0.7);
    kept += value > 0 ? 1 : 0;
  }
  EXPECT_NEAR(kept / (200 * 501), 0.7, 0.006);  // four standard deviations
}

TEST(low_rank_plan, refuses_what_the_model_does_not_have) {
  oracle b;
  auto model = make_tiny(b, tiny_config());
  const auto refuses = [&](const esft::trainable_set& set) { EXPECT_THROW(esft::apply(b, model.parameters, set), esft::usage_error); };
  const parameter_key down{parameter_role::expert_down, layer_index{1}};
  refuses({{}, {}, {{{parameter_role::query, layer_index{9}}, {}}}});
  refuses({{}, {}, {{{parameter_role::attention_norm, layer_index{0}}, {}}}});
  refuses({{}, {}, {{down, {{}, {expert_index{5}}}}}});
  refuses({{}, {{layer_index{1}, {expert_index{2}}}}, {{down, {{}, {expert_index{1}, expert_index{2}}}}}});  // trained and adapted at once
  refuses({{{parameter_role::query, layer_index{0}}}, {}, {{{parameter_role::query, layer_index{0}}, {}}}});
  EXPECT_NO_THROW(esft::apply(b, model.parameters, {{}, {{layer_index{1}, {expert_index{2}}}}, {{down, {{}, {expert_index{1}}}}}}));
}

// Selected experts trained whole beside others that have factors: each gets the gradient that it gets alone.
TEST(low_rank_plan, may_stand_beside_trained_experts) {
  oracle b;
  const parameter_key down{parameter_role::expert_down, layer_index{2}};
  const esft::trainable_set whole{{}, {{layer_index{2}, {expert_index{0}}}}, {}};
  const esft::trainable_set factors{{}, {}, {{down, {{.rank = 2, .seed = 4}, {expert_index{1}, expert_index{3}}}}}};
  const esft::trainable_set both{{}, whole.experts, factors.low_rank};
  const auto run = [&](const esft::trainable_set& set) {
    auto model = make_tiny(b, tiny_config());
    esft::apply(b, model.parameters, set);
    static_cast<void>(model.accumulate_gradients(b, tiny_batch(), {0.125}));
    return std::pair(esft_test::gradients(b, model), factor_gradients(b, model));
  };
  EXPECT_EQ(run(both).first, run(whole).first);
  EXPECT_EQ(run(both).second, run(factors).second);
  EXPECT_FALSE(run(both).first.empty());
  EXPECT_FALSE(run(both).second.empty());
}

}  // namespace low_rank_tests
