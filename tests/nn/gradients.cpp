// SPDX-License-Identifier: Apache-2.0
// Backward of every layer of nn/ against central differences in double: inputs and weights.
#include "backend_list.hpp"
#include "numeric.hpp"

#include <esft/nn/attention.hpp>
#include <esft/nn/cross_entropy.hpp>
#include <esft/nn/swiglu.hpp>

namespace nn_gradients_tests {

using oracle = esft::reference_backend<double>;
using esft_test::subject;
using esft::extents;
using esft::parameter_role;
using esft::query_key_norm;
using esft::write_mode;
using esft_test::random_tensor;
using esft_test::to_host;
using matrix = esft::host_tensor<double, 2>;

std::span<double> elements(matrix& x) { return {x.data(), static_cast<std::size_t>(x.size())}; }
template <class Weight>
std::span<double> elements_of(Weight& w) {
  return {w.value.data(), static_cast<std::size_t>(w.value.size())};
}

/// The subject's gradient against differences of the oracle's loss.
template <class Loss>
void check(std::span<double> parameter, const std::vector<double>& gradient, const Loss& loss, const std::string& what) {
  esft_test::expect_central_differences(parameter, gradient, loss, what, 4096, esft_test::rule_of<subject>);
}

double inner(const matrix& a, const matrix& b) {
  double sum = 0;
  for (esft::index i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
  return sum;
}

/// A weight with random values around `centre`, trained.
template <class B, class Weight, std::size_t Rank>
void set_up(B& b, Weight& w, const extents<Rank>& shape, std::uint64_t seed, double deviation, double centre = 0) {
  auto values = esft_test::normal_numbers(static_cast<std::size_t>(esft::element_count(shape)), seed, deviation);
  for (double& value : values) value += centre;
  w.value = esft_test::make<esft::value_t<B>>(b, shape, values);
  w.train(b);
}

/// A layer's input and the gradient of its output.
template <class B>
struct layer_case {
  using T = esft::value_t<B>;
  layer_case(B& on, const extents<2>& shape, std::uint64_t seed)
      : b(on), x(random_tensor<T>(b, shape, seed)), dy(random_tensor<T>(b, shape, seed + 1)) {}
  /// The gradient of the input that `run` writes.
  template <class Run>
  std::vector<double> input_gradient(Run&& run) {
    auto dx = b.template make_tensor<T>(x.shape());
    auto view = dx.view();
    run(&view);
    return to_host(b, dx);
  }
  [[nodiscard]] auto input() const { return x.view(); }
  B& b;
  esft::tensor_t<B, T, 2> x, dy;
};

template <class B>
struct rms_norm_case : layer_case<B> {
  rms_norm_case(B& on, esft::index rows) : layer_case<B>(on, extents<2>{rows, 7}, 2) { set_up(on, w, extents<1>{7}, 1, 0.3, 1); }
  auto forward() { return esft::rms_norm_forward(this->b, this->input(), w, 1e-5, saved); }
  std::vector<double> backward() {
    return this->input_gradient([&](auto* dx) {
      esft::rms_norm_backward(this->b, std::as_const(this->dy).view(), this->input(), w, saved, dx, write_mode::overwrite);
    });
  }
  esft::weight<B, 1, parameter_role::final_norm> w;
  esft::rms_norm_saved<B> saved;
};

TEST(rms_norm_layer, gradients) {
  oracle b;
  subject s;
  for (const esft::index rows : {1, 5}) {
    rms_norm_case<oracle> layer(b, rows);
    rms_norm_case<subject> tested(s, rows);
    const auto loss = [&] { return inner(layer.forward(), layer.dy); };
    static_cast<void>(tested.forward());
    check(elements(layer.x), tested.backward(), loss, "x");
    check(elements_of(layer.w), to_host(s, tested.w.gradient), loss, "weight");
  }
}

template <class B>
struct swiglu_case : layer_case<B> {
  swiglu_case(B& on, esft::index tokens) : layer_case<B>(on, extents<2>{tokens, 4}, 3) {
    set_up(on, p.gate_up, extents<2>{10, 4}, 1, 0.7);
    set_up(on, p.down, extents<2>{4, 5}, 2, 0.7);
  }
  auto forward() {
    auto y = this->b.template make_tensor<esft::value_t<B>>(this->x.shape());
    esft::swiglu_forward(this->b, p, this->input(), y.view(), write_mode::overwrite, saved);
    return y;
  }
  template <class View>
  void backward(View* dx) {
    esft::swiglu_backward(this->b, p, std::as_const(this->dy).view(), this->input(), saved, dx, write_mode::overwrite);
  }
  std::vector<double> backward() {
    return this->input_gradient([&](auto* dx) { backward(dx); });
  }
  esft::swiglu_parameters<B, parameter_role::dense_gate_up, parameter_role::dense_down> p;
  esft::swiglu_saved<B> saved;
};

TEST(swiglu_layer, gradients) {
  oracle b;
  subject s;
  for (const esft::index tokens : {1, 6}) {
    swiglu_case<oracle> layer(b, tokens);
    swiglu_case<subject> tested(s, tokens);
    const auto loss = [&] { return inner(layer.forward(), layer.dy); };
    static_cast<void>(tested.forward());
    check(elements(layer.x), tested.backward(), loss, "x");
    check(elements_of(layer.p.gate_up), to_host(s, tested.p.gate_up.gradient), loss, "gate_up");
    check(elements_of(layer.p.down), to_host(s, tested.p.down.gradient), loss, "down");
  }
}

// One token, all widths 1: numbers that can be checked with a pocket calculator.
TEST(swiglu_layer, scalar_oracle) {
  oracle b;
  esft::swiglu_parameters<oracle, parameter_role::dense_gate_up, parameter_role::dense_down> p;
  p.gate_up.value = esft_test::make<double>(b, extents<2>{2, 1}, std::vector<double>{2, 3});
  p.down.value = esft_test::make<double>(b, extents<2>{1, 1}, std::vector<double>{0.5});
  p.gate_up.train(b);
  p.down.train(b);
  const auto x = esft_test::make<double>(b, extents<2>{1, 1}, std::vector<double>{1});
  const auto dy = esft_test::make<double>(b, extents<2>{1, 1}, std::vector<double>{0.5});  // gate weight 0.5, dO = 1
  auto y = b.make_tensor<double>(extents<2>{1, 1});
  auto dx = b.make_tensor<double>(extents<2>{1, 1});
  auto dx_view = dx.view();
  esft::swiglu_saved<oracle> saved;
  esft::swiglu_forward(b, p, x.view(), y.view(), write_mode::overwrite, saved);
  esft::swiglu_backward(b, p, dy.view(), x.view(), saved, &dx_view, write_mode::overwrite);
  auto h = b.make_tensor<double>(extents<2>{1, 1});
  b.swiglu(std::as_const(saved.gate_up).view(), h.view());
  EXPECT_NEAR(h.view()(0, 0), 5.284782, 5e-7);
  EXPECT_NEAR(y.view()(0, 0), 2.642391, 5e-7);
  EXPECT_NEAR(p.down.gradient.view()(0, 0), 2.642391, 5e-7);
  EXPECT_NEAR(p.gate_up.gradient.view()(0, 0), 0.818088, 5e-7);
  EXPECT_NEAR(p.gate_up.gradient.view()(1, 0), 0.440399, 5e-7);
  EXPECT_NEAR(dx.view()(0, 0), 2.957372, 5e-7);
}

TEST(swiglu_layer, frozen_or_unwanted_gradients_are_left_out) {
  subject b;
  swiglu_case<subject> layer(b, 3);
  auto& p = layer.p;
  static_cast<void>(layer.forward());
  const auto dx = layer.backward();
  const auto with_everything = std::pair(to_host(b, p.gate_up.gradient), to_host(b, p.down.gradient));

  p.gate_up.train(b);
  p.down.train(b);
  layer.backward(static_cast<esft::view_t<subject, esft::value_t<subject>, 2>*>(nullptr));
  EXPECT_EQ(with_everything, std::pair(to_host(b, p.gate_up.gradient), to_host(b, p.down.gradient)));

  p.gate_up.freeze();
  p.down.train(b);
  EXPECT_EQ(layer.backward(), dx);
  EXPECT_EQ(to_host(b, p.down.gradient), with_everything.second);
  EXPECT_EQ(p.gate_up.gradient.data(), nullptr);
}

template <class B>
struct attention_case : layer_case<B> {
  attention_case(B& on, const esft::token_batch& documents, const esft::attention_config& how)
      : layer_case<B>(on, extents<2>{static_cast<esft::index>(documents.tokens.size()), 6}, 8),
        config(how),
        context(esft::causal_context(on, documents)) {
    const esft::index width = 6;
    const esft::index q = how.heads * how.head_width;
    const esft::index k = how.key_value_heads * how.head_width;
    set_up(on, p.query, extents<2>{q, width}, 1, 0.6);
    set_up(on, p.key, extents<2>{k, width}, 2, 0.6);
    set_up(on, p.value, extents<2>{k, width}, 3, 0.5);
    set_up(on, p.output, extents<2>{width, q}, 4, 0.5);
    if (how.sinks) set_up(on, p.sinks, extents<1>{how.heads}, 10, 0.7);
    if (how.output_biased) set_up(on, p.output_bias, extents<1>{width}, 11, 0.5);
    if (how.biased) {
      set_up(on, p.query_bias, extents<1>{q}, 12, 0.5);
      set_up(on, p.key_bias, extents<1>{k}, 13, 0.5);
      set_up(on, p.value_bias, extents<1>{k}, 14, 0.5);
    }
    if (how.norm == query_key_norm::none) return;
    const bool per_head = how.norm == query_key_norm::per_head;
    set_up(on, p.query_norm, extents<1>{per_head ? how.head_width : q}, 5, 0.2, 1);
    set_up(on, p.key_norm, extents<1>{per_head ? how.head_width : k}, 6, 0.2, 1);
  }
  auto forward() { return esft::attention_forward(this->b, config, p, this->input(), context, saved); }
  template <class View>
  void backward(View* dx) {
    esft::attention_backward(this->b, config, p, std::as_const(this->dy).view(), this->input(), context, saved, dx);
  }
  std::vector<double> backward() {
    return this->input_gradient([&](auto* dx) { backward(dx); });
  }
  esft::attention_config config;
  esft::attention_parameters<B> p;
  decltype(esft::causal_context(std::declval<B&>(), std::declval<const esft::token_batch&>())) context;
  esft::attention_saved<B> saved;
};

TEST(attention_layer, gradients_with_two_packed_documents) {
  oracle b;
  subject s;
  const esft::token_batch batch{std::vector<std::int32_t>(7), {}, {0, 1, 2, 0, 1, 2, 3}, {0, 0, 0, 3, 3, 3, 3}, {}};
  for (const auto norm : {query_key_norm::none, query_key_norm::per_head, query_key_norm::full_width}) {
    for (const esft::index key_value_heads : {1, 2, 4}) {
      // without norms also as in GPT-OSS: biases, sinks, and of the second document a token sees two keys
      const bool more = norm == query_key_norm::none && key_value_heads == 2;
      const esft::attention_config how{4, key_value_heads, 2, 100.0, 1e-6, norm, {}, more, 1, more, more};
      attention_case<oracle> layer(b, batch, how);
      attention_case<subject> tested(s, batch, how);
      if (more) {
        const auto window = esft::window_begin(batch.key_begin, esft::causal_key_end(batch), 2);
        layer.context.key_begin = esft::upload(b, window);
        tested.context.key_begin = esft::upload(s, window);
      }
      const auto loss = [&] { return inner(layer.forward(), layer.dy); };
      static_cast<void>(tested.forward());
      check(elements(layer.x), tested.backward(), loss, "x");
      std::vector<std::vector<double>> gradients;
      esft::for_each_member(tested.p, [&](std::string_view, auto& w) { gradients.push_back(to_host(s, w.gradient)); });
      int weights = 0;
      std::size_t member = 0;
      esft::for_each_member(layer.p, [&](std::string_view name, auto& w) {
        const std::vector<double>& gradient = gradients[member++];
        if (!w.exists()) return;
        check(elements_of(w), gradient, loss, std::string(name));
        ++weights;
      });
      EXPECT_EQ(weights, more ? 9 : norm == query_key_norm::none ? 4 : 6);
    }
  }
}

TEST(attention_layer, without_input_gradient_the_weights_get_the_same_bits) {
  subject b;
  const esft::token_batch batch{std::vector<std::int32_t>(4), {}, {0, 1, 2, 3}, {0, 0, 0, 0}, {}};
  attention_case<subject> layer(b, batch, {2, 1, 4, 1e4, 1e-6, query_key_norm::per_head});
  static_cast<void>(layer.forward());
  const auto run = [&](bool with_input) {
    std::vector<std::vector<double>> result;
    esft::for_each_member(layer.p, [&](std::string_view, auto& w) { w.train(b); });
    if (with_input) {
      static_cast<void>(layer.backward());
    } else {
      layer.backward(static_cast<esft::view_t<subject, esft::value_t<subject>, 2>*>(nullptr));
    }
    esft::for_each_member(layer.p, [&](std::string_view, auto& w) { result.push_back(to_host(b, w.gradient)); });
    return result;
  };
  EXPECT_EQ(run(true), run(false));
}

template <class B>
struct head_case {
  using T = esft::value_t<B>;
  explicit head_case(B& on) : b(on) {}
  double loss() { return scale * esft::head_loss(b, std::as_const(x).view(), std::as_const(head).view(), labels.view()); }
  B& b;
  esft::tensor_t<B, T, 2> x = random_tensor<T>(b, extents<2>{6, 5}, 1);
  esft::tensor_t<B, T, 2> head = random_tensor<T>(b, extents<2>{9, 5}, 2);
  esft::tensor_t<B, std::int32_t, 1> labels =
      esft_test::make_ids(b, extents<1>{6}, {3, esft::ignored_label, 0, 8, 8, esft::ignored_label});
  const double scale = 0.25;
};

TEST(head, gradients_with_ignored_labels) {
  oracle b;
  subject s;
  head_case<oracle> layer(b);
  head_case<subject> tested(s);
  auto dx = s.make_tensor<esft::value_t<subject>>(tested.x.shape());
  auto dhead = s.make_tensor<esft::accum_t<subject>>(tested.head.shape());
  s.fill(dhead.view(), 0.0);
  auto view = dx.view();
  const double sum = esft::head_loss_backward(s, std::as_const(tested.x).view(), std::as_const(tested.head).view(),
                                              std::as_const(tested.labels).view(), tested.scale, &view, dhead.view());
  EXPECT_DOUBLE_EQ(sum * tested.scale, tested.loss());
  const auto loss = [&] { return layer.loss(); };
  check(elements(layer.x), to_host(s, dx), loss, "x");
  check(elements(layer.head), to_host(s, dhead), loss, "head");
  for (const std::size_t ignored : {1U, 5U}) {
    for (std::size_t d = 0; d < 5; ++d) EXPECT_EQ(to_host(s, dx)[5 * ignored + d], 0.0);
  }
}

// More tokens than one chunk holds: the chunks add up to the whole.
TEST(head, chunks_add_up) {
  oracle b;
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
  subject b;
  esft::weight<subject, 3, parameter_role::expert_down> w;
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
