// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The gradient of every op as a case: a loss through the forward op, and what the backward ops say. On any backend in float or double.

#include "lab.hpp"

#include <esft/core/token_batch.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {

using gradients = std::map<std::string, std::vector<double>>;

/// A scalar function of named inputs, and what the backward ops say its gradient is. It runs on the backend that the case was made with:
/// opening one costs more than the ops.
struct gradient_case {
  std::string name;
  inputs at;
  std::function<double(const inputs&)> loss;
  gradients gradient;
};

/// A tensor of any backend as numbers.
template <class B>
std::vector<double> values_of(B& b, const auto& t) {
  std::vector<double> values(static_cast<std::size_t>(t.size()));
  b.copy_out(t.view(), std::span<double>(values));
  return values;
}

/// <weights, t>
template <class B>
double weigh(B& b, const auto& t, const numbers& weights) {
  const std::vector<double> values = values_of(b, t);
  double sum = 0;
  for (std::size_t i = 0; i < values.size(); ++i) sum += values[i] * weights.values[i];
  return sum;
}

/// The largest error of any element of any named gradient.
inline double worst_error(const gradient_case& test, const gradients& gradient, const difference_rule& rule) {
  double worst = 0;
  for (const auto& [name, claimed] : gradient) {
    for (std::size_t i = 0; i < claimed.size(); ++i) {
      const auto quotient = [&](double step) {
        const auto shifted = [&](double by) {
          inputs in = test.at;
          (in.value.contains(name) ? in.value : in.sum).at(name).values[i] += by;
          return test.loss(in);
        };
        return (shifted(step) - shifted(-step)) / (2 * step);
      };
      double slope = quotient(rule.step);
      if (rule.twice) slope = (4 * slope - quotient(2 * rule.step)) / 3;  // without the term in the square of the step
      const double error = std::abs(slope - claimed[i]) / std::max(rule.least, std::abs(slope));
      worst = std::max(worst, std::isnan(error) ? std::numeric_limits<double>::infinity() : error);
    }
  }
  return worst;
}

template <class B>
gradient_case linear_case(B& b) {
  generator g(1);
  gradient_case test{"linear", {{{"x", g({3, 5})}, {"w", g({4, 5})}}, {{"r", g({3, 4})}}, {}}, {}, {}};
  test.loss = [&b](const inputs& in) {
    const lab<B> l(b, in);
    const auto x = l.template value<2>("x");
    const auto w = l.template value<2>("w");
    auto y = l.blank_value(extents<2>{3, 4});
    b.linear(c(x), c(w), y.view(), write_mode::overwrite);
    return weigh(b, y, in.sum.at("r"));
  };
  const lab<B> l(b, test.at);
  const auto x = l.template value<2>("x");
  const auto w = l.template value<2>("w");
  const auto r = l.template sum<2>("r");
  auto dx = l.blank_value(x.shape());
  auto dw = b.template make_tensor<value_t<B>>(w.shape());
  b.fill(dw.view(), 0);
  b.linear_dx(c(r), c(w), dx.view(), write_mode::overwrite);
  b.linear_dw(c(r), c(x), dw.view());
  test.gradient = {{"x", values_of(b, dx)}, {"w", values_of(b, dw)}};
  return test;
}

template <class B>
gradient_case logits_case(B& b) {
  generator g(2);
  gradient_case test{"logits", {{{"x", g({3, 5})}, {"w", g({4, 5})}}, {{"r", g({3, 4})}}, {}}, {}, {}};
  test.loss = [&b](const inputs& in) {
    const lab<B> l(b, in);
    const auto x = l.template value<2>("x");
    const auto w = l.template value<2>("w");
    auto y = l.blank_sum(extents<2>{3, 4});
    b.logits(c(x), c(w), y.view());
    return weigh(b, y, in.sum.at("r"));
  };
  const lab<B> l(b, test.at);
  const auto x = l.template value<2>("x");
  const auto w = l.template value<2>("w");
  const auto r = l.template sum<2>("r");
  auto dx = l.blank_value(x.shape());
  auto dw = b.template make_tensor<value_t<B>>(w.shape());
  b.fill(dw.view(), 0);
  b.logits_dx(c(r), c(w), dx.view(), write_mode::overwrite);
  b.logits_dw(c(r), c(x), dw.view());
  test.gradient = {{"x", values_of(b, dx)}, {"w", values_of(b, dw)}};
  return test;
}

