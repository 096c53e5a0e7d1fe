// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The experts' activation where it is not the backend's SwiGLU: GPT-OSS clamps gate and up, and interleaves them.

#include <esft/backend/backend.hpp>

#include <cmath>

namespace esft {

/// Constants of a clamped SwiGLU, none of them trained. A limit of 0 stands for the plain SwiGLU of the backend.
struct swiglu_clamp {
  double limit = 0;      ///< gate is at most this, up at most this in magnitude
  double alpha = 1.702;  ///< factor inside the sigmoid

  [[nodiscard]] bool exists() const noexcept { return limit > 0; }
  friend bool operator==(const swiglu_clamp&, const swiglu_clamp&) = default;
};

namespace detail {
/// One pair of columns (gate, up) and its derivatives.
/// @eq h = (clamp(u, -l, l) + 1) g s(a g), g = min(gate, l)
template <class A>
struct clamped_pair {
  A gate, up, sigmoid;
  bool gate_moves, up_moves;

  ESFT_HOST_DEVICE clamped_pair(A g, A u, A limit, A alpha)
      : gate(g > limit ? limit : g),
        up(u > limit ? limit : u < -limit ? -limit : u),
        sigmoid(A(1) / (A(1) + std::exp(-alpha * gate))),
        gate_moves(!(g > limit)),
        up_moves(!(u > limit || u < -limit)) {}

  ESFT_HOST_DEVICE A value() const { return (up + A(1)) * gate * sigmoid; }
  ESFT_HOST_DEVICE A d_gate(A alpha) const {
    return gate_moves ? (up + A(1)) * sigmoid * (A(1) + alpha * gate * (A(1) - sigmoid)) : A{};
  }
  ESFT_HOST_DEVICE A d_up() const { return up_moves ? gate * sigmoid : A{}; }
};

template <class Backend>
struct clamped_swiglu_strip {
  static constexpr index strip = 8;
  view_t<Backend, const value_t<Backend>, 2> gate_up;
  view_t<Backend, value_t<Backend>, 2> h;
  index strips;
  accum_t<Backend> limit, alpha;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index r = i / strips;
    const index begin = i % strips * strip;
    const index end = begin + strip < h.extent(1) ? begin + strip : h.extent(1);
    for (index f = begin; f < end; ++f) {
      const clamped_pair<A> pair(static_cast<A>(gate_up(r, 2 * f)), static_cast<A>(gate_up(r, 2 * f + 1)), limit, alpha);
      h(r, f) = static_cast<value_t<Backend>>(pair.value());
    }
  }
};

template <class Backend>
struct clamped_swiglu_gradient_row {
  view_t<Backend, const value_t<Backend>, 2> gate_up, dh;
  view_t<Backend, const accum_t<Backend>, 2> weights;
  view_t<Backend, const std::int32_t, 1> row_slot;
  view_t<Backend, value_t<Backend>, 2> dgate_up, weighted_h;
  view_t<Backend, accum_t<Backend>, 2> dweights;
  accum_t<Backend> limit, alpha;

  ESFT_HOST_DEVICE void operator()(index r) const {
    using A = accum_t<Backend>;
    using T = value_t<Backend>;
    if (row_slot[r] == no_expert) return;
    const A weight = weights.data()[row_slot[r]];
    A dot{};
    for (index f = 0; f < dh.extent(1); ++f) {
      const clamped_pair<A> pair(static_cast<A>(gate_up(r, 2 * f)), static_cast<A>(gate_up(r, 2 * f + 1)), limit, alpha);
      const A d = static_cast<A>(dh(r, f));
      dot += d * pair.value();
      weighted_h(r, f) = static_cast<T>(weight * pair.value());
      dgate_up(r, 2 * f) = static_cast<T>(weight * d * pair.d_gate(alpha));
      dgate_up(r, 2 * f + 1) = static_cast<T>(weight * d * pair.d_up());
    }
    dweights.data()[row_slot[r]] = dot;
  }
};
}  // namespace detail

/// h = the experts' activation: the backend's SwiGLU, or the clamped one, whose gate and up are neighbouring columns.
/// @shape gate_up [R, 2I], h [R, I] @source GPT-OSS model card, arXiv 2508.10925, section 2.3
template <moe_backend Backend>
void activate_experts(Backend& backend, const swiglu_clamp& clamp, view_t<Backend, const value_t<Backend>, 2> gate_up,
                      view_t<Backend, value_t<Backend>, 2> h) {
  if (!clamp.exists()) return backend.swiglu(gate_up, h);
  using body = detail::clamped_swiglu_strip<Backend>;
  const index strips = (h.extent(1) + body::strip - 1) / body::strip;
  backend.for_each(h.extent(0) * strips,
                   body{gate_up, h, strips, static_cast<accum_t<Backend>>(clamp.limit), static_cast<accum_t<Backend>>(clamp.alpha)});
}

/// Its backward as the backend's `weighted_swiglu_backward`, in which shapes and meanings are the same.
template <moe_backend Backend>
void activate_experts_backward(Backend& backend, const swiglu_clamp& clamp, view_t<Backend, const value_t<Backend>, 2> gate_up,
                               view_t<Backend, const value_t<Backend>, 2> dh, view_t<Backend, const accum_t<Backend>, 2> weights,
                               view_t<Backend, const std::int32_t, 1> row_slot, view_t<Backend, value_t<Backend>, 2> dgate_up,
                               view_t<Backend, value_t<Backend>, 2> weighted_h, view_t<Backend, accum_t<Backend>, 2> dweights) {
  if (!clamp.exists()) return backend.weighted_swiglu_backward(gate_up, dh, weights, row_slot, dgate_up, weighted_h, dweights);
  backend.for_each(dh.extent(0), detail::clamped_swiglu_gradient_row<Backend>{
                                     gate_up, dh, weights, row_slot, dgate_up, weighted_h, dweights,
                                     static_cast<accum_t<Backend>>(clamp.limit), static_cast<accum_t<Backend>>(clamp.alpha)});
}

}  // namespace esft
