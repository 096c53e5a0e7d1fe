// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A baseline: a whole MoE layer in float, written with Eigen alone as a careful user would write it.

#include <cstdint>
#include <vector>

namespace esft::bench {

/// One MoE layer and its buffers, row-major. Letters as in docs/notation.md.
struct eigen_layer {
  long tokens, width, inner, experts, active;  // T, D, I, E, K
  const float *x, *dy, *gate_up, *down;        // [T, D], [T, D], [E, 2I, D], [E, D, I]
  const std::int32_t* ids;                     // [T, K]
  const float* weights;                        // [T, K]
  std::vector<std::int32_t> selected;          // trained experts
  float *y, *dx, *d_gate_up, *d_down, *dweights;
};

/// Forward, and backward on demand: weight gradients of the selected experts only. The experts are shared out among the threads.
__attribute__((visibility("default"))) void run_eigen_layer(const eigen_layer& layer, bool backward, int threads);

}  // namespace esft::bench