/// The expert path as an MoE layer runs it: gather, gate and up, SwiGLU, down, combine. Expert 1 of 3 gets no row.
template <class B>
gradient_case experts_case(B& b) {
  constexpr index tokens = 3, active = 2, width = 4, inner = 3, experts = 3;
  generator g(3);
  gradient_case test{"experts",
                     {{{"x", g({tokens, width})}, {"gate_up", g({experts, 2 * inner, width})}, {"down", g({experts, width, inner})}},
                      {{"weights", g({tokens, active})}, {"r", g({tokens, width})}},
                      {{"ids", {0, 2, 2, 0, 2, 0}}}},
                     {},
                     {}};
  struct plan {
    explicit plan(B& backend) : b(backend) {}
    B& b;
    tensor_t<B, std::int32_t, 1> offsets = b.template make_tensor<std::int32_t>(extents<1>{experts + 1});
    tensor_t<B, std::int32_t, 1> row_slot = b.template make_tensor<std::int32_t>(extents<1>{tokens * active});
    tensor_t<B, std::int32_t, 2> slot_row = b.template make_tensor<std::int32_t>(extents<2>{tokens, active});
    tensor_t<B, value_t<B>, 2> rows = b.template make_tensor<value_t<B>>(extents<2>{tokens * active, width});
    tensor_t<B, value_t<B>, 2> gate_up = b.template make_tensor<value_t<B>>(extents<2>{tokens * active, 2 * inner});
  };
  const auto forward = [&b](const lab<B>& l, plan& p) {
    const auto ids = l.ids("ids");
    b.dispatch(c(ids).reshape(extents<2>{tokens, active}), p.offsets.view(), p.row_slot.view(), p.slot_row.view());
    const auto x = l.template value<2>("x");
    const auto w = l.template value<3>("gate_up");
    b.gather(c(x), c(p.row_slot), active, p.rows.view());
    b.grouped_linear(c(std::as_const(p.rows)), c(w), c(std::as_const(p.offsets)), p.gate_up.view());
  };
  test.loss = [&b, forward](const inputs& in) {
    const lab<B> l(b, in);
    plan p(b);
    forward(l, p);
    const auto down = l.template value<3>("down");
    const auto weights = l.template sum<2>("weights");
    auto h = b.template make_tensor<value_t<B>>(extents<2>{tokens * active, inner});
    auto y = b.template make_tensor<value_t<B>>(extents<2>{tokens * active, width});
    auto out = l.blank_value(extents<2>{tokens, width});
    b.swiglu(c(std::as_const(p.gate_up)), h.view());
    b.grouped_linear(c(std::as_const(h)), c(down), c(std::as_const(p.offsets)), y.view());
    b.combine(c(std::as_const(y)), c(std::as_const(p.slot_row)), c(weights), out.view(), write_mode::overwrite);
    return weigh(b, out, in.sum.at("r"));
  };
  const lab<B> l(b, test.at);
  plan p(b);
  forward(l, p);
  const auto offsets = std::as_const(p.offsets).view();
  const auto x = l.template value<2>("x");
  const auto w = l.template value<3>("gate_up");
  const auto down = l.template value<3>("down");
  const auto weights = l.template sum<2>("weights");
  auto dout = l.template sum<2>("r");
  auto row_dy = b.template make_tensor<value_t<B>>(extents<2>{tokens * active, width});
  auto dh = b.template make_tensor<value_t<B>>(extents<2>{tokens * active, inner});
  auto dgate_up = l.blank_value(p.gate_up.shape());
  auto weighted_h = l.blank_value(dh.shape());
  auto dweights = l.blank_sum(weights.shape());
  auto d_rows = l.blank_value(row_dy.shape());
  auto dx = l.blank_value(x.shape());
  auto dw = b.template make_tensor<value_t<B>>(w.shape());
  auto d_down = b.template make_tensor<value_t<B>>(down.shape());
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
  test.gradient = {{"x", values_of(b, dx)}, {"gate_up", values_of(b, dw)}, {"down", values_of(b, d_down)}, {"weights", values_of(b, dweights)}};
  return test;
}

template <class B>
gradient_case swiglu_case(B& b) {
  generator g(4);
  gradient_case test{"swiglu", {{{"gate_up", g({3, 8}, 2)}}, {{"r", g({3, 4})}}, {}}, {}, {}};
  test.loss = [&b](const inputs& in) {
    const lab<B> l(b, in);
    const auto gate_up = l.template value<2>("gate_up");
    auto h = l.blank_value(extents<2>{3, 4});
    b.swiglu(c(gate_up), h.view());
    return weigh(b, h, in.sum.at("r"));
  };
  const lab<B> l(b, test.at);
  const auto gate_up = l.template value<2>("gate_up");
  const auto r = l.template sum<2>("r");
  auto dgate_up = l.blank_value(gate_up.shape());
  b.swiglu_backward(c(gate_up), c(r), dgate_up.view());
  test.gradient = {{"gate_up", values_of(b, dgate_up)}};
  return test;
}

