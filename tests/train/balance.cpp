// SPDX-License-Identifier: Apache-2.0
// Losses on the routers reach the report and the gradient of a step: each by itself, against the function of one layer.
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/moe/balance_across_layers.hpp>
#include <esft/peft/plan.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace train_balance_tests {

using exact = esft::reference_backend<double>;

/// What a router saw and decided, call by call.
struct decisions {
  struct one {
    esft::tensor_t<exact, double, 2> logits;
    esft::routing<exact> routing;
  };
  std::vector<one> list;
};

/// The softmax router that also writes down what it decides.
struct watched_router {
  esft::softmax_topk_router inner;
  std::shared_ptr<decisions> seen = std::make_shared<decisions>();

  [[nodiscard]] esft::index active() const { return inner.active(); }
  template <esft::backend Backend>
  [[nodiscard]] esft::routing<Backend> route(Backend& backend, esft::view_t<Backend, const esft::accum_t<Backend>, 2> logits) const {
    auto result = inner.route(backend, logits);
    decisions::one copy{backend.template make_tensor<double>(logits.shape()), inner.route(backend, logits)};
    backend.copy(logits, copy.logits.view());
    seen->list.push_back(std::move(copy));
    return result;
  }
  template <esft::backend Backend>
  void backward(Backend& backend, const esft::routing<Backend>& decision, esft::view_t<Backend, const esft::accum_t<Backend>, 2> dweights,
                esft::view_t<Backend, const esft::accum_t<Backend>, 2> dprobabilities,
                esft::view_t<Backend, esft::accum_t<Backend>, 2> dlogits) const {
    inner.backward(backend, decision, dweights, dprobabilities, dlogits);
  }
};
using watched_model = esft::decoder<exact, watched_router>;

/// What one step did, of a model that begins the same each time.
struct step_result {
  esft::step_report report;
  std::vector<double> gradient;  ///< of everything
  std::vector<double> weights;   ///< after the step
  double expected = 0;           ///< balance loss by the functions of layers
};

step_result one_step(const esft::balance_terms& terms, double z, const std::vector<esft::token_batch>& micro_batches,
                     bool recompute = false) {
  exact backend;
  const watched_router router{esft::softmax_topk_router(2)};
  watched_model model(backend, tiny::config(), router);
  esft::initialise(backend, model.parameters, model.config, 5);
  esft::trainable_set all;
  for (const auto& entry : esft::inventory(model.parameters)) all.whole.insert(entry.key);
  esft::apply(backend, model.parameters, all);
  esft::trainer_options options;
  options.adamw.beta1 = 0;  // the first moment is the gradient
  options.clip_norm = 0;
  options.balance = terms;
  options.z_loss = z;
  options.recompute = recompute;
  esft::trainer<watched_model> run(backend, model, options);
  step_result result;
  result.report = run.step(micro_batches);
  result.gradient = tiny::on_host(backend, run.optimizer.first_moment.all());
  result.weights = tiny::on_host(backend, run.optimizer.master.all());

  esft::balance_terms layer = terms;
  layer.across_layers = 0;
  const std::size_t layers = 2;  // that route
  const std::size_t calls = router.seen->list.size() / micro_batches.size();  // twice as many where the forward runs again
  EXPECT_EQ(calls, recompute ? 2 * layers : layers);
  for (std::size_t m = 0; m < micro_batches.size(); ++m) {
    auto sample = backend.template make_tensor<std::int32_t>(esft::extents<1>{static_cast<esft::index>(micro_batches[m].sample.size())});
    backend.copy_in(std::span<const std::int32_t>(micro_batches[m].sample), sample.view());
    esft::balance_across_layers together;
    double sum = 0;
    for (std::size_t l = 0; l < layers; ++l) {
      const auto& [logits, decision] = router.seen->list[m * calls + l];
      sum += esft::balance_loss(backend, decision, layer, std::as_const(sample).view()).loss;
      together.add(backend, decision, std::as_const(sample).view());
      auto ignored = backend.template make_tensor<double>(logits.shape());
      backend.fill(ignored.view(), 0.0);
      sum += esft::z_loss(backend, logits.view(), z, std::as_const(sample).view(), 1, ignored.view());
    }
    result.expected += (sum + together.loss(terms.across_layers)) / static_cast<double>(micro_batches.size());
  }
  return result;
}

