// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which kernels serve a grouped product: those of this CPU for weights in `kernel_layout`, others for row-major ones.

#include <esft/backends/eigen/bf16_matmul.hpp>
#include <esft/backends/eigen/block_cache.hpp>
#include <esft/backends/eigen/layout.hpp>
#include <esft/backends/eigen/matmul.hpp>
#include <esft/backends/eigen/panel_matmul.hpp>
#include <esft/backends/eigen/swiglu.hpp>
#include <esft/backends/eigen/thin_products.hpp>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace esft::detail::eigen {

/// The kernels for weights of element type W in this layout on this machine. Counts them, so that a test can tell which ran.
template <class W>
product_kernels kernels_for(machine& m, matrix_layout layout) {
  ESFT_EXPECTS(layout.row_major() || layout == kernel_layout<W>, "a weight is row-major or in the backend's own layout, `tile`");
  const product_kernels chosen = layout.row_major() ? product_kernels::plain : packed_kernels<W>(m.set);
  ++m.products[static_cast<std::size_t>(chosen)];
  return chosen;
}

inline index last_row(const std::vector<row_group>& groups) {
  index last = 0;
  for (const row_group& group : groups) last = std::max(last, group.end);
  return last;
}

/// The rows of groups, each at its number, for kernels that cannot gather. Other rows are neither read nor written.
template <class T>
class contiguous_rows {
 public:
  contiguous_rows(machine& m, const row_source<T>& rows, const std::vector<row_group>& groups) : data_(rows.data) {
    if (!rows.gathered()) return;
    std::vector<index> needed;
    for (const row_group& group : groups) {
      for (index r = group.begin; r < group.end; ++r) needed.push_back(r);
    }
    copy_ = make_cached_tensor<T, 2>(extents<2>{last_row(groups), rows.width});
    m.rows(static_cast<index>(needed.size()), moving * static_cast<double>(rows.width), [&](index begin, index end, int) {
      for (index i = begin; i < end; ++i) {
        const index r = needed[static_cast<std::size_t>(i)];
        std::copy_n(rows[r], rows.width, copy_.data() + r * rows.width);
      }
    });
    data_ = copy_.data();
  }
  [[nodiscard]] const T* data() const noexcept { return data_; }

 private:
  host_tensor<T, 2> copy_;
  const T* data_;
};

/// y[r] (+)= x[r] w[matrix]^T. @shape x[*, depth], w[*, columns, depth], y[*, columns]
template <class X, class W, class Y>
void product_forward(machine& m, row_source<X> x, stacked<const W> w, Y* y, const std::vector<row_group>& groups, index columns,
                     index depth, bool accumulate) {
  const product_kernels kernels = kernels_for<W>(m, w.layout);
  if (kernels == product_kernels::panels) return panel_forward(m, x, w.data, y, groups, columns, depth, accumulate);
#if ESFT_EIGEN_X86
  if constexpr (std::is_same_v<W, bf16>) {
    if (kernels == product_kernels::tiles) return bf16_forward<amx_tiles>(m, x, w.data, y, groups, columns, depth, accumulate);
    if (kernels == product_kernels::pairs) return bf16_forward<dot_tiles>(m, x, w.data, y, groups, columns, depth, accumulate);
  }
#endif
  const contiguous_rows<X> rows(m, x, groups);
  if (depth <= thin_columns && depth < columns) {
    return thin_forward(m, rows.data(), w.data, y, groups, columns, depth, accumulate);
  }
  plain_forward(m, rows.data(), w.data, y, groups, columns, depth, accumulate);
}

/// gate_up[r] = x[r] w[matrix]^T and h[r] = silu(gate) * up. @shape x[*, depth], w[*, 2 inner, depth], gate_up[*, 2 inner], h[*, inner]
template <class T>
void product_swiglu(machine& m, row_source<T> x, stacked<const T> w, T* gate_up, T* h, const std::vector<row_group>& groups, index inner,
                    index depth) {
  // one half of the matrix begins where the other ends: at a tile only if the halves consist of whole tiles
  if (!w.layout.row_major() && w.layout.fits(inner, depth)) {
    const product_kernels kernels = kernels_for<T>(m, w.layout);
    if (kernels == product_kernels::panels) return panel_swiglu_forward(m, x, w.data, gate_up, h, groups, inner, depth);
#if ESFT_EIGEN_X86
    if constexpr (std::is_same_v<T, bf16>) {
      if (kernels == product_kernels::tiles) return bf16_swiglu_forward<amx_tiles>(m, x, w.data, gate_up, h, groups, inner, depth);
      if (kernels == product_kernels::pairs) return bf16_swiglu_forward<dot_tiles>(m, x, w.data, gate_up, h, groups, inner, depth);
    }
#endif
  }
  product_forward(m, x, w, gate_up, groups, 2 * inner, depth, false);
  m.rows(last_row(groups), 4 * moving * static_cast<double>(inner), [&](index begin, index end, int) {
    call<swiglu_rows>(m.set, static_cast<const T*>(gate_up + begin * 2 * inner), end - begin, inner, h + begin * inner);
  });
}