template <class B>
gradient_case rms_norm_case(B& b) {
  generator g(5);
  gradient_case test{"rms_norm", {{{"x", g({3, 6})}, {"weight", g({6})}}, {{"r", g({3, 6})}}, {}}, {}, {}};
  const auto forward = [&b](const inputs& in, tensor_t<B, value_t<B>, 2>& y, tensor_t<B, value_t<B>, 1>& rstd) {
    const lab<B> l(b, in);
    const auto x = l.template value<2>("x");
    const auto weight = l.template value<1>("weight");
    b.rms_norm(c(x), c(weight), 1e-3, y.view(), rstd.view());
  };
  test.loss = [&b, forward](const inputs& in) {
    auto y = b.template make_tensor<value_t<B>>(extents<2>{3, 6});
    auto rstd = b.template make_tensor<value_t<B>>(extents<1>{3});
    forward(in, y, rstd);
    return weigh(b, y, in.sum.at("r"));
  };
  auto y = b.template make_tensor<value_t<B>>(extents<2>{3, 6});
  auto rstd = b.template make_tensor<value_t<B>>(extents<1>{3});
  forward(test.at, y, rstd);
  const lab<B> l(b, test.at);
  const auto x = l.template value<2>("x");
  const auto weight = l.template value<1>("weight");
  const auto r = l.template sum<2>("r");
  auto dx = l.blank_value(x.shape());
  auto dweight = b.template make_tensor<value_t<B>>(extents<1>{6});
  b.fill(dweight.view(), 0);
  b.rms_norm_dx(c(r), c(x), c(weight), c(std::as_const(rstd)), dx.view(), write_mode::overwrite);
  b.rms_norm_dw(c(r), c(x), c(std::as_const(rstd)), dweight.view());
  test.gradient = {{"x", values_of(b, dx)}, {"weight", values_of(b, dweight)}};
  return test;
}

template <class B>
gradient_case rope_case(B& b) {
  generator g(6);
  gradient_case test{"rope", {{{"x", g({4, 2, 6})}}, {{"r", g({4, 2, 6})}}, {{"positions", {0, 1, 7, 300}}}}, {}, {}};
  test.loss = [&b](const inputs& in) {
    const lab<B> l(b, in);
    auto x = l.template value<3>("x");
    const auto positions = l.ids("positions");
    b.rope(x.view(), c(positions), 1e4, 1);
    return weigh(b, x, in.sum.at("r"));
  };
  const lab<B> l(b, test.at);
  auto dx = l.template sum<3>("r");
  const auto positions = l.ids("positions");
  b.rope(dx.view(), c(positions), 1e4, -1);
  test.gradient = {{"x", values_of(b, dx)}};
  return test;
}

/// Two documents in one row of tokens, four query heads on two key-value heads, and one query that sees nothing.
template <class B>
gradient_case attention_case(B& b) {
  constexpr index tokens = 7, heads = 4, shared = 2, width = 4;
  generator g(7);
  gradient_case test{"attention",
                     {{{"q", g({tokens, heads, width})}, {"k", g({tokens, shared, width})}, {"v", g({tokens, shared, width})}},
                      {{"r", g({tokens, heads, width})}},
                      {{"begin", {0, 0, 0, 3, 3, 3, 3}}, {"end", {1, 2, 3, 4, 5, 3, 7}}}},
                     {},
                     {}};
  const auto forward = [&b](const inputs& in, tensor_t<B, value_t<B>, 3>& o, tensor_t<B, value_t<B>, 2>& lse) {
    const lab<B> l(b, in);
    const auto q = l.template value<3>("q");
    const auto k = l.template value<3>("k");
    const auto v = l.template value<3>("v");
    const auto begin = l.ids("begin");
    const auto end = l.ids("end");
    b.attention(c(q), c(k), c(v), c(begin), c(end), 0.5, o.view(), lse.view());
  };
  test.loss = [&b, forward](const inputs& in) {
    auto o = b.template make_tensor<value_t<B>>(extents<3>{tokens, heads, width});
    auto lse = b.template make_tensor<value_t<B>>(extents<2>{tokens, heads});
    forward(in, o, lse);
    return weigh(b, o, in.sum.at("r"));
  };
  auto o = b.template make_tensor<value_t<B>>(extents<3>{tokens, heads, width});
  auto lse = b.template make_tensor<value_t<B>>(extents<2>{tokens, heads});
  forward(test.at, o, lse);
  const lab<B> l(b, test.at);
  const auto q = l.template value<3>("q");
  const auto k = l.template value<3>("k");
  const auto v = l.template value<3>("v");
  const auto r = l.template sum<3>("r");
  const auto begin = l.ids("begin");
  const auto end = l.ids("end");
  auto dq = l.blank_value(q.shape());
  auto dk = l.blank_value(k.shape());
  auto dv = l.blank_value(k.shape());
  b.attention_backward(c(q), c(k), c(v), c(std::as_const(o)), c(std::as_const(lse)), c(r), c(begin), c(end), 0.5, dq.view(), dk.view(),
                       dv.view());
  test.gradient = {{"q", values_of(b, dq)}, {"k", values_of(b, dk)}, {"v", values_of(b, dv)}};
  return test;
}

