// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Grouped products of bf16 matrices in tiles, on an `Engine`: `amx_tiles`, or `dot_tiles` on CPUs with AVX512_BF16 alone.

#include <esft/backends/eigen/bf16_dot.hpp>
#include <esft/backends/eigen/bf16_few_rows.hpp>
#include <esft/backends/eigen/bf16_forward.hpp>
#include <esft/backends/eigen/bf16_input_gradient.hpp>
#include <esft/backends/eigen/bf16_mlp.hpp>
#include <esft/backends/eigen/bf16_weight_gradient.hpp>

#include <type_traits>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

// Weights and their gradients are in `kernel_layout<bf16>`; all extents but the number of rows are multiples of 32.
// Each result is a sum in one order, whatever the number of threads.

/// y[r] = x[r] w[matrix]^T, or +=. @shape x [*, depth], w [*, columns, depth], y [*, columns]
template <class Engine, class Y>
void bf16_forward(machine& m, row_source<bf16> x, const bf16* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                  bool accumulate) {
  const split_groups by(groups);
  few_rows_forward(m, x, w, y, by.few, columns, depth, accumulate);
  tiled_forward<Engine>(m, x, w, y, by.many, columns, depth, accumulate);
}
/// gate_up[r] = x[r] w[matrix]^T, h[r] = silu(gate) * up. @shape x [*, depth], w [*, 2 inner, depth], gate_up [*, 2 inner], h [*, inner]
template <class Engine>
void bf16_swiglu_forward(machine& m, row_source<bf16> x, const bf16* w, bf16* gate_up, bf16* h, const std::vector<row_group>& groups,
                         index inner, index depth) {
  const split_groups by(groups);
  few_rows_swiglu_forward(m, x, w, gate_up, h, by.few, inner, depth);
  tiled_swiglu_forward<Engine>(m, x, w, gate_up, h, by.many, inner, depth);
}
/// dx[r] = dy[r] w[matrix], or +=. A dy of floats keeps 16 bits of its mantissa.
/// @shape dy [*, depth], w [*, depth, columns], dx [*, columns]
template <class Engine, class Y>
void bf16_input_gradient(machine& m, row_source<Y> dy, const bf16* w, bf16* dx, const std::vector<row_group>& groups, index columns,
                         index depth, bool accumulate) {
  if constexpr (std::is_same_v<Y, bf16>) {
    const split_groups by(groups);
    few_rows_input_gradient(m, dy, w, dx, by.few, columns, depth, accumulate);
    tiled_input_gradient<Engine>(m, dy, w, dx, by.many, columns, depth, accumulate);
  } else {
    tiled_input_gradient<Engine>(m, dy, w, dx, groups, columns, depth, accumulate);
  }
}
/// dw[matrix] += the sum of dy[r]^T x[r]. A dy of floats keeps 16 bits of its mantissa.
/// @shape dy [*, height], x [*, columns], dw [*, height, columns]
template <class Engine, class Y>
void bf16_weight_gradient(machine& m, row_source<Y> dy, row_source<bf16> x, float* dw, const std::vector<row_group>& groups, index height,
                          index columns) {
  tiled_weight_gradient<Engine>(m, dy, x, dw, groups, height, columns);
}
/// The experts of a layer without anything stored between their two products. @return false, and nothing done, where that would leave
/// threads idle @shape see `mlp_operands`
template <class Engine>
bool bf16_mlp(machine& m, const mlp_operands<bf16>& o, const std::vector<row_group>& groups, index rows, index inner, index width) {
  const bool factors = o.gate_up_factors != nullptr || o.down_factors != nullptr;
  const split_groups by(groups, factors ? 0 : few_rows);
  const mlp_tasks cut = mlp_forward_tasks(by.many, inner, width);
  if (!factors && !cut.enough_for(m.pool.threads())) return false;  // with factors other bits than the ops': threads must not decide
  few_rows_mlp(m, o, by.few, rows, inner, width);
  tiled_mlp<Engine>(m, o, cut, inner, width);
  return true;
}
/// @copydoc bf16_mlp
template <class Engine>
bool bf16_mlp_backward(machine& m, const mlp_gradients<bf16>& g, const std::vector<row_group>& groups, const std::vector<char>& trained,
                       index rows, index inner, index width) {
  const bool factors = g.gate_up_factors != nullptr || g.down_factors != nullptr;
  const split_groups by(groups, factors ? 0 : few_rows);
  const mlp_tasks cut = mlp_backward_tasks(by.many, inner, width);
  if (!factors && !cut.enough_for(m.pool.threads())) return false;  // with factors other bits than the ops': threads must not decide
  few_rows_mlp_backward(m, g, by.few, rows, inner, width);
  tiled_mlp_backward<Engine>(m, g, cut, trained, inner, width);
  return true;
}

#endif

}  // namespace esft::detail::eigen
