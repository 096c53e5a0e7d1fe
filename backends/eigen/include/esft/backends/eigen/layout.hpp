// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Blocks of a matrix in any layout to and from row-major floats: for kernels that know no layout, and for permuting in place.

#include <esft/backends/eigen/packing.hpp>
#include <esft/backends/eigen/rows.hpp>

#include <vector>

namespace esft::detail::eigen {

/// Stacked matrices in memory.
template <class T>
struct stacked {
  T* data = nullptr;
  matrix_layout layout{};
};

/// A block of a matrix: rows [row, row + rows), columns [column, column + columns).
struct block {
  index row, rows, column, columns;
};

/// Calls `visit(row of the block, column of the block, offset in the matrix, length)` for contiguous runs of at most one tile's width.
template <class Visit>
void for_each_run(matrix_layout layout, index matrix_columns, const block& b, Visit&& visit) {
  for (index r = 0; r < b.rows; ++r) {
    for (index c = 0; c < b.columns;) {
      const index at = b.column + c;
      const index end = layout.row_major() ? b.columns : std::min(b.columns, c + layout.tile_columns - at % layout.tile_columns);
      visit(r, c, layout.offset(b.row + r, at, matrix_columns), end - c);
      c = end;
    }
  }
}

/// to[r][c] = the block's elements as floats, for a layout of tiles.
template <class vec>
struct copy_tiles {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* matrix, matrix_layout layout, index matrix_columns, block b, float* to, index to_stride) {
    for (index r = 0; r < b.rows; ++r) {
      for (index c = 0; c < b.columns;) {
        const index at = b.column + c;
        const index rest = layout.tile_columns - at % layout.tile_columns;
        const index end = b.columns - c < rest ? b.columns : c + rest;
        const T* from = matrix + layout.offset(b.row + r, at, matrix_columns);
        for (; c + lanes_of<vec> <= end; c += lanes_of<vec>, from += lanes_of<vec>) {
          vec v;
          load(v, from);
          store(to + r * to_stride + c, v);
        }
        for (; c < end; ++c) to[r * to_stride + c] = static_cast<float>(*from++);
      }
    }
  }
};

/// to[r][c] = the block's elements as floats.
template <class T>
void copy_from_layout(isa set, const T* matrix, matrix_layout layout, index matrix_columns, const block& b, float* to, index to_stride) {
  if (layout.row_major()) {
    return call<copy_block>(set, matrix + b.row * matrix_columns + b.column, matrix_columns, b.rows, b.columns, to, to_stride);
  }
  call<copy_tiles>(set, matrix, layout, matrix_columns, b, to, to_stride);
}
/// The block's elements = from[r][c].
inline void copy_to_layout(const float* from, index from_stride, matrix_layout layout, index matrix_columns, const block& b,
                           float* matrix) {
  for_each_run(layout, matrix_columns, b, [&](index r, index c, index at, index count) {
    for (index i = 0; i < count; ++i) matrix[at + i] = from[r * from_stride + c + i];
  });
}

/// Permutes one matrix in place.
template <class T>
void rearrange(host_view<T, 2> matrix, matrix_layout from, matrix_layout to) {
  const index columns = matrix.extent(1);
  ESFT_EXPECTS(from.fits(matrix.extent(0), columns) && to.fits(matrix.extent(0), columns), "the tiles of both layouts fit the matrix");
  if (from == to) return;
  const std::vector<T> old(matrix.data(), matrix.data() + matrix.size());
  const block whole{0, matrix.extent(0), 0, columns};
  for_each_run(to, columns, whole, [&](index r, index c, index at, index count) {
    for (index i = 0; i < count; ++i) matrix.data()[at + i] = old[static_cast<std::size_t>(from.offset(r, c + i, columns))];
  });
}

}  // namespace esft::detail::eigen
