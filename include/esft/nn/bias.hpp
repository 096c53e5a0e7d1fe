// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Bias of a linear map: added to every row, and its gradient.

#include <esft/nn/weight.hpp>

#include <type_traits>
#include <utility>

namespace esft {

namespace detail {
template <class Backend, class T = value_t<Backend>>
struct add_bias_strip {
  static constexpr index strip = 8;
  view_t<Backend, T, 2> y;
  view_t<Backend, const value_t<Backend>, 1> bias;
  index strips;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index row = i / strips;
    const index begin = i % strips * strip;
    const index end = begin + strip < bias.size() ? begin + strip : bias.size();
    for (index f = begin; f < end; ++f) y(row, f) = static_cast<T>(static_cast<A>(y(row, f)) + static_cast<A>(bias[f]));
  }
};

/// One column of the sum over `share` rows: enough parts for a device's threads, in an order that shapes alone decide.
template <class Backend, class T = value_t<Backend>>
struct sum_rows_column {
  static constexpr index share = 128;
  view_t<Backend, const T, 2> dy;
  view_t<Backend, accum_t<Backend>, 2> sums;  ///< @shape [ceil(T / share), N], or [1, N] of all rows
  bool adds;

  ESFT_HOST_DEVICE void operator()(index i) const {
    const index part = i / sums.extent(1);
    const index f = i % sums.extent(1);
    const index end = sums.extent(0) == 1 || (part + 1) * share > dy.extent(0) ? dy.extent(0) : (part + 1) * share;
    accum_t<Backend> total{};
    for (index t = part * share; t < end; ++t) total += static_cast<accum_t<Backend>>(dy(t, f));
    sums(part, f) = adds ? sums(part, f) + total : total;
  }
};

/// sum[f] += sum over the rows of dy, in two rounds where they are many.
template <class Backend, class T>
void add_sum_of_rows(Backend& backend, view_t<Backend, const T, 2> dy, view_t<Backend, accum_t<Backend>, 1> sum) {
  using A = accum_t<Backend>;
  constexpr index share = sum_rows_column<Backend, T>::share;
  const auto all = sum.reshape(extents<2>{1, sum.size()});
  if (dy.extent(0) <= share) return backend.for_each(sum.size(), sum_rows_column<Backend, T>{dy, all, true});
  auto parts = backend.template make_tensor<A>(extents<2>{(dy.extent(0) + share - 1) / share, sum.size()});
  backend.for_each(parts.size(), sum_rows_column<Backend, T>{dy, parts.view(), false});
  backend.for_each(sum.size(), sum_rows_column<Backend, A>{std::as_const(parts).view(), all, true});
}
}  // namespace detail

/// y += bias in every row; nothing where the layer has no bias. @shape y [T, N], in either element type; bias [N]
template <backend Backend, parameter_role Role, class T, memory_space Space>
void add_bias(Backend& backend, const weight<Backend, 1, Role>& bias, tensor_view<T, 2, Space> y) {
  if (!bias.exists()) return;
  ESFT_EXPECTS(bias.value.extent(0) == y.extent(1), "a bias has one entry per column");
  using body = detail::add_bias_strip<Backend, T>;
  const index strips = (y.extent(1) + body::strip - 1) / body::strip;
  backend.for_each(y.extent(0) * strips, body{y, bias.value.view(), strips});
}

/// Adds the sum of the rows of dy to the bias's gradient where it is trained. @shape dy [T, N], in either element type
template <backend Backend, parameter_role Role, class T, memory_space Space>
void bias_backward(Backend& backend, tensor_view<T, 2, Space> dy, weight<Backend, 1, Role>& bias) {
  using element = std::remove_const_t<T>;
  if (bias.trained()) detail::add_sum_of_rows<Backend, element>(backend, dy, bias.gradient.view());
}

}  // namespace esft
