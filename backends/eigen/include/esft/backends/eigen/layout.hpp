// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Stacked matrices with their layout, and permuting one in place.

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
