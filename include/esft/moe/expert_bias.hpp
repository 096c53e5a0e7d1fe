// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Biases of routed experts on routed rows: added behind a grouped product, their gradients, and what they add to a gate's.

#include <esft/nn/weight.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace esft {

namespace detail {
/// The expert that row r belongs to. @pre r < offsets[E]
template <class Offsets>
ESFT_HOST_DEVICE index expert_of_row(const Offsets& offsets, index r) {
  index low = 0;
  index high = offsets.size() - 1;
  while (high - low > 1) {
    const index middle = (low + high) / 2;
    (static_cast<index>(offsets[middle]) <= r ? low : high) = middle;
  }
  return low;
}

template <class Backend>
struct add_expert_bias_strip {
  static constexpr index strip = 8;
  view_t<Backend, value_t<Backend>, 2> y;
  view_t<Backend, const value_t<Backend>, 2> bias;
  view_t<Backend, const std::int32_t, 1> offsets;
  index strips;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index r = i / strips;
    if (r >= offsets[offsets.size() - 1]) return;
    const index e = expert_of_row(offsets, r);
    const index begin = i % strips * strip;
    const index end = begin + strip < y.extent(1) ? begin + strip : y.extent(1);
    for (index f = begin; f < end; ++f) {
      y(r, f) = static_cast<value_t<Backend>>(static_cast<A>(y(r, f)) + static_cast<A>(bias(e, f)));
    }
  }
};

/// <dy of the row's token, the row's bias>, added to the gradient of the row's gate weight.
template <class Backend>
struct add_bias_gate_gradient {
  view_t<Backend, const value_t<Backend>, 2> dy, bias;
  view_t<Backend, const std::int32_t, 1> offsets, row_slot;
  view_t<Backend, accum_t<Backend>, 2> dweights;

  ESFT_HOST_DEVICE void operator()(index r) const {
    using A = accum_t<Backend>;
    if (row_slot[r] == no_expert) return;
    const index e = expert_of_row(offsets, r);
    const index t = row_slot[r] / dweights.extent(1);
    A dot{};
    for (index f = 0; f < dy.extent(1); ++f) dot += static_cast<A>(dy(t, f)) * static_cast<A>(bias(e, f));
    dweights.data()[row_slot[r]] += dot;
  }
};

/// Trained experts, by value: a function object on its way to a device takes them along, and a recording keeps them.
struct expert_list {
  static constexpr std::size_t most = 128;
  std::int32_t id[most];
};

/// One column of one trained expert: the sum over its rows of dy, or of weight * dy of the row's token where there are weights.
template <class Backend>
struct sum_expert_rows {
  view_t<Backend, const value_t<Backend>, 2> dy;
  view_t<Backend, const accum_t<Backend>, 2> weights;
  view_t<Backend, const std::int32_t, 1> offsets, row_slot;
  expert_list experts;
  view_t<Backend, accum_t<Backend>, 2> sum;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index s = i / sum.extent(1);
    const index f = i % sum.extent(1);
    A total{};
    const std::int32_t e = experts.id[s];
    for (index r = offsets[e]; r < offsets[e + 1]; ++r) {
      if (weights.size() == 0) {
        total += static_cast<A>(dy(r, f));
      } else {
        total += weights.data()[row_slot[r]] * static_cast<A>(dy(row_slot[r] / weights.extent(1), f));
      }
    }
    sum(s, f) += total;
  }
};

/// A stack of biases as a matrix. @shape [E, N, 1] -> [E, N]
template <class Stored>
auto bias_rows(Stored& stored) {
  const auto shape = stored.shape();
  ESFT_EXPECTS(stored.layout().row_major(), "a stack of biases lies in row-major order");
  return stored.elements().reshape(extents<2>{shape[0], shape[1]});
}
template <class Backend, parameter_role Role>
void add_expert_bias_gradient(Backend& backend, weight<Backend, 3, Role>& bias, const sum_expert_rows<Backend>& from) {
  if (!bias.trained()) return;
  sum_expert_rows<Backend> body = from;
  for (std::size_t first = 0; first < bias.selected.size(); first += expert_list::most) {
    const std::size_t count = std::min(bias.selected.size() - first, expert_list::most);
    std::copy_n(bias.selected.data() + first, count, body.experts.id);
    body.sum = bias_rows(bias.gradient).slice(static_cast<index>(first), static_cast<index>(first + count));
    backend.for_each(body.sum.size(), body);
  }
}
}  // namespace detail

/// y[r] += the bias of the row's expert; nothing where experts have none. @shape bias [E, N, 1], offsets [E+1], y [R, N]
template <moe_backend Backend, parameter_role Role>
void add_expert_bias(Backend& backend, const weight<Backend, 3, Role>& bias, view_t<Backend, const std::int32_t, 1> offsets,
                     view_t<Backend, value_t<Backend>, 2> y) {
  if (!bias.exists()) return;
  using body = detail::add_expert_bias_strip<Backend>;
  const index strips = (y.extent(1) + body::strip - 1) / body::strip;
  backend.for_each(y.extent(0) * strips, body{y, detail::bias_rows(bias.value), offsets, strips});
}

/// Adds to the gradients of the trained experts' biases. @shape dy [R, N]
template <moe_backend Backend, parameter_role Role>
void expert_bias_backward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> dy, view_t<Backend, const std::int32_t, 1> offsets,
                          weight<Backend, 3, Role>& bias) {
  detail::add_expert_bias_gradient<Backend>(backend, bias, {dy, {}, offsets, {}, {}, {}});
}

/// The same for the bias behind the last product, whose rows the gate weighs: also adds <dy, bias> to the gates' gradients.
/// @shape dy [T, N], weights, dweights [T, K], row_slot [R]
template <moe_backend Backend, parameter_role Role>
void weighted_expert_bias_backward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> dy,
                                   view_t<Backend, const accum_t<Backend>, 2> weights, view_t<Backend, const std::int32_t, 1> offsets,
                                   view_t<Backend, const std::int32_t, 1> row_slot, weight<Backend, 3, Role>& bias,
                                   view_t<Backend, accum_t<Backend>, 2> dweights) {
  if (!bias.exists()) return;
  backend.for_each(row_slot.size(), detail::add_bias_gate_gradient<Backend>{dy, detail::bias_rows(std::as_const(bias.value)), offsets,
                                                                            row_slot, dweights});
  detail::add_expert_bias_gradient<Backend>(backend, bias, {dy, weights, offsets, row_slot, {}, {}});
}

}  // namespace esft