template <class B>
gradient_case cross_entropy_case(B& b) {
  generator g(8);
  gradient_case test{"cross_entropy", {{}, {{"logits", g({4, 5}, 2)}}, {{"labels", {2, ignored_label, 0, 4}}}}, {}, {}};
  test.loss = [&b](const inputs& in) {
    const lab<B> l(b, in);
    auto logits = l.template sum<2>("logits");
    const auto labels = l.ids("labels");
    return 0.25 * b.cross_entropy(logits.view(), c(labels), 1);
  };
  const lab<B> l(b, test.at);
  auto logits = l.template sum<2>("logits");
  const auto labels = l.ids("labels");
  static_cast<void>(b.cross_entropy(logits.view(), c(labels), 0.25));
  test.gradient = {{"logits", values_of(b, logits)}};
  return test;
}

template <class B>
gradient_case embedding_case(B& b) {
  generator g(9);
  gradient_case test{"embedding", {{{"table", g({5, 3})}}, {{"r", g({4, 3})}}, {{"tokens", {4, 1, 4, 0}}}}, {}, {}};
  test.loss = [&b](const inputs& in) {
    const lab<B> l(b, in);
    const auto table = l.template value<2>("table");
    const auto tokens = l.ids("tokens");
    auto y = l.blank_value(extents<2>{4, 3});
    b.embedding(c(tokens), c(table), y.view());
    return weigh(b, y, in.sum.at("r"));
  };
  const lab<B> l(b, test.at);
  const auto r = l.template sum<2>("r");
  const auto tokens = l.ids("tokens");
  auto dtable = b.template make_tensor<value_t<B>>(extents<2>{5, 3});
  b.fill(dtable.view(), 0);
  b.embedding_dw(c(tokens), c(r), dtable.view());
  test.gradient = {{"table", values_of(b, dtable)}};
  return test;
}

template <class B>
std::vector<gradient_case> all_cases(B& backend) {
  std::vector<gradient_case> cases;
  for (auto* make : {&linear_case<B>, &logits_case<B>, &experts_case<B>, &swiglu_case<B>, &rms_norm_case<B>, &rope_case<B>, &attention_case<B>,
                     &cross_entropy_case<B>, &embedding_case<B>}) {
    cases.push_back((*make)(backend));
  }
  return cases;
}

/// Plants bugs into every gradient of a backend; each must be found. `small` is the smallest error that must be.
template <class B>
int find_planted_bugs(B& backend, const difference_rule& rule, double small) {
  int planted = 0;
  for (const gradient_case& test : all_cases(backend)) {
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
          {"one element a little off", [=](auto& v) { v[largest] *= 1 + small; }},
          {"two elements exchanged", [=](auto& v) { std::swap(v[largest], v[largest == 0 ? 1 : 0]); }},
          {"one element forgotten", [=](auto& v) { v[largest] = 0; }},
          {"never written", [=](auto& v) { v[largest] = std::numeric_limits<double>::quiet_NaN(); }},
      };
      for (const auto& [bug, plant] : bugs) {
        gradients wrong{{name, correct}};
        plant(wrong.at(name));
        EXPECT_GT(worst_error(test, wrong, rule), rule.allowed) << test.name << " of " << name << ": " << bug;
        ++planted;
      }
    }
  }
  return planted;
}

}  // namespace esft::test
