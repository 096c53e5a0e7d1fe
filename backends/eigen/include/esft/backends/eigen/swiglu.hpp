// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// SwiGLU rows and their backward, sixteen columns at a time.

#include <esft/backends/eigen/simd.hpp>
#include <esft/core/routing_record.hpp>

namespace esft::detail::eigen {

/// h = silu(gate) * up. @shape gate_up [rows, 2 width], h [rows, width]
template <class vec>
struct swiglu_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* gate_up, index rows, index width, T* h) {
    for (index r = 0; r < rows; ++r, gate_up += 2 * width, h += width) {
      for (index i = 0; i < width; i += lanes_of<vec>) {
        vec a;
        vec b;
        vec s;
        load(a, gate_up + i, width - i);
        load(b, gate_up + width + i, width - i);
        sigmoid(s, a);
        store(h + i, a * s * b, width - i);
      }
    }
  }
};

/// dgate = dh up s (1 + gate (1 - s)), dup = dh gate s, with s = sigmoid(gate).
template <class vec>
struct swiglu_backward_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* gate_up, const T* dh, index rows, index width, T* dgate_up) {
    for (index r = 0; r < rows; ++r, gate_up += 2 * width, dh += width, dgate_up += 2 * width) {
      for (index i = 0; i < width; i += lanes_of<vec>) {
        vec a;
        vec b;
        vec d;
        vec s;
        load(a, gate_up + i, width - i);
        load(b, gate_up + width + i, width - i);
        load(d, dh + i, width - i);
        sigmoid(s, a);
        store(dgate_up + i, d * b * s * (1.0F + a * (1.0F - s)), width - i);
        store(dgate_up + width + i, d * a * s, width - i);
      }
    }
  }
};

/// The backward of weight * swiglu(gate_up): dgate_up, weight * h, and <dh, h> for the weight. Rows [first, first + rows).
template <class vec>
struct weighted_swiglu_backward_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* gate_up, const T* dh, const float* weights, const std::int32_t* row_slot, index rows,
                                    index width, T* dgate_up, T* weighted_h, float* dweights) {
    for (index r = 0; r < rows; ++r, gate_up += 2 * width, dh += width, dgate_up += 2 * width, weighted_h += width) {
      if (row_slot[r] == no_expert) continue;
      const float weight = weights[row_slot[r]];
      vec dot = {};
      for (index i = 0; i < width; i += lanes_of<vec>) {
        vec a;
        vec b;
        vec d;
        vec s;
        load(a, gate_up + i, width - i);
        load(b, gate_up + width + i, width - i);
        load(d, dh + i, width - i);
        sigmoid(s, a);
        const vec silu = a * s;
        const vec h = silu * b;
        dot += d * h;
        d *= weight;
        store(dgate_up + i, d * b * s * (1.0F + a * (1.0F - s)), width - i);
        store(dgate_up + width + i, d * silu, width - i);
        store(weighted_h + i, weight * h, width - i);
      }
      dweights[row_slot[r]] = sum_of(dot);
    }
  }
};

}  // namespace esft::detail::eigen
