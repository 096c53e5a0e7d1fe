// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Products of matrices with few columns (low-rank factors) by the kernels that know no layout: turned around first, so that the long
/// side is contiguous. Turning a thin matrix costs a fraction of a percent of the product.

#include <esft/backends/eigen/block_cache.hpp>
#include <esft/backends/eigen/matmul.hpp>

#include <algorithm>
#include <vector>

namespace esft::detail::eigen {

/// Widest matrix that is worth turning around.
inline constexpr index thin_columns = 64;

/// The matrices [height, width] that groups with rows use, as [width, height], at the same places of the stack.
template <class W>
host_tensor<W, 3> turned(machine& m, const W* w, const std::vector<row_group>& groups, index height, index width) {
  index matrices = 0;
  for (const row_group& group : groups) matrices = std::max(matrices, group.matrix + 1);
  auto result = make_cached_tensor<W, 3>(extents<3>{matrices, width, height});
  m.run(static_cast<index>(groups.size()), 4.0 * static_cast<double>(matrices * width * height), [&](index task, int) {
    const row_group& group = groups[static_cast<std::size_t>(task)];
    if (group.rows() == 0) return;
    const W* const from = w + group.matrix * height * width;
    W* const to = result.data() + group.matrix * height * width;
    for (index h = 0; h < height; ++h) {
      for (index c = 0; c < width; ++c) to[c * height + h] = from[h * width + c];
    }
  });
  return result;
}

/// y[r] (+)= x[r] w[matrix]^T for w [columns, depth] of little depth. @shape x[*, depth], y[*, columns]
template <class X, class W, class Y>
void thin_forward(machine& m, const X* x, const W* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                  bool accumulate) {
  const auto wide = turned(m, w, groups, columns, depth);
  plain_input_gradient(m, x, static_cast<const W*>(wide.data()), y, groups, columns, depth, accumulate);
}

/// dx[r] (+)= dy[r] w[matrix] for w [depth, columns] of few columns. @shape dy[*, depth], dx[*, columns]
template <class Y, class W, class X>
void thin_input_gradient(machine& m, const Y* dy, const W* w, X* dx, const std::vector<row_group>& groups, index columns, index depth,
                         bool accumulate) {
  const auto wide = turned(m, w, groups, depth, columns);
  plain_forward(m, dy, static_cast<const W*>(wide.data()), dx, groups, columns, depth, accumulate);
}

/// dw[matrix] += the sum of dy[r]^T x[r] for x of few columns. @shape dy[*, height], x[*, columns], dw[*, height, columns]
template <class Y, class X>
void thin_weight_gradient(machine& m, const Y* dy, const X* x, float* dw, const std::vector<row_group>& groups, index height,
                          index columns) {
  index matrices = 0;
  for (const row_group& group : groups) matrices = std::max(matrices, group.matrix + 1);
  auto sums = make_cached_tensor<float, 3>(extents<3>{matrices, columns, height});
  std::fill_n(sums.data(), sums.size(), 0.0F);
  plain_weight_gradient(m, x, dy, sums.data(), groups, columns, height);
  m.run(matrices, 4.0 * static_cast<double>(sums.size()), [&](index matrix, int) {
    const float* const from = sums.data() + matrix * height * columns;
    float* const to = dw + matrix * height * columns;
    for (index h = 0; h < height; ++h) {
      for (index c = 0; c < columns; ++c) to[h * columns + c] += from[c * height + h];
    }
  });
}

}  // namespace esft::detail::eigen
