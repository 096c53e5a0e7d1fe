// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Linear map without bias: forward, and a backward that computes only the gradients that somebody wants.

#include <esft/nn/weight.hpp>

namespace esft {

/// y = x w^T as a new tensor. @shape x [M, K], w [N, K], result [M, N] @cost 2 M N K flops
template <moe_backend Backend, parameter_role Role>
[[nodiscard]] auto linear_forward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const weight<Backend, 2, Role>& w) {
  auto y = backend.template make_tensor<value_t<Backend>>(extents<2>{x.extent(0), w.value.extent(0)});
  backend.linear(x, w.matrix(), y.view(), write_mode::overwrite);
  return y;
}

/// Adds to the weight's gradient where it is trained. @shape dy [M, N], x [M, K]
template <moe_backend Backend, parameter_role Role>
void linear_backward_weight(Backend& backend, view_t<Backend, const value_t<Backend>, 2> dy, view_t<Backend, const value_t<Backend>, 2> x,
                            weight<Backend, 2, Role>& w) {
  if (w.trained()) backend.linear_dw(dy, x, w.gradient_matrix());
}

}  // namespace esft
