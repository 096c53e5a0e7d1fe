// SPDX-License-Identifier: Apache-2.0
// Every backward op against central differences of its forward, in double on the reference backend; and planted bugs that must be found.
#include "lab.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/core/token_batch.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

namespace esft::test {
namespace gradients_tests {

using backend_type = reference_backend<double>;
using lab_type = lab<backend_type>;
using gradients = std::map<std::string, std::vector<double>>;

/// With h = 1e-5 a correct gradient errs by at most some 1e-8 relative, and an element wrong by 0.1 % shows as 1e-3 (both measured);
/// 1e-6 lies a hundred times above the one and a thousand times below the other.
constexpr double difference_step = 1e-5;
constexpr double allowed = 1e-6;

/// A scalar function of named inputs, and what the backward ops say its gradient is.
struct gradient_case {
  std::string name;
  inputs at;
  std::function<double(const inputs&)> loss;
  gradients gradient;
};

std::vector<double> values_of(const auto& t) { return {t.data(), t.data() + t.size()}; }

/// <weights, t>
double weigh(const auto& t, const numbers& weights) {
  double sum = 0;
  for (index i = 0; i < t.size(); ++i) sum += t.data()[i] * weights.values[static_cast<std::size_t>(i)];
  return sum;
}

/// The largest error of any element of any named gradient, relative to max(1e-3, |difference quotient|).
double worst_error(const gradient_case& test, const gradients& gradient) {
  double worst = 0;
  for (const auto& [name, claimed] : gradient) {
    for (std::size_t i = 0; i < claimed.size(); ++i) {
      const auto shifted = [&](double by) {
        inputs in = test.at;
        (in.value.contains(name) ? in.value : in.sum).at(name).values[i] += by;
        return test.loss(in);
      };
      const double quotient = (shifted(difference_step) - shifted(-difference_step)) / (2 * difference_step);
      const double error = std::abs(quotient - claimed[i]) / std::max(1e-3, std::abs(quotient));
      worst = std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
    }
  }
  return worst;
}

gradient_case linear_case() {
  generator g(1);
  gradient_case test{"linear", {{{"x", g({3, 5})}, {"w", g({4, 5})}}, {{"r", g({3, 4})}}, {}}, {}, {}};
  test.loss = [](const inputs& in) {
    backend_type b;
    const lab_type l(b, in);
    const auto x = l.value<2>("x");
    const auto w = l.value<2>("w");
    auto y = l.blank_value(extents<2>{3, 4});
    b.linear(c(x), c(w), y.view(), write_mode::overwrite);
    return weigh(y, in.sum.at("r"));
  };
  backend_type b;
  const lab_type l(b, test.at);
  const auto x = l.value<2>("x");
  const auto w = l.value<2>("w");
  const auto r = l.sum<2>("r");
  auto dx = l.blank_value(x.shape());
  auto dw = make_host_tensor<double, 2>(w.shape());
  b.fill(dw.view(), 0);
  b.linear_dx(c(r), c(w), dx.view(), write_mode::overwrite);
  b.linear_dw(c(r), c(x), dw.view());
  test.gradient = {{"x", values_of(dx)}, {"w", values_of(dw)}};
  return test;
}

gradient_case logits_case() {
  generator g(2);
  gradient_case test{"logits", {{{"x", g({3, 5})}, {"w", g({4, 5})}}, {{"r", g({3, 4})}}, {}}, {}, {}};
  test.loss = [](const inputs& in) {
    backend_type b;
    const lab_type l(b, in);
    const auto x = l.value<2>("x");
    const auto w = l.value<2>("w");
    auto y = l.blank_sum(extents<2>{3, 4});
    b.logits(c(x), c(w), y.view());
    return weigh(y, in.sum.at("r"));
  };
  backend_type b;
  const lab_type l(b, test.at);
  const auto x = l.value<2>("x");
  const auto w = l.value<2>("w");
  const auto r = l.sum<2>("r");
  auto dx = l.blank_value(x.shape());
  auto dw = make_host_tensor<double, 2>(w.shape());
  b.fill(dw.view(), 0);
  b.logits_dx(c(r), c(w), dx.view(), write_mode::overwrite);
  b.logits_dw(c(r), c(x), dw.view());
  test.gradient = {{"x", values_of(dx)}, {"w", values_of(dw)}};
  return test;
}

/// The expert path as an MoE layer runs it: gather, gate and up, SwiGLU, down, combine. Expert 1 of 3 gets no row.
gradient_case experts_case() {
  constexpr index tokens = 3, active = 2, width = 4, inner = 3, experts = 3;
  generator g(3);
  gradient_case test{"experts",
                     {{{"x", g({tokens, width})}, {"gate_up", g({experts, 2 * inner, width})}, {"down", g({experts, width, inner})}},
                      {{"weights", g({tokens, active})}, {"r", g({tokens, width})}},
                      {{"ids", {0, 2, 2, 0, 2, 0}}}},
                     {},
                     {}};
  struct plan {
    host_tensor<std::int32_t, 1> offsets = make_host_tensor<std::int32_t, 1>({experts + 1});
    host_tensor<std::int32_t, 1> row_slot = make_host_tensor<std::int32_t, 1>({tokens * active});
    host_tensor<std::int32_t, 2> slot_row = make_host_tensor<std::int32_t, 2>({tokens, active});
    host_tensor<double, 2> rows = make_host_tensor<double, 2>({tokens * active, width});
    host_tensor<double, 2> gate_up = make_host_tensor<double, 2>({tokens * active, 2 * inner});
  };
  const auto forward = [](backend_type& b, const lab_type& l, plan& p) {
    const auto ids = l.ids("ids");
    b.dispatch(c(ids).reshape(extents<2>{tokens, active}), p.offsets.view(), p.row_slot.view(), p.slot_row.view());
    const auto x = l.value<2>("x");
    const auto w = l.value<3>("gate_up");
    b.gather(c(x), c(p.row_slot), active, p.rows.view());
    b.grouped_linear(c(std::as_const(p.rows)), c(w), c(std::as_const(p.offsets)), p.gate_up.view());
  };
  test.loss = [forward](const inputs& in) {
    backend_type b;
    const lab_type l(b, in);
    plan p;
    forward(b, l, p);
    const auto down = l.value<3>("down");
    const auto weights = l.sum<2>("weights");
    auto h = make_host_tensor<double, 2>({tokens * active, inner});
    auto y = make_host_tensor<double, 2>({tokens * active, width});
    auto out = l.blank_value(extents<2>{tokens, width});
    b.swiglu(c(std::as_const(p.gate_up)), h.view());
    b.grouped_linear(c(std::as_const(h)), c(down), c(std::as_const(p.offsets)), y.view());
    b.combine(c(std::as_const(y)), c(std::as_const(p.slot_row)), c(weights), out.view(), write_mode::overwrite);
    return weigh(out, in.sum.at("r"));
  };
  backend_type b;
  const lab_type l(b, test.at);
  plan p;
  forward(b, l, p);
  const auto offsets = std::as_const(p.offsets).view();
  const auto x = l.value<2>("x");
  const auto w = l.value<3>("gate_up");
  const auto down = l.value<3>("down");
  const auto weights = l.sum<2>("weights");
  auto dout = l.sum<2>("r");
  auto row_dy = make_host_tensor<double, 2>({tokens * active, width});
  auto dh = make_host_tensor<double, 2>({tokens * active, inner});
  auto dgate_up = l.blank_value(p.gate_up.shape());
  auto weighted_h = l.blank_value(dh.shape());
  auto dweights = l.blank_sum(weights.shape());
  auto d_rows = l.blank_value(row_dy.shape());
  auto dx = l.blank_value(x.shape());
  auto dw = make_host_tensor<double, 3>(w.shape());
  auto d_down = make_host_tensor<double, 3>(down.shape());
  b.fill(dw.view(), 0);
  b.fill(d_down.view(), 0);
  const std::vector<std::int32_t> all{0, 1, 2};
  b.gather(c(std::as_const(dout)), c(std::as_const(p.row_slot)), active, row_dy.view());
  b.grouped_linear_dx(c(std::as_const(row_dy)), c(down), offsets, dh.view());
  b.weighted_swiglu_backward(c(std::as_const(p.gate_up)), c(std::as_const(dh)), c(weights), c(std::as_const(p.row_slot)), dgate_up.view(),
                             weighted_h.view(), dweights.view());
  b.grouped_linear_dw(c(std::as_const(row_dy)), c(std::as_const(weighted_h)), offsets, all, d_down.view());
  b.grouped_linear_dw(c(std::as_const(dgate_up)), c(std::as_const(p.rows)), offsets, all, dw.view());
  b.grouped_linear_dx(c(std::as_const(dgate_up)), c(w), offsets, d_rows.view());
  b.gather_sum(c(std::as_const(d_rows)), c(std::as_const(p.slot_row)), dx.view(), write_mode::overwrite);
  test.gradient = {{"x", values_of(dx)}, {"gate_up", values_of(dw)}, {"down", values_of(d_down)}, {"weights", values_of(dweights)}};
  return test;
}

gradient_case swiglu_case() {
  generator g(4);
  gradient_case test{"swiglu", {{{"gate_up", g({3, 8}, 2)}}, {{"r", g({3, 4})}}, {}}, {}, {}};
  test.loss = [](const inputs& in) {
    backend_type b;
    const lab_type l(b, in);
    const auto gate_up = l.value<2>("gate_up");
    auto h = l.blank_value(extents<2>{3, 4});
    b.swiglu(c(gate_up), h.view());
    return weigh(h, in.sum.at("r"));
  };
  backend_type b;
  const lab_type l(b, test.at);
  const auto gate_up = l.value<2>("gate_up");
  const auto r = l.sum<2>("r");
  auto dgate_up = l.blank_value(gate_up.shape());
  b.swiglu_backward(c(gate_up), c(r), dgate_up.view());
  test.gradient = {{"gate_up", values_of(dgate_up)}};
  return test;
}

gradient_case rms_norm_case() {
  generator g(5);
  gradient_case test{"rms_norm", {{{"x", g({3, 6})}, {"weight", g({6})}}, {{"r", g({3, 6})}}, {}}, {}, {}};
  const auto forward = [](const inputs& in, host_tensor<double, 2>& y, host_tensor<double, 1>& rstd) {
    backend_type b;
    const lab_type l(b, in);
    const auto x = l.value<2>("x");
    const auto weight = l.value<1>("weight");
    b.rms_norm(c(x), c(weight), 1e-3, y.view(), rstd.view());
  };
  test.loss = [forward](const inputs& in) {
    auto y = make_host_tensor<double, 2>({3, 6});
    auto rstd = make_host_tensor<double, 1>({3});
    forward(in, y, rstd);
    return weigh(y, in.sum.at("r"));
  };
  auto y = make_host_tensor<double, 2>({3, 6});
  auto rstd = make_host_tensor<double, 1>({3});
  forward(test.at, y, rstd);
  backend_type b;
  const lab_type l(b, test.at);
  const auto x = l.value<2>("x");
  const auto weight = l.value<1>("weight");
  const auto r = l.sum<2>("r");
  auto dx = l.blank_value(x.shape());
  auto dweight = make_host_tensor<double, 1>({6});
  b.fill(dweight.view(), 0);
  b.rms_norm_dx(c(r), c(x), c(weight), c(std::as_const(rstd)), dx.view(), write_mode::overwrite);
  b.rms_norm_dw(c(r), c(x), c(std::as_const(rstd)), dweight.view());
  test.gradient = {{"x", values_of(dx)}, {"weight", values_of(dweight)}};
  return test;
}

gradient_case rope_case() {
  generator g(6);
  gradient_case test{"rope", {{{"x", g({4, 2, 6})}}, {{"r", g({4, 2, 6})}}, {{"positions", {0, 1, 7, 300}}}}, {}, {}};
  test.loss = [](const inputs& in) {
    backend_type b;
    const lab_type l(b, in);
    auto x = l.value<3>("x");
    const auto positions = l.ids("positions");
    b.rope(x.view(), c(positions), 1e4, 1);
    return weigh(x, in.sum.at("r"));
  };
  backend_type b;
  const lab_type l(b, test.at);
  auto dx = l.sum<3>("r");
  const auto positions = l.ids("positions");
  b.rope(dx.view(), c(positions), 1e4, -1);
  test.gradient = {{"x", values_of(dx)}};
  return test;
}

/// Two documents in one row of tokens, four query heads on two key-value heads, and one query that sees nothing.
gradient_case attention_case() {
  constexpr index tokens = 7, heads = 4, shared = 2, width = 4;
  generator g(7);
  gradient_case test{"attention",
                     {{{"q", g({tokens, heads, width})}, {"k", g({tokens, shared, width})}, {"v", g({tokens, shared, width})}},
                      {{"r", g({tokens, heads, width})}},
                      {{"begin", {0, 0, 0, 3, 3, 3, 3}}, {"end", {1, 2, 3, 4, 5, 3, 7}}}},
                     {},
                     {}};
  const auto forward = [](const inputs& in, host_tensor<double, 3>& o, host_tensor<double, 2>& lse) {
    backend_type b;
    const lab_type l(b, in);
    const auto q = l.value<3>("q");
    const auto k = l.value<3>("k");
    const auto v = l.value<3>("v");
    const auto begin = l.ids("begin");
    const auto end = l.ids("end");
    b.attention(c(q), c(k), c(v), c(begin), c(end), 0.5, o.view(), lse.view());
  };
  test.loss = [forward](const inputs& in) {
    auto o = make_host_tensor<double, 3>({tokens, heads, width});
    auto lse = make_host_tensor<double, 2>({tokens, heads});
    forward(in, o, lse);
    return weigh(o, in.sum.at("r"));
  };
  auto o = make_host_tensor<double, 3>({tokens, heads, width});
  auto lse = make_host_tensor<double, 2>({tokens, heads});
  forward(test.at, o, lse);
  backend_type b;
  const lab_type l(b, test.at);
  const auto q = l.value<3>("q");
  const auto k = l.value<3>("k");
  const auto v = l.value<3>("v");
  const auto r = l.sum<3>("r");
  const auto begin = l.ids("begin");
  const auto end = l.ids("end");
  auto dq = l.blank_value(q.shape());
  auto dk = l.blank_value(k.shape());
  auto dv = l.blank_value(k.shape());
  b.attention_backward(c(q), c(k), c(v), c(std::as_const(o)), c(std::as_const(lse)), c(r), c(begin), c(end), 0.5, dq.view(), dk.view(),
                       dv.view());
  test.gradient = {{"q", values_of(dq)}, {"k", values_of(dk)}, {"v", values_of(dv)}};
  return test;
}

gradient_case cross_entropy_case() {
  generator g(8);
  gradient_case test{"cross_entropy", {{}, {{"logits", g({4, 5}, 2)}}, {{"labels", {2, ignored_label, 0, 4}}}}, {}, {}};
  test.loss = [](const inputs& in) {
    backend_type b;
    const lab_type l(b, in);
    auto logits = l.sum<2>("logits");
    const auto labels = l.ids("labels");
    return 0.25 * b.cross_entropy(logits.view(), c(labels), 1);
  };
  backend_type b;
  const lab_type l(b, test.at);
  auto logits = l.sum<2>("logits");
  const auto labels = l.ids("labels");
  static_cast<void>(b.cross_entropy(logits.view(), c(labels), 0.25));
  test.gradient = {{"logits", values_of(logits)}};
  return test;
}

gradient_case embedding_case() {
  generator g(9);
  gradient_case test{"embedding", {{{"table", g({5, 3})}}, {{"r", g({4, 3})}}, {{"tokens", {4, 1, 4, 0}}}}, {}, {}};
  test.loss = [](const inputs& in) {
    backend_type b;
    const lab_type l(b, in);
    const auto table = l.value<2>("table");
    const auto tokens = l.ids("tokens");
    auto y = l.blank_value(extents<2>{4, 3});
    b.embedding(c(tokens), c(table), y.view());
    return weigh(y, in.sum.at("r"));
  };
  backend_type b;
  const lab_type l(b, test.at);
  const auto r = l.sum<2>("r");
  const auto tokens = l.ids("tokens");
  auto dtable = make_host_tensor<double, 2>({5, 3});
  b.fill(dtable.view(), 0);
  b.embedding_dw(c(tokens), c(r), dtable.view());
  test.gradient = {{"table", values_of(dtable)}};
  return test;
}

std::vector<gradient_case> all_cases() {
  std::vector<gradient_case> cases;
  for (auto* make : {&linear_case, &logits_case, &experts_case, &swiglu_case, &rms_norm_case, &rope_case, &attention_case,
                     &cross_entropy_case, &embedding_case}) {
    cases.push_back((*make)());
  }
  return cases;
}

TEST(gradients, agree_with_central_differences) {
  for (const gradient_case& test : all_cases()) EXPECT_LE(worst_error(test, test.gradient), allowed) << test.name;
}

TEST(gradients, planted_bugs_are_found) {
  int planted = 0;
  for (const gradient_case& test : all_cases()) {
    for (const auto& [name, correct] : test.gradient) {
      const auto largest = static_cast<std::size_t>(
          std::max_element(correct.begin(), correct.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }) - correct.begin());
      const std::map<std::string, std::function<void(std::vector<double>&)>> bugs{
          {"wrong sign",
           [](auto& v) {
             for (double& x : v) x = -x;
           }},
          {"missing factor",
           [](auto& v) {
             for (double& x : v) x *= 0.5;
           }},
          {"one element off by 0.1 %", [=](auto& v) { v[largest] *= 1.001; }},
          {"two elements exchanged", [=](auto& v) { std::swap(v[largest], v[largest == 0 ? 1 : 0]); }},
          {"one element forgotten", [=](auto& v) { v[largest] = 0; }},
          {"never written", [=](auto& v) { v[largest] = std::numeric_limits<double>::quiet_NaN(); }},
      };
      for (const auto& [bug, plant] : bugs) {
        gradients wrong{{name, correct}};
        plant(wrong.at(name));
        EXPECT_GT(worst_error(test, wrong), allowed) << test.name << " of " << name << ": " << bug;
        ++planted;
      }
    }
  }
  EXPECT_GE(planted, 20);
}

TEST(gradients, an_expert_without_rows_gets_exactly_zero) {
  const gradient_case test = experts_case();
  const auto& down = test.gradient.at("down");
  for (std::size_t i = 12; i < 24; ++i) EXPECT_EQ(down[i], 0.0);
  EXPECT_NE(down[0], 0.0);
}

// x = 1, gate 2, up 3, down 0.5, weight 0.5, output gradient 1: worked by hand.
TEST(gradients, scalar_swiglu_has_the_known_values) {
  backend_type b;
  inputs in{{{"gate_up", {{1, 2}, {2, 3}}}, {"dh", {{1, 1}, {0.5}}}}, {{"weights", {{1, 1}, {0.5}}}}, {{"row_slot", {0}}}};
  const lab_type l(b, in);
  const auto gate_up = l.value<2>("gate_up");
  const auto dh = l.value<2>("dh");
  const auto weights = l.sum<2>("weights");
  const auto row_slot = l.ids("row_slot");
  auto dgate_up = l.blank_value(gate_up.shape());
  auto weighted_h = l.blank_value(dh.shape());
  auto dweights = l.blank_sum(weights.shape());
  b.weighted_swiglu_backward(c(gate_up), c(dh), c(weights), c(row_slot), dgate_up.view(), weighted_h.view(), dweights.view());
  EXPECT_NEAR(dweights.data()[0], 2.642391, 1e-6);
  EXPECT_NEAR(weighted_h.data()[0], 2.642391, 1e-6);
  EXPECT_NEAR(dgate_up.data()[0], 0.818088, 1e-6);
  EXPECT_NEAR(dgate_up.data()[1], 0.440399, 1e-6);
  EXPECT_NEAR(2 * dgate_up.data()[0] + 3 * dgate_up.data()[1], 2.957372, 2e-6);
}

}  // namespace gradients_tests
}  // namespace esft::test
