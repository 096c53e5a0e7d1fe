// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `reference_backend<T>`: every primitive as plain loops on the host. Read it to learn what an op means; test others against it.

#include <esft/backend/backend.hpp>
#include <esft/backend/reference/adamw.hpp>
#include <esft/backend/reference/attention.hpp>
#include <esft/backend/reference/cross_entropy.hpp>
#include <esft/backend/reference/dispatch.hpp>
#include <esft/backend/reference/matmul.hpp>
#include <esft/backend/reference/norm_and_rope.hpp>
#include <esft/backend/reference/swiglu.hpp>

#include <algorithm>

namespace esft {

/// Plain loops, one thread. T is float, double or bf16. The meaning of each member is the table in backend.hpp.
template <class T>
class reference_backend {
 public:
  using value_type = T;
  using accum_type = accumulate_t<T>;
  using memory_space = host_space;
  static constexpr std::string_view name = "reference";

  template <class U, std::size_t R> using view = host_view<U, R>;
  using ids = host_view<const std::int32_t, 1>;
  using slots = host_view<const std::int32_t, 2>;

  template <class U, std::size_t R>
  [[nodiscard]] host_tensor<U, R> make_tensor(extents<R> shape) {
    return make_host_tensor<U, R>(shape);
  }
  template <class U, std::size_t R>
  void fill(view<U, R> x, std::type_identity_t<U> value) {
    std::fill_n(x.data(), x.size(), value);
  }
  template <class U, std::size_t R>
  void copy(view<const U, R> from, view<std::remove_const_t<U>, R> to) {
    ESFT_EXPECTS(from.size() == to.size(), "both views have equally many elements");
    std::copy_n(from.data(), from.size(), to.data());
  }
  template <class U, std::size_t R>
  void copy(view<U, R> from, view<U, R> to) {
    copy(view<const U, R>(from), to);
  }
  template <class H, class U, std::size_t R>
  void copy_in(std::span<H> host, view<U, R> to) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == to.size(), "host and tensor have equally many elements");
    for (index i = 0; i < to.size(); ++i) to.data()[i] = static_cast<U>(host[static_cast<std::size_t>(i)]);
  }
  template <class H, class U, std::size_t R>
  void copy_out(view<U, R> from, std::span<H> host) {
    ESFT_EXPECTS(static_cast<index>(host.size()) == from.size(), "host and tensor have equally many elements");
    for (index i = 0; i < from.size(); ++i) host[static_cast<std::size_t>(i)] = static_cast<H>(from.data()[i]);
  }
  template <class Body>
  void for_each(index count, Body body) {
    for (index i = 0; i < count; ++i) body(i);
  }

  void linear(view<const T, 2> x, view<const T, 2> w, view<T, 2> y, write_mode mode) { reference::linear<T, T>(x, w, y, mode); }
  void linear_dx(view<const T, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode) { reference::linear_dx<T, T>(dy, w, dx, mode); }
  void linear_dw(view<const T, 2> dy, view<const T, 2> x, view<accum_type, 2> dw) { reference::linear_dw<T, T>(dy, x, dw); }
  void logits(view<const T, 2> x, view<const T, 2> w, view<accum_type, 2> y) {
    reference::linear<T, accum_type>(x, w, y, write_mode::overwrite);
  }
  void logits_dx(view<const accum_type, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode) {
    reference::linear_dx<T, accum_type>(dy, w, dx, mode);
  }
  void logits_dw(view<const accum_type, 2> dy, view<const T, 2> x, view<accum_type, 2> dw) {
    reference::linear_dw<T, accum_type>(dy, x, dw);
  }

  void dispatch(slots expert_ids, view<std::int32_t, 1> offsets, view<std::int32_t, 1> row_slot, view<std::int32_t, 2> slot_row) {
    reference::dispatch(expert_ids, offsets, row_slot, slot_row);
  }
  void gather(view<const T, 2> x, ids row_slot, index active, view<T, 2> y) { reference::gather<T>(x, row_slot, active, y); }
  void gather_sum(view<const T, 2> y, slots slot_row, view<T, 2> out, write_mode mode) {
    reference::weighted_gather_sum<T>(y, slot_row, out, mode, [](index, index) { return accum_type(1); });
  }
  void combine(view<const T, 2> y, slots slot_row, view<const accum_type, 2> weights, view<T, 2> out, write_mode mode) {
    ESFT_EXPECTS(weights.shape() == slot_row.shape(), "weights [T,K] beside slot_row [T,K]");
    reference::weighted_gather_sum<T>(y, slot_row, out, mode, [=](index t, index k) { return weights(t, k); });
  }
  void grouped_linear(view<const T, 2> x, view<const T, 3> w, ids offsets, view<T, 2> y) { reference::grouped_linear<T>(x, w, offsets, y); }
  void grouped_linear_dx(view<const T, 2> dy, view<const T, 3> w, ids offsets, view<T, 2> dx) {
    reference::grouped_linear_dx<T>(dy, w, offsets, dx);
  }
  void grouped_linear_dw(view<const T, 2> dy, view<const T, 2> x, ids offsets, std::span<const std::int32_t> selected,
                         view<accum_type, 3> dw) {
    reference::grouped_linear_dw<T>(dy, x, offsets, selected, dw);
  }
  void swiglu(view<const T, 2> gate_up, view<T, 2> h) { reference::swiglu<T>(gate_up, h); }
  void swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<T, 2> dgate_up) {
    reference::swiglu_backward<T>(gate_up, dh, dgate_up);
  }
  void weighted_swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<const accum_type, 2> weights, ids row_slot,
                                view<T, 2> dgate_up, view<T, 2> weighted_h, view<accum_type, 2> dweights) {
    reference::weighted_swiglu_backward<T>(gate_up, dh, weights, row_slot, dgate_up, weighted_h, dweights);
  }
  void add(view<const T, 1> x, view<T, 1> y) {
    ESFT_EXPECTS(x.size() == y.size(), "x and y have equally many elements");
    for (index i = 0; i < y.size(); ++i) y[i] = static_cast<T>(static_cast<accum_type>(y[i]) + static_cast<accum_type>(x[i]));
  }
  void adamw(view<T, 1> weight, view<accum_type, 1> master, view<accum_type, 1> m, view<accum_type, 1> v,
             view<const accum_type, 1> gradient, const adamw_step& step) {
    reference::adamw<T>(weight, master, m, v, gradient, step);
  }
  [[nodiscard]] double sum_of_squares(view<const accum_type, 1> gradient) {
    double sum = 0;
    for (index i = 0; i < gradient.size(); ++i) sum += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]);
    return sum;
  }

  void embedding(ids tokens, view<const T, 2> table, view<T, 2> y) {
    ESFT_EXPECTS(table.extent(1) == y.extent(1) && tokens.size() == y.extent(0), "ids [T], table [V,D], y [T,D]");
    for (index t = 0; t < y.extent(0); ++t) {
      ESFT_EXPECTS(tokens[t] >= 0 && tokens[t] < table.extent(0), "a token id lies in [0, V)");
      for (index d = 0; d < y.extent(1); ++d) y(t, d) = table(tokens[t], d);
    }
  }
  void embedding_dw(ids tokens, view<const T, 2> dy, view<accum_type, 2> dtable) {
    ESFT_EXPECTS(dtable.extent(1) == dy.extent(1) && tokens.size() == dy.extent(0), "ids [T], dy [T,D], dtable [V,D]");
    for (index t = 0; t < dy.extent(0); ++t) {
      ESFT_EXPECTS(tokens[t] >= 0 && tokens[t] < dtable.extent(0), "a token id lies in [0, V)");
      for (index d = 0; d < dy.extent(1); ++d) dtable(tokens[t], d) += static_cast<accum_type>(dy(t, d));
    }
  }
  void rms_norm(view<const T, 2> x, view<const T, 1> weight, double epsilon, view<T, 2> y, view<accum_type, 1> rstd) {
    reference::rms_norm<T>(x, weight, epsilon, y, rstd);
  }
  void rms_norm_dx(view<const T, 2> dy, view<const T, 2> x, view<const T, 1> weight, view<const accum_type, 1> rstd, view<T, 2> dx,
                   write_mode mode) {
    reference::rms_norm_dx<T>(dy, x, weight, rstd, dx, mode);
  }
  void rms_norm_dw(view<const T, 2> dy, view<const T, 2> x, view<const accum_type, 1> rstd, view<accum_type, 1> dweight) {
    reference::rms_norm_dw<T>(dy, x, rstd, dweight);
  }
  void rope(view<T, 3> x, ids positions, double theta, int direction) { reference::rope<T>(x, positions, theta, direction); }
  void attention(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, ids key_begin, ids key_end, double scale, view<T, 3> o,
                 view<accum_type, 2> lse) {
    reference::attention<T>(q, k, v, key_begin, key_end, scale, o, lse);
  }
  void attention_backward(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, view<const T, 3> o, view<const accum_type, 2> lse,
                          view<const T, 3> d_o, ids key_begin, ids key_end, double scale, view<T, 3> dq, view<T, 3> dk, view<T, 3> dv) {
    reference::attention_backward<T>(q, k, v, o, lse, d_o, key_begin, key_end, scale, dq, dk, dv);
  }
  [[nodiscard]] double cross_entropy(view<accum_type, 2> logits, ids labels, double scale) {
    return reference::cross_entropy<accum_type>(logits, labels, scale);
  }
};

static_assert(transformer_backend<reference_backend<float>>);
static_assert(transformer_backend<reference_backend<double>>);
static_assert(transformer_backend<reference_backend<bf16>>);

}  // namespace esft