/// dx[r] (+)= dy[r] w[matrix]. @shape dy[*, depth], w[*, depth, columns], dx[*, columns]
template <class Y, class W, class X>
void product_input_gradient(machine& m, row_source<Y> dy, stacked<const W> w, X* dx, const std::vector<row_group>& groups, index columns,
                            index depth, bool accumulate) {
  const product_kernels kernels = kernels_for<W>(m, w.layout);
  if (kernels == product_kernels::panels) return panel_input_gradient(m, dy, w.data, dx, groups, columns, depth, accumulate);
#if ESFT_EIGEN_X86
  if constexpr (std::is_same_v<W, bf16>) {
    if (kernels == product_kernels::tiles) return bf16_input_gradient<amx_tiles>(m, dy, w.data, dx, groups, columns, depth, accumulate);
    if (kernels == product_kernels::pairs) return bf16_input_gradient<dot_tiles>(m, dy, w.data, dx, groups, columns, depth, accumulate);
  }
#endif
  const contiguous_rows<Y> rows(m, dy, groups);
  if (columns <= thin_columns && columns < depth) {
    return thin_input_gradient(m, rows.data(), w.data, dx, groups, columns, depth, accumulate);
  }
  plain_input_gradient(m, rows.data(), w.data, dx, groups, columns, depth, accumulate);
}

#if ESFT_EIGEN_X86
/// Whether the kernels that take an expert's two products together can run. Counts both products where they did.
template <class Run>
bool both_products(machine& m, matrix_layout gate_up, matrix_layout down, index inner, index width, Run&& run) {
  const bool in_tiles = gate_up == kernel_layout<bf16> && down == kernel_layout<bf16> && gate_up.fits(inner, width);
  if (!in_tiles || m.set < isa::avx512_bf16) return false;
  const bool done = m.set == isa::amx ? run.template operator()<amx_tiles>() : run.template operator()<dot_tiles>();
  if (done) m.products[static_cast<std::size_t>(packed_kernels<bf16>(m.set))] += 2;
  return done;
}
#endif

/// Both products of the experts. @return false, and nothing done, where they are better taken one by one
/// @param gate_up, down the layouts of the weights
inline bool product_mlp([[maybe_unused]] machine& m, [[maybe_unused]] const mlp_operands<bf16>& o, [[maybe_unused]] matrix_layout gate_up,
                        [[maybe_unused]] matrix_layout down, [[maybe_unused]] const std::vector<row_group>& groups,
                        [[maybe_unused]] index rows, [[maybe_unused]] index inner, [[maybe_unused]] index width) {
#if ESFT_EIGEN_X86
  const auto run = [&]<class Engine>() { return bf16_mlp<Engine>(m, o, groups, rows, inner, width); };
  return both_products(m, gate_up, down, inner, width, run);
#else
  return false;
#endif
}
/// Their backward. @param trained by number of the matrix
inline bool product_mlp_backward([[maybe_unused]] machine& m, [[maybe_unused]] const mlp_gradients<bf16>& g,
                                 [[maybe_unused]] matrix_layout gate_up, [[maybe_unused]] matrix_layout down,
                                 [[maybe_unused]] const std::vector<row_group>& groups, [[maybe_unused]] const std::vector<char>& trained,
                                 [[maybe_unused]] index rows, [[maybe_unused]] index inner, [[maybe_unused]] index width) {
#if ESFT_EIGEN_X86
  const auto run = [&]<class Engine>() { return bf16_mlp_backward<Engine>(m, g, groups, trained, rows, inner, width); };
  return both_products(m, gate_up, down, inner, width, run);
#else
  return false;
#endif
}

/// dw[matrix] += the sum over the rows of the group of dy[r]^T x[r]. @shape dy[*, height], x[*, columns], dw[*, height, columns]
template <class Y, class X>
void product_weight_gradient(machine& m, row_source<Y> dy, row_source<X> x, stacked<float> dw, const std::vector<row_group>& groups,
                             index height, index columns) {
  const product_kernels kernels = kernels_for<X>(m, dw.layout);
  if (kernels == product_kernels::panels) return panel_weight_gradient(m, dy, x, dw.data, groups, height, columns);
#if ESFT_EIGEN_X86
  if constexpr (std::is_same_v<X, bf16>) {
    if (kernels == product_kernels::tiles) return bf16_weight_gradient<amx_tiles>(m, dy, x, dw.data, groups, height, columns);
    if (kernels == product_kernels::pairs) return bf16_weight_gradient<dot_tiles>(m, dy, x, dw.data, groups, height, columns);
  }
#endif
  const contiguous_rows<Y> left(m, dy, groups);
  const contiguous_rows<X> right(m, x, groups);
  if (columns <= thin_columns && columns < height) {
    return thin_weight_gradient(m, left.data(), right.data(), dw.data, groups, height, columns);
  }
  plain_weight_gradient(m, left.data(), right.data(), dw.data, groups, height, columns);
}

}  // namespace esft::detail::eigen