struct term {
  std::string name;
  esft::balance_terms balance = {};
  double z = 0;
};
void PrintTo(const term& t, std::ostream* out) { *out << t.name; }

class losses_on_routers : public ::testing::TestWithParam<term> {};

TEST_P(losses_on_routers, reach_the_report_and_the_gradient) {
  const auto data = tiny::schedule();
  const std::vector<esft::token_batch> batches{data.batch(0), data.batch(1)};
  const auto off = one_step({}, 0, batches);
  EXPECT_EQ(off.report.balance_loss, 0);
  const auto on = one_step(GetParam().balance, GetParam().z, batches);
  EXPECT_GT(on.report.balance_loss, 0);
  EXPECT_NEAR(on.report.balance_loss, on.expected, 1e-12 * on.expected);
  EXPECT_EQ(on.report.loss, off.report.loss);
  EXPECT_NE(on.weights, off.weights);
  // The gradient grows with the coefficient: what the term adds is twice as much for twice the coefficient.
  esft::balance_terms doubled = GetParam().balance;
  for (double* coefficient : {&doubled.expert, &doubled.device, &doubled.communication, &doubled.sequence, &doubled.switch_form,
                              &doubled.across_layers}) {
    *coefficient *= 2;
  }
  const auto twice = one_step(doubled, 2 * GetParam().z, batches);
  double largest = 0;
  double error = 0;
  for (std::size_t i = 0; i < off.gradient.size(); ++i) {
    const double added = on.gradient[i] - off.gradient[i];
    largest = std::max(largest, std::abs(added));
    error = std::max(error, std::abs(twice.gradient[i] - off.gradient[i] - 2 * added));
  }
  EXPECT_GT(largest, 1e-6);
  EXPECT_LE(error, 1e-11 * largest + 1e-14);
}

TEST_P(losses_on_routers, are_means_over_micro_batches) {
  const auto data = tiny::schedule();
  const auto once = one_step(GetParam().balance, GetParam().z, {data.batch(0)});
  const auto twice = one_step(GetParam().balance, GetParam().z, {data.batch(0), data.batch(0)});
  EXPECT_NEAR(twice.report.balance_loss, once.report.balance_loss, 1e-14);
  for (std::size_t i = 0; i < once.gradient.size(); ++i) ASSERT_NEAR(twice.gradient[i], once.gradient[i], 1e-13);
}

TEST_P(losses_on_routers, are_the_same_bits_with_recomputation) {
  const auto data = tiny::schedule();
  const auto kept = one_step(GetParam().balance, GetParam().z, {data.batch(0), data.batch(1)});
  const auto again = one_step(GetParam().balance, GetParam().z, {data.batch(0), data.batch(1)}, true);
  EXPECT_EQ(again.report.balance_loss, kept.report.balance_loss);
  EXPECT_EQ(again.weights, kept.weights);
}

const term terms[] = {
    {"experts", {.expert = .1}},
    {"devices", {.device = .1, .groups = 3}},
    {"unequal_devices", {.device = .1, .group_sizes = {4, 2}}},
    {"communication", {.communication = .1, .groups = 2, .sent_to = 2}},
    {"sequences", {.sequence = .1}},
    {"switch_form", {.switch_form = .1}},
    {"across_layers", {.across_layers = .1}},
    {"logits", {}, .1},
};
INSTANTIATE_TEST_SUITE_P(each, losses_on_routers, ::testing::ValuesIn(terms), [](const auto& info) { return info.param.name; });

}  // namespace train_balance_tests
