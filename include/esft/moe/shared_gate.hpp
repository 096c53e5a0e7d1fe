// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Shared experts behind a gate of their own: y += sigmoid(<w, x>) shared(x), as in Qwen2-MoE.

#include <esft/nn/swiglu.hpp>

#include <cmath>
#include <utility>

namespace esft {

/// What the backward needs. @shape gate [T, 1], output [T, D]
template <class Backend>
struct shared_gate_saved {
  tensor_t<Backend, accum_t<Backend>, 2> gate;
  tensor_t<Backend, value_t<Backend>, 2> output;  ///< of the shared experts, before the gate
};

namespace detail {
template <class Backend>
struct sigmoid_element {
  view_t<Backend, accum_t<Backend>, 1> x;
  ESFT_HOST_DEVICE void operator()(index i) const { x[i] = accum_t<Backend>(1) / (accum_t<Backend>(1) + std::exp(-x[i])); }
};

/// to = gate * from, or to += gate * from, in strips of a row.
template <class Backend>
struct gate_strip {
  static constexpr index strip = 8;
  view_t<Backend, const value_t<Backend>, 2> from;
  view_t<Backend, const accum_t<Backend>, 2> gate;
  view_t<Backend, value_t<Backend>, 2> to;
  index strips;
  bool adds;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index t = i / strips;
    const index begin = i % strips * strip;
    const index end = begin + strip < to.extent(1) ? begin + strip : to.extent(1);
    for (index f = begin; f < end; ++f) {
      const A gated = gate(t, 0) * static_cast<A>(from(t, f));
      to(t, f) = static_cast<value_t<Backend>>(adds ? static_cast<A>(to(t, f)) + gated : gated);
    }
  }
};

/// One part of <dy, output> of one row.
template <class Backend>
struct gated_dot_part {
  static constexpr index strip = 64;
  view_t<Backend, const value_t<Backend>, 2> dy, output;
  view_t<Backend, accum_t<Backend>, 2> parts;  ///< @shape [T, ceil(D / strip)]

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index t = i / parts.extent(1);
    const index begin = i % parts.extent(1) * strip;
    const index end = begin + strip < dy.extent(1) ? begin + strip : dy.extent(1);
    A dot{};
    for (index f = begin; f < end; ++f) dot += static_cast<A>(dy(t, f)) * static_cast<A>(output(t, f));
    parts(t, i % parts.extent(1)) = dot;
  }
};
/// @eq dz = s (1 - s) <dy, output>
template <class Backend>
struct shared_gate_gradient {
  view_t<Backend, const accum_t<Backend>, 2> parts, gate;
  view_t<Backend, accum_t<Backend>, 2> dlogit;

  ESFT_HOST_DEVICE void operator()(index t) const {
    using A = accum_t<Backend>;
    A dot{};
    for (index p = 0; p < parts.extent(1); ++p) dot += parts(t, p);
    dlogit(t, 0) = gate(t, 0) * (A(1) - gate(t, 0)) * dot;
  }
};

template <class Backend>
void apply_gate(Backend& backend, view_t<Backend, const value_t<Backend>, 2> from, view_t<Backend, const accum_t<Backend>, 2> gate,
                view_t<Backend, value_t<Backend>, 2> to, bool adds) {
  const index strips = (to.extent(1) + gate_strip<Backend>::strip - 1) / gate_strip<Backend>::strip;
  backend.for_each(to.extent(0) * strips, gate_strip<Backend>{from, gate, to, strips, adds});
}
}  // namespace detail

/// y += sigmoid(x w^T) shared(x). @shape x, y [T, D], w [1, D] @source Qwen2, arXiv 2407.10671, section 2.2.2
template <moe_backend Backend, parameter_role Gate, parameter_role GateUp, parameter_role Down>
void gated_shared_forward(Backend& backend, const swiglu_parameters<Backend, GateUp, Down>& p, const weight<Backend, 2, Gate>& w,
                          view_t<Backend, const value_t<Backend>, 2> x, view_t<Backend, value_t<Backend>, 2> y,
                          swiglu_saved<Backend>& saved, shared_gate_saved<Backend>& gate_saved) {
  gate_saved.gate = backend.template make_tensor<accum_t<Backend>>(extents<2>{x.extent(0), 1});
  logits_forward(backend, x, w, gate_saved.gate.view());
  backend.for_each(x.extent(0), detail::sigmoid_element<Backend>{gate_saved.gate.view().flat()});
  gate_saved.output = backend.template make_tensor<value_t<Backend>>(y.shape());
  swiglu_forward(backend, p, x, gate_saved.output.view(), write_mode::overwrite, saved);
  detail::apply_gate<Backend>(backend, gate_saved.output.view(), gate_saved.gate.view(), y, true);
}

/// Adds the gradients of what is trained; adds to dx unless it is null. @shape dy, x, dx [T, D]
template <moe_backend Backend, parameter_role Gate, parameter_role GateUp, parameter_role Down>
void gated_shared_backward(Backend& backend, swiglu_parameters<Backend, GateUp, Down>& p, weight<Backend, 2, Gate>& w,
                           view_t<Backend, const value_t<Backend>, 2> dy, view_t<Backend, const value_t<Backend>, 2> x,
                           const swiglu_saved<Backend>& saved, const shared_gate_saved<Backend>& gate_saved,
                           view_t<Backend, value_t<Backend>, 2>* dx) {
  auto d_output = backend.template make_tensor<value_t<Backend>>(dy.shape());
  detail::apply_gate<Backend>(backend, dy, gate_saved.gate.view(), d_output.view(), false);
  swiglu_backward(backend, p, std::as_const(d_output).view(), x, saved, dx, write_mode::accumulate);
  auto dlogit = backend.template make_tensor<accum_t<Backend>>(gate_saved.gate.shape());
  using part = detail::gated_dot_part<Backend>;
  auto parts = backend.template make_tensor<accum_t<Backend>>(extents<2>{dy.extent(0), (dy.extent(1) + part::strip - 1) / part::strip});
  backend.for_each(parts.size(), part{dy, gate_saved.output.view(), parts.view()});
  backend.for_each(dy.extent(0),
                   detail::shared_gate_gradient<Backend>{std::as_const(parts).view(), gate_saved.gate.view(), dlogit.view()});
  logits_backward<Backend>(backend, std::as_const(dlogit).view(), x, w, dx, write_mode::accumulate);
}

}  // namespace esft
