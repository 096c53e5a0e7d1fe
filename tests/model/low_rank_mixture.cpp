// SPDX-License-Identifier: Apache-2.0
// Low-rank experts beside frozen matrices: gradients of pairs and routers against central differences, B = 0 is the base bit for bit, one
// pair is plain LoRA, null experts add nothing, and backends agree.
#include "backend_list.hpp"
#include "low_rank_factors.hpp"

#include <esft/peft/plans.hpp>

#include <map>

namespace low_rank_mixture_tests {

using esft::low_rank_factor;
using esft::parameter_key;
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

/// Two layers with a choice and one between them without, unless a test says otherwise.
esft::hilo_plan plan() {
  esft::hilo_plan result;
  result.how = {.alpha = 3, .seed = 4};
  result.low_rank_experts = {3, 1, 4};
  result.ranks = {2, 3, 1};
  result.active = {2};
  result.targets = esft::low_rank_roles({"query", "output", "dense", "shared"});
  return result;
}

struct variant {
  std::string name;
  esft::hilo_plan plan;
  bool recompute = false;
};
void PrintTo(const variant& v, std::ostream* out) { *out << v.name; }

std::vector<variant> variants() {
  std::vector<variant> all{{"top_2", plan()}, {"recomputed", plan(), true}};
  all.push_back({"top_1", plan()});
  all.back().plan.active = {1};
  all.push_back({"all_active", plan()});
  all.back().plan.active = {3, 1, 4};
  all.push_back({"null_experts", plan()});
  all.back().plan.null_experts = 2;
  all.push_back({"balanced", plan()});
  all.back().plan.balance = 0.2;
  all.push_back({"null_experts_balanced_with_dropout", plan(), true});
  all.back().plan.null_experts = 1;
  all.back().plan.balance = 0.2;
  all.back().plan.how.dropout = 0.3;
  return all;
}
class low_rank_mixture_gradient : public ::testing::TestWithParam<variant> {};

TEST_P(low_rank_mixture_gradient, equals_central_differences) {
  oracle b;
  subject s;
  const variant& v = GetParam();
  auto model = adapted(b, v.plan);
  auto tested = adapted(s, v.plan);
  randomise_factors(b, model);
  randomise_factors(s, tested);
  esft::backward_options options;
  options.loss_scale = 0.125;
  options.recompute = v.recompute;
  options.dropout_draw = 9;
  const auto first = tested.accumulate_gradients(s, tiny_batch(), options);
  EXPECT_EQ(first.balance_loss > 0, v.plan.balance > 0);
  const auto gradients = factor_gradients(s, tested);
  const auto loss = [&] {
    const auto pass = model.accumulate_gradients(b, tiny_batch(), options);
    return options.loss_scale * pass.loss + pass.balance_loss;
  };
  int routers = 0;
  int learning = 0;
  for_each_factor(model, [&](parameter_key key, auto& factor) {
    static constexpr const char* names[] = {"", " A", " B", " router"};
    routers += key.factor == low_rank_factor::router ? 1 : 0;
    const auto& gradient = gradients.at(key);
    learning += std::any_of(gradient.begin(), gradient.end(), [](double g) { return g != 0; }) ? 1 : 0;
    esft_test::expect_central_differences({factor.value.data(), static_cast<std::size_t>(factor.value.size())}, gradient, loss,
                                          esft_test::to_string(key) + names[static_cast<std::size_t>(key.factor)], 6,
                                          esft_test::rule_of<subject>);
  });
  EXPECT_GT(routers, 1);
  EXPECT_GT(learning, 3 * routers / 2);  // tokens are few: of some routers every one takes a single real expert, whose gate is 1
}
INSTANTIATE_TEST_SUITE_P(plans, low_rank_mixture_gradient, ::testing::ValuesIn(variants()), [](const auto& i) { return i.param.name; });

template <class Backend>
class low_rank_mixture : public ::testing::Test {};
TYPED_TEST_SUITE(low_rank_mixture, esft_test::backends, esft_test::backend_names);

TYPED_TEST(low_rank_mixture, begins_as_the_base_bit_for_bit) {
  TypeParam backend;
  const auto base = make_tiny(backend, tiny_config());
  auto model = adapted(backend, plan());
  EXPECT_EQ(logits(backend, model), logits(backend, base));
  EXPECT_EQ(model.evaluate(backend, tiny_batch()).loss, base.evaluate(backend, tiny_batch()).loss);
  randomise_factors(backend, model);
  EXPECT_NE(logits(backend, model), logits(backend, base));  // the twin
}

TYPED_TEST(low_rank_mixture, gradients_equal_the_oracle) {
  TypeParam backend;
  oracle exact;
  for (const int nulls : {0, 2}) {
    auto how = plan();
    how.null_experts = nulls;
    how.balance = 0.1;
    how.how.dropout = nulls > 0 ? 0.25 : 0;
    auto want = adapted(exact, how);
    auto model = adapted(backend, how);
    randomise_factors(exact, want);
    randomise_factors(backend, model);
    const auto a = want.accumulate_gradients(exact, tiny_batch(), {0.125});
    const auto b = model.accumulate_gradients(backend, tiny_batch(), {0.125});
    EXPECT_NEAR(b.balance_loss, a.balance_loss, 1e-5 * a.balance_loss);
    const auto gradients = factor_gradients(exact, want);
    for_each_factor(model, [&](parameter_key key, auto& factor) {
      esft_test::expect_close(esft_test::to_host(backend, factor.gradient), gradients.at(key), 3e-5, esft_test::to_string(key));
    });
  }
}

// The sum over the chosen pairs, by hand: y - x W^T = sum of g_e s (x A_e^T) B_e^T.
TEST(low_rank_mixture_sum, is_that_of_the_chosen_pairs_weighted_by_their_gates) {
  oracle b;
  esft::weight<oracle, 2, esft::parameter_role::query> w;
  esft::allocate(b, w, {2, 2});
  esft::copy_in(b, std::span<const double>(std::vector<double>{1, 0, 0, 1}), w);
  for (const int nulls : {0, 1}) {
    esft::make_low_rank_mixture(b, w, {.rank = 1, .alpha = 2}, {.experts = 3 - nulls, .active = 2, .null_experts = nulls}, 1);
    auto& m = *w.mixture;
    // logits of x = (1, 0) are 1, 0, 3 and of (0, 1) 4, 2, 0: the tokens choose {2, 0} and {0, 1}; with nulls the last one is null
    esft::copy_in(b, std::span<const double>(std::vector<double>{1, 4, 0, 2, 3, 0}), m.router);
    const std::vector<double> a{1, 2, 3, 4, 5, 6};
    const std::vector<double> up{1, 1, 10, 10, 100, 100};
    const auto count = static_cast<std::size_t>(2 * (3 - nulls));
    esft::copy_in(b, std::span<const double>(a).first(count), m.pairs.a);
    esft::copy_in(b, std::span<const double>(up).first(count), m.pairs.b);
    const auto x = esft_test::make<double>(b, esft::extents<2>{2, 2}, std::vector<double>{1, 0, 0, 1});
    const auto y = esft_test::to_host(b, esft::linear_forward(b, x.view(), w));
    const auto gate = [](double mine, double other) { return std::exp(mine) / (std::exp(mine) + std::exp(other)); };
    const double first = nulls == 0 ? gate(3, 1) * 2 * 5 * 100 + gate(1, 3) * 2 * 1 * 1 : 2 * 1 * 1;  // a null leaves the other all of it
    const double second = gate(4, 2) * 2 * 2 * 1 + gate(2, 4) * 2 * 4 * 10;
    EXPECT_NEAR(y[0], 1 + first, 1e-12 * first);
    EXPECT_NEAR(y[1], first, 1e-12 * first);
    EXPECT_NEAR(y[2], second, 1e-12 * second);
    EXPECT_NEAR(y[3], 1 + second, 1e-12 * second);
  }
}

// One pair: the plan makes plain factors, and the routed machinery computes what they compute.
TYPED_TEST(low_rank_mixture, of_one_pair_is_lora) {
  TypeParam backend;
  auto how = plan();
  how.low_rank_experts = {1};
  how.ranks = {2};
  const auto inventory = esft::inventory(make_tiny(backend, tiny_config()).parameters);
  const esft::lora_plan lora{{.rank = 2, .alpha = 3, .seed = 4}, plan().targets, {}};
  EXPECT_EQ(how.trainable(inventory).low_rank, lora.trainable(inventory).low_rank);

  auto plain = make_tiny(backend, tiny_config());
  esft::apply(backend, plain.parameters, lora.trainable(inventory));
  auto routed = make_tiny(backend, tiny_config());
  esft::apply(backend, routed.parameters, lora.trainable(inventory));
  randomise_factors(backend, plain);
  randomise_factors(backend, routed);
  esft::for_each_parameter(routed.parameters, [&](parameter_key, auto& w) {
    if constexpr (esft::detail::takes_mixture<std::remove_cvref_t<decltype(w)>>) {
      if (!w.low_rank) return;
      const auto pair = std::move(w.low_rank);
      esft::make_low_rank_mixture(backend, w, pair->how, {.experts = 1, .active = 1}, pair->stream);
      for (const bool is_a : {true, false}) {
        const auto values = esft_test::to_host(backend, (is_a ? pair->a.value : pair->b.value));
        std::vector<double> host(values.begin(), values.end());
        is_a ? esft::copy_in(backend, std::span<const double>(host), w.mixture->pairs.a)
             : esft::copy_in(backend, std::span<const double>(host), w.mixture->pairs.b);
      }
      w.mixture->router.train(backend);
      w.mixture->pairs.a.train(backend);
      w.mixture->pairs.b.train(backend);
    }
  });
  const auto want = logits(backend, plain);
  const auto got = logits(backend, routed);
  esft_test::expect_close({got.begin(), got.end()}, {want.begin(), want.end()}, 2e-6, "logits");
  static_cast<void>(plain.accumulate_gradients(backend, tiny_batch(), {0.125}));
  static_cast<void>(routed.accumulate_gradients(backend, tiny_batch(), {0.125}));
  const auto gradients = factor_gradients(backend, plain);
  for_each_factor(routed, [&](parameter_key key, auto& factor) {
    const auto gradient = esft_test::to_host(backend, factor.gradient);
    if (key.factor == low_rank_factor::router) {
      for (const double g : gradient) EXPECT_EQ(g, 0) << "a lone gate is 1 whatever the router says";
    } else {
      esft_test::expect_close(gradient, gradients.at(key), 1e-5, esft_test::to_string(key));
    }
  });
}

TYPED_TEST(low_rank_mixture, padding_does_not_count_for_the_balance_loss) {
  TypeParam backend;
  auto how = plan();
  how.balance = 1;
  auto model = adapted(backend, how);
  randomise_factors(backend, model);
  const auto batch = tiny_batch();
  auto other = batch;
  for (std::size_t t = 0; t < other.tokens.size(); ++t) {
    if (other.sample[t] < 0) other.tokens[t] = 6;
  }
  const double padded = model.accumulate_gradients(backend, batch, {0.125}).balance_loss;
  EXPECT_EQ(model.accumulate_gradients(backend, other, {0.125}).balance_loss, padded);
  other.tokens[1] = 6;  // the twin
  EXPECT_NE(model.accumulate_gradients(backend, other, {0.125}).balance_loss, padded);
}

TEST(low_rank_mixture_set, is_applied_where_it_can_be_and_refused_elsewhere) {
  oracle b;
  auto model = make_tiny(b, tiny_config());
  const auto inventory = esft::inventory(model.parameters);
  const auto trainable = plan().trainable(inventory);
  esft::apply(b, model.parameters, trainable);
  std::int64_t elements = 0;
  for_each_factor(model, [&](parameter_key, auto& factor) { elements += factor.gradient.size(); });
  EXPECT_EQ(elements, esft::trained_elements(trainable, inventory));
  for (const auto role : {esft::parameter_role::expert_down, esft::parameter_role::router}) {
    esft::low_rank_target target{{.rank = 2}, {}, {.experts = 2, .active = 1}};
    if (role == esft::parameter_role::expert_down) target.experts = {esft::expert_index{0}};
    esft::trainable_set set;
    set.low_rank.emplace(parameter_key{role, esft::layer_index{1}}, target);
    EXPECT_THROW(esft::apply(b, model.parameters, set), esft::usage_error);
    set.low_rank.begin()->second.mixture = {};
    EXPECT_NO_THROW(esft::apply(b, model.parameters, set));
  }
  for_each_factor(model, [&](parameter_key key, auto&) { EXPECT_TRUE(key.role == esft::parameter_role::router); });  // the last set's
}

}  // namespace low_rank_mixture_tests
