// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Bias of a linear map: added to every row, and its gradient.

#include <esft/nn/weight.hpp>

#include <type_traits>

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

template <class Backend, class T = value_t<Backend>>
struct sum_rows_column {
  view_t<Backend, const T, 2> dy;
  view_t<Backend, accum_t<Backend>, 1> sum;

  ESFT_HOST_DEVICE void operator()(index f) const {
    accum_t<Backend> total{};
    for (index t = 0; t < dy.extent(0); ++t) total += static_cast<accum_t<Backend>>(dy(t, f));
    sum[f] += total;
  }
};
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
  if (bias.trained()) backend.for_each(dy.extent(1), detail::sum_rows_column<Backend, element>{dy, bias.gradient.view()});
}

}  // namespace esft
