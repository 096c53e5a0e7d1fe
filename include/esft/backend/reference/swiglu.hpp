// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Plain-loop SwiGLU and its backward. @source N. Shazeer, arXiv 2002.05202

#include <esft/backend/backend.hpp>

#include <cmath>

namespace esft::reference {

/// Logistic function.
template <class A>
A sigmoid(A a) {
  return A(1) / (A(1) + std::exp(-a));
}

/// h = silu(gate) * up. @shape gate_up [R, 2I] (gate first), h [R, I]
template <class T>
void swiglu(host_view<const T, 2> gate_up, host_view<T, 2> h) {
  using sum_type = accumulate_t<T>;
  const index width = h.extent(1);
  ESFT_EXPECTS(gate_up.extent(0) == h.extent(0) && gate_up.extent(1) == 2 * width, "gate_up [R,2I], h [R,I]");
  for (index r = 0; r < h.extent(0); ++r) {
    for (index i = 0; i < width; ++i) {
      const auto a = static_cast<sum_type>(gate_up(r, i));
      const auto b = static_cast<sum_type>(gate_up(r, width + i));
      h(r, i) = static_cast<T>(a * sigmoid(a) * b);
    }
  }
}

/// One element of the backward: d silu(a) b.
/// @eq db = dh silu(a);  da = dh b sigma(a) (1 + a (1 - sigma(a)))
template <class A>
void swiglu_element_backward(A a, A b, A dh, A& da, A& db) {
  const A s = sigmoid(a);
  db = dh * a * s;
  da = dh * b * s * (A(1) + a * (A(1) - s));
}

/// @shape gate_up [R, 2I], dh [R, I], dgate_up [R, 2I]
template <class T>
void swiglu_backward(host_view<const T, 2> gate_up, host_view<const T, 2> dh, host_view<T, 2> dgate_up) {
  using sum_type = accumulate_t<T>;
  const index width = dh.extent(1);
  ESFT_EXPECTS(gate_up.shape() == dgate_up.shape() && gate_up.extent(0) == dh.extent(0) && gate_up.extent(1) == 2 * width,
               "gate_up, dgate_up [R,2I], dh [R,I]");
  for (index r = 0; r < dh.extent(0); ++r) {
    for (index i = 0; i < width; ++i) {
      sum_type da{};
      sum_type db{};
      swiglu_element_backward(static_cast<sum_type>(gate_up(r, i)), static_cast<sum_type>(gate_up(r, width + i)),
                              static_cast<sum_type>(dh(r, i)), da, db);
      dgate_up(r, i) = static_cast<T>(da);
      dgate_up(r, width + i) = static_cast<T>(db);
    }
  }
}

/// Backward through `weights[slot] * swiglu(gate_up[r])`, recomputing h instead of storing it. Rows without a slot, and empty slots, are
/// left alone.
/// @shape gate_up [R, 2I], dh [R, I] (not yet weighted), weights [T, K], row_slot [R], dgate_up [R, 2I], weighted_h [R, I], dweights [T, K]
template <class T>
void weighted_swiglu_backward(host_view<const T, 2> gate_up, host_view<const T, 2> dh, host_view<const accumulate_t<T>, 2> weights,
                              host_view<const std::int32_t, 1> row_slot, host_view<T, 2> dgate_up, host_view<T, 2> weighted_h,
                              host_view<accumulate_t<T>, 2> dweights) {
  using sum_type = accumulate_t<T>;
  const index width = dh.extent(1);
  ESFT_EXPECTS(gate_up.shape() == dgate_up.shape() && gate_up.extent(0) == dh.extent(0) && gate_up.extent(1) == 2 * width &&
                   weighted_h.shape() == dh.shape() && row_slot.size() == dh.extent(0) && weights.size() == dweights.size(),
               "gate_up, dgate_up [R,2I], dh, weighted_h [R,I], row_slot [R], weights, dweights [T,K]");
  for (index r = 0; r < dh.extent(0); ++r) {
    if (row_slot[r] == no_expert) continue;
    const sum_type weight = weights.data()[row_slot[r]];
    sum_type dweight{};
    for (index i = 0; i < width; ++i) {
      const auto a = static_cast<sum_type>(gate_up(r, i));
      const auto b = static_cast<sum_type>(gate_up(r, width + i));
      const auto d = static_cast<sum_type>(dh(r, i));
      const sum_type h = a * sigmoid(a) * b;
      sum_type da{};
      sum_type db{};
      swiglu_element_backward(a, b, weight * d, da, db);
      dweight += d * h;
      dgate_up(r, i) = static_cast<T>(da);
      dgate_up(r, width + i) = static_cast<T>(db);
      weighted_h(r, i) = static_cast<T>(weight * h);
    }
    dweights.data()[row_slot[r]] = dweight;
  }
}

}  // namespace esft::reference
