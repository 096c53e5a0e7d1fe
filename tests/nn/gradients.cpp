// SPDX-License-Identifier: Apache-2.0
// Backward of every layer of nn/, in double against central differences: inputs and weights.
#include "numeric.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/nn/attention.hpp>
#include <esft/nn/cross_entropy.hpp>
#include <esft/nn/swiglu.hpp>

namespace nn_gradients_tests {

using backend = esft::reference_backend<double>;
using esft::extents;
using esft::parameter_role;
using esft::query_key_norm;
using esft::write_mode;
using esft_test::expect_central_differences;
using esft_test::random_tensor;
using esft_test::to_host;
using matrix = esft::host_tensor<double, 2>;

std::span<double> elements(matrix& x) { return {x.data(), static_cast<std::size_t>(x.size())}; }
template <class Weight>
std::span<double> elements_of(Weight& w) {
  return {w.value.data(), static_cast<std::size_t>(w.value.size())};
}

double inner(const matrix& a, const matrix& b) {
  double sum = 0;
  for (esft::index i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
  return sum;
}

/// A weight with random values around `centre`, trained.
template <class Weight, std::size_t Rank>
void set_up(backend& b, Weight& w, const extents<Rank>& shape, std::uint64_t seed, double deviation, double centre = 0) {
  auto values = esft_test::normal_numbers(static_cast<std::size_t>(esft::element_count(shape)), seed, deviation);
  for (double& value : values) value += centre;
  w.value = esft_test::make<double>(b, shape, values);
  w.train(b);
}

TEST(rms_norm_layer, gradients) {
  backend b;
  for (const esft::index rows : {1, 5}) {
    esft::weight<backend, 1, parameter_role::final_norm> w;
    set_up(b, w, extents<1>{7}, 1, 0.3, 1);
    auto x = random_tensor<double>(b, extents<2>{rows, 7}, 2);
    const auto dy = random_tensor<double>(b, extents<2>{rows, 7}, 3);
    const auto loss = [&] {
      esft::rms_norm_saved<backend> saved;
      return inner(esft::rms_norm_forward(b, std::as_const(x).view(), w, 1e-5, saved), dy);
    };
    esft::rms_norm_saved<backend> saved;
    static_cast<void>(esft::rms_norm_forward(b, std::as_const(x).view(), w, 1e-5, saved));
    auto dx = b.make_tensor<double>(x.shape());
    auto view = dx.view();
    esft::rms_norm_backward(b, dy.view(), std::as_const(x).view(), w, saved, &view, write_mode::overwrite);
    expect_central_differences(elements(x), to_host(b, dx), loss, "x");
    expect_central_differences(elements_of(w), to_host(b, w.gradient), loss, "weight");
  }
}

TEST(swiglu_layer, gradients) {
  backend b;
  for (const esft::index tokens : {1, 6}) {
    esft::swiglu_parameters<backend, parameter_role::dense_gate_up, parameter_role::dense_down> p;
    set_up(b, p.gate_up, extents<2>{10, 4}, 1, 0.7);
    set_up(b, p.down, extents<2>{4, 5}, 2, 0.7);
    auto x = random_tensor<double>(b, extents<2>{tokens, 4}, 3);
    const auto dy = random_tensor<double>(b, extents<2>{tokens, 4}, 4);
    esft::swiglu_saved<backend> saved;
    const auto loss = [&] {
      auto y = b.make_tensor<double>(x.shape());
      esft::swiglu_forward(b, p, std::as_const(x).view(), y.view(), write_mode::overwrite, saved);
      return inner(y, dy);
    };
    static_cast<void>(loss());
    auto dx = b.make_tensor<double>(x.shape());
    auto view = dx.view();
    esft::swiglu_backward(b, p, dy.view(), std::as_const(x).view(), saved, &view, write_mode::overwrite);
    const auto gradient = to_host(b, dx);
    expect_central_differences(elements(x), gradient, loss, "x");
    expect_central_differences(elements_of(p.gate_up), to_host(b, p.gate_up.gradient), loss, "gate_up");
    expect_central_differences(elements_of(p.down), to_host(b, p.down.gradient), loss, "down");
  }
}

// One token, all widths 1: numbers that can be checked with a pocket calculator.
TEST(swiglu_layer, scalar_oracle) {
  backend b;
  esft::swiglu_parameters<backend, parameter_role::dense_gate_up, parameter_role::dense_down> p;
  p.gate_up.value = esft_test::make<double>(b, extents<2>{2, 1}, std::vector<double>{2, 3});
  p.down.value = esft_test::make<double>(b, extents<2>{1, 1}, std::vector<double>{0.5});
  p.gate_up.train(b);
  p.down.train(b);
  const auto x = esft_test::make<double>(b, extents<2>{1, 1}, std::vector<double>{1});
  const auto dy = esft_test::make<double>(b, extents<2>{1, 1}, std::vector<double>{0.5});  // gate weight 0.5, dO = 1
  auto y = b.make_tensor<double>(extents<2>{1, 1});
  auto dx = b.make_tensor<double>(extents<2>{1, 1});
  auto dx_view = dx.view();
  esft::swiglu_saved<backend> saved;
  esft::swiglu_forward(b, p, x.view(), y.view(), write_mode::overwrite, saved);
  esft::swiglu_backward(b, p, dy.view(), x.view(), saved, &dx_view, write_mode::overwrite);
  EXPECT_NEAR(y.view()(0, 0), 2.642391, 5e-7);
  EXPECT_NEAR(p.down.gradient.view()(0, 0), 2.642391, 5e-7);
  EXPECT_NEAR(p.gate_up.gradient.view()(0, 0), 0.818088, 5e-7);
  EXPECT_NEAR(p.gate_up.gradient.view()(1, 0), 0.440399, 5e-7);
  EXPECT_NEAR(dx.view()(0, 0), 2.957372, 5e-7);
}

TEST(swiglu_layer, frozen_or_unwanted_gradients_are_left_out) {
  backend b;
  esft::swiglu_parameters<backend, parameter_role::dense_gate_up, parameter_role::dense_down> p;
  set_up(b, p.gate_up, extents<2>{10, 4}, 1, 0.7);
  set_up(b, p.down, extents<2>{4, 5}, 2, 0.7);
  const auto x = random_tensor<double>(b, extents<2>{3, 4}, 3);
  const auto dy = random_tensor<double>(b, extents<2>{3, 4}, 4);
  esft::swiglu_saved<backend> saved;
  auto y = b.make_tensor<double>(x.shape());
  esft::swiglu_forward(b, p, x.view(), y.view(), write_mode::overwrite, saved);
  auto dx = b.make_tensor<double>(x.shape());
  auto view = dx.view();
  esft::swiglu_backward(b, p, dy.view(), x.view(), saved, &view, write_mode::overwrite);
  const auto with_everything = std::pair(to_host(b, p.gate_up.gradient), to_host(b, p.down.gradient));

  p.gate_up.train(b);
  p.down.train(b);
  esft::swiglu_backward(b, p, dy.view(), x.view(), saved, nullptr, write_mode::overwrite);
  EXPECT_EQ(with_everything, std::pair(to_host(b, p.gate_up.gradient), to_host(b, p.down.gradient)));

  const auto dx_before = to_host(b, dx);
  p.gate_up.freeze();
  p.down.train(b);
  esft::swiglu_backward(b, p, dy.view(), x.view(), saved, &view, write_mode::overwrite);
  EXPECT_EQ(to_host(b, dx), dx_before);
  EXPECT_EQ(to_host(b, p.down.gradient), with_everything.second);
  EXPECT_EQ(p.gate_up.gradient.data(), nullptr);
}

struct attention_case {
  attention_case(backend& b, const esft::attention_config& how, esft::index width) : config(how) {
    const esft::index q = how.heads * how.head_width;
    const esft::index k = how.key_value_heads * how.head_width;
    set_up(b, p.query, extents<2>{q, width}, 1, 0.6);
    set_up(b, p.key, extents<2>{k, width}, 2, 0.6);
    set_up(b, p.value, extents<2>{k, width}, 3, 0.5);
    set_up(b, p.output, extents<2>{width, q}, 4, 0.5);
    if (how.sinks) set_up(b, p.sinks, extents<1>{how.heads}, 10, 0.7);
    if (how.output_biased) set_up(b, p.output_bias, extents<1>{width}, 11, 0.5);
    if (how.biased) {
      set_up(b, p.query_bias, extents<1>{q}, 12, 0.5);
      set_up(b, p.key_bias, extents<1>{k}, 13, 0.5);
      set_up(b, p.value_bias, extents<1>{k}, 14, 0.5);
    }
    if (how.norm == query_key_norm::none) return;
    const bool per_head = how.norm == query_key_norm::per_head;
    set_up(b, p.query_norm, extents<1>{per_head ? how.head_width : q}, 5, 0.2, 1);
    set_up(b, p.key_norm, extents<1>{per_head ? how.head_width : k}, 6, 0.2, 1);
  }
  esft::attention_config config;
  esft::attention_parameters<backend> p;
};

TEST(attention_layer, gradients_with_two_packed_documents) {
  backend b;
  const esft::token_batch batch{std::vector<std::int32_t>(7), {}, {0, 1, 2, 0, 1, 2, 3}, {0, 0, 0, 3, 3, 3, 3}, {}};
  auto context = esft::causal_context(b, batch);
  for (const auto norm : {query_key_norm::none, query_key_norm::per_head, query_key_norm::full_width}) {
    for (const esft::index key_value_heads : {1, 2, 4}) {
      // without norms also as in GPT-OSS: biases, sinks, and of the second document a token sees two keys
      const bool more = norm == query_key_norm::none && key_value_heads == 2;
      if (more) context.key_begin = esft::upload(b, esft::window_begin(batch.key_begin, esft::causal_key_end(batch), 2));
      attention_case layer(b, {4, key_value_heads, 2, 100.0, 1e-6, norm, {}, more, 1, more, more}, 6);
      auto x = random_tensor<double>(b, extents<2>{7, 6}, 8);
      const auto dy = random_tensor<double>(b, extents<2>{7, 6}, 9);
      const auto loss = [&] {
        esft::attention_saved<backend> saved;
        return inner(esft::attention_forward(b, layer.config, layer.p, std::as_const(x).view(), context, saved), dy);
      };
      esft::attention_saved<backend> saved;
      static_cast<void>(esft::attention_forward(b, layer.config, layer.p, std::as_const(x).view(), context, saved));
      auto dx = b.make_tensor<double>(x.shape());
      auto view = dx.view();
      esft::attention_backward(b, layer.config, layer.p, dy.view(), std::as_const(x).view(), context, saved, &view);
      expect_central_differences(elements(x), to_host(b, dx), loss, "x");
      int weights = 0;
      esft::for_each_member(layer.p, [&](std::string_view name, auto& w) {
        if (!w.exists()) return;
        expect_central_differences(elements_of(w), to_host(b, w.gradient), loss, std::string(name));
        ++weights;
      });
      EXPECT_EQ(weights, more ? 9 : norm == query_key_norm::none ? 4 : 6);
      context.key_begin = esft::upload(b, batch.key_begin);
    }
  }
}

TEST(attention_layer, without_input_gradient_the_weights_get_the_same_bits) {
  backend b;
  const esft::token_batch batch{std::vector<std::int32_t>(4), {}, {0, 1, 2, 3}, {0, 0, 0, 0}, {}};
  const auto context = esft::causal_context(b, batch);
  attention_case layer(b, {2, 1, 4, 1e4, 1e-6, query_key_norm::per_head}, 6);
  const auto x = random_tensor<double>(b, extents<2>{4, 6}, 8);
  const auto dy = random_tensor<double>(b, extents<2>{4, 6}, 9);
  esft::attention_saved<backend> saved;
  static_cast<void>(esft::attention_forward(b, layer.config, layer.p, x.view(), context, saved));
  const auto run = [&](bool with_input) {
    auto dx = b.make_tensor<double>(x.shape());
    auto view = dx.view();
    std::vector<std::vector<double>> result;
    esft::for_each_member(layer.p, [&](std::string_view, auto& w) { w.train(b); });
    esft::attention_backward(b, layer.config, layer.p, dy.view(), x.view(), context, saved, with_input ? &view : nullptr);
    esft::for_each_member(layer.p, [&](std::string_view, auto& w) { result.push_back(to_host(b, w.gradient)); });
    return result;
  };
  EXPECT_EQ(run(true), run(false));
}

TEST(head, gradients_with_ignored_labels) {
  backend b;
  auto x = random_tensor<double>(b, extents<2>{6, 5}, 1);
  auto head = random_tensor<double>(b, extents<2>{9, 5}, 2);
  const auto labels = esft_test::make_ids(b, extents<1>{6}, {3, esft::ignored_label, 0, 8, 8, esft::ignored_label});
  const double scale = 0.25;
  const auto loss = [&] { return scale * esft::head_loss(b, std::as_const(x).view(), std::as_const(head).view(), labels.view()); };
  auto dx = b.make_tensor<double>(x.shape());
  auto dhead = b.make_tensor<double>(head.shape());
  b.fill(dhead.view(), 0.0);
  auto view = dx.view();
  const double sum = esft::head_loss_backward(b, std::as_const(x).view(), std::as_const(head).view(), labels.view(), scale, &view,
                                              dhead.view());
  EXPECT_DOUBLE_EQ(sum * scale, loss());
  expect_central_differences(elements(x), to_host(b, dx), loss, "x");
  expect_central_differences(elements(head), to_host(b, dhead), loss, "head");
  for (const esft::index ignored : {1, 5}) {
    for (esft::index d = 0; d < 5; ++d) EXPECT_EQ(dx.view()(ignored, d), 0.0);
  }
}

// More tokens than one chunk holds: the chunks add up to the whole.
TEST(head, chunks_add_up) {
  backend b;
  const esft::index tokens = 2 * esft::head_chunk + 3;
  const auto x = random_tensor<double>(b, extents<2>{tokens, 2}, 1);
  const auto head = random_tensor<double>(b, extents<2>{3, 2}, 2);
  std::vector<std::int32_t> host_labels(static_cast<std::size_t>(tokens));
  for (std::size_t t = 0; t < host_labels.size(); ++t) host_labels[t] = t % 5 == 0 ? esft::ignored_label : static_cast<std::int32_t>(t % 3);
  const auto labels = esft_test::make_ids(b, extents<1>{tokens}, host_labels);
  auto dx = b.make_tensor<double>(x.shape());
  auto dhead = b.make_tensor<double>(head.shape());
  b.fill(dhead.view(), 0.0);
  auto view = dx.view();
  const double sum = esft::head_loss_backward(b, x.view(), head.view(), labels.view(), 1, &view, dhead.view());

  double by_token = 0;
  auto dhead_by_token = b.make_tensor<double>(head.shape());
  b.fill(dhead_by_token.view(), 0.0);
  auto dx_by_token = b.make_tensor<double>(x.shape());
  for (esft::index t = 0; t < tokens; ++t) {
    auto row = dx_by_token.view().slice(t, t + 1);
    by_token += esft::head_loss_backward(b, x.view().slice(t, t + 1), head.view(), labels.view().slice(t, t + 1), 1, &row,
                                         dhead_by_token.view());
  }
  EXPECT_NEAR(sum, by_token, 1e-12 * by_token);
  EXPECT_EQ(to_host(b, dx), to_host(b, dx_by_token));
  esft_test::expect_close(to_host(b, dhead), to_host(b, dhead_by_token), 1e-12, "dhead");
}

TEST(weights, gradients_exist_only_while_trained) {
  backend b;
  esft::weight<backend, 3, parameter_role::expert_down> w;
  EXPECT_FALSE(w.exists());
  esft::allocate(b, w, {4, 3, 2});
  EXPECT_TRUE(w.exists());
  EXPECT_FALSE(w.trained());
  w.train(b, {1, 3});
  EXPECT_EQ(w.gradient.shape(), (extents<3>{2, 3, 2}));
  EXPECT_EQ(w.selected, (std::vector<std::int32_t>{1, 3}));
  EXPECT_EQ(to_host(b, w.gradient), std::vector<double>(12, 0.0));
  w.train(b, {});
  EXPECT_FALSE(w.trained());
  EXPECT_EQ(w.gradient.data(), nullptr);
  w.train(b);
  EXPECT_EQ(w.gradient.size(), w.value.size());
  EXPECT_EQ(w.selected, (std::vector<std::int32_t>{0, 1, 2, 3}));
  w.freeze();
  EXPECT_EQ(w.gradient.data(), nullptr);
  EXPECT_TRUE(w.selected.empty());
}

}  // namespace nn_gradients_tests
