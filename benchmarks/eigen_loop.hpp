// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The baseline: a plain loop over experts with Eigen's products, as a careful user would write it. float, one thread, row-major.

#include <cstdint>
#include <vector>

namespace esft::baseline {

/// One MoE layer and its buffers. Letters as in docs/notation.md.
struct layer {
  long tokens, width, inner, experts, active;  // T, D, I, E, K
  const float *x, *dy, *gate_up, *down;        // [T, D], [T, D], [E, 2I, D], [E, D, I]
  const std::int32_t* ids;                     // [T, K]
  const float* weights;                        // [T, K]
  std::vector<std::int32_t> selected;          // trained experts
  float *y, *dx, *d_gate_up, *d_down, *dweights;
};

/// Forward and backward; weight gradients of the selected experts only.
__attribute__((visibility("default"))) void layer_step(const layer& l);

/// y = x w^T, dx = dy w, dw += dy^T x. @shape x [M, K], w [N, K], y [M, N]
__attribute__((visibility("default"))) void forward(long m, long n, long k, const float* x, const float* w, float* y);
__attribute__((visibility("default"))) void input_gradient(long m, long n, long k, const float* dy, const float* w, float* dx);
__attribute__((visibility("default"))) void weight_gradient(long m, long n, long k, const float* dy, const float* x, float* dw);

}  // namespace esft::baseline
