// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `matrix_layout` and `matrix_view`: weights in the order in which a backend's kernels read them, packed once and never again.

#include <esft/backend/tensor.hpp>

namespace esft {

/// The order of the elements of a matrix [N, K]: it is cut into tiles, which follow one another row of tiles by row of tiles; inside a
/// tile the order is row-major. One element per tile is row-major order.
///
/// A layout permutes the elements *within* each matrix of a stack and leaves no gaps. So slices per expert, sums, copies, comparisons
/// of bytes and the optimizer's update need not know it, as long as a weight, its gradient and its optimizer state share it; only
/// matrix products and files do.
struct matrix_layout {
  index tile_rows = 1;
  index tile_columns = 1;

  [[nodiscard]] constexpr bool row_major() const noexcept { return tile_rows == 1 && tile_columns == 1; }
  /// Whether whole tiles cover a matrix of this size; only then can it have this layout.
  [[nodiscard]] constexpr bool fits(index rows, index columns) const noexcept { return rows % tile_rows == 0 && columns % tile_columns == 0; }
  /// Where element (row, column) of a matrix with `columns` columns lies. @pre fits
  [[nodiscard]] ESFT_HOST_DEVICE constexpr index offset(index row, index column, index columns) const noexcept {
    const index tile = row / tile_rows * (columns / tile_columns) + column / tile_columns;
    return tile * tile_rows * tile_columns + row % tile_rows * tile_columns + column % tile_columns;
  }
  friend constexpr bool operator==(const matrix_layout&, const matrix_layout&) = default;
};

/// Borrowed matrices [N, K] or [E, N, K] with their layout. A plain view converts: it is row-major.
template <class T, std::size_t Rank, memory_space Space>
struct matrix_view {
  static_assert(Rank == 2 || Rank == 3, "one matrix or a stack of them");
  tensor_view<T, Rank, Space> elements;  ///< extents of the matrices; its elements lie in the order of `layout`
  matrix_layout layout{};

  matrix_view() = default;
  constexpr matrix_view(tensor_view<T, Rank, Space> of, matrix_layout order) noexcept : elements(of), layout(order) {}
  template <class U>
    requires std::convertible_to<tensor_view<U, Rank, Space>, tensor_view<T, Rank, Space>>
  constexpr matrix_view(tensor_view<U, Rank, Space> row_major) noexcept : elements(row_major) {}  // NOLINT(google-explicit-constructor)
  template <class U>
    requires(std::is_const_v<T> && std::same_as<U, std::remove_const_t<T>>)
  constexpr matrix_view(matrix_view<U, Rank, Space> other) noexcept  // NOLINT(google-explicit-constructor)
      : elements(other.elements), layout(other.layout) {}

  [[nodiscard]] constexpr T* data() const noexcept { return elements.data(); }
  [[nodiscard]] constexpr index extent(std::size_t dimension) const noexcept { return elements.extent(dimension); }
  [[nodiscard]] constexpr index size() const noexcept { return elements.size(); }
  [[nodiscard]] constexpr index rows() const noexcept { return elements.extent(Rank - 2); }
  [[nodiscard]] constexpr index columns() const noexcept { return elements.extent(Rank - 1); }
};

/// Rows of a matrix in the order in which routing wants them: row r is row slot[r] / active of `x`. Reading through it while packing
/// spares a gathered copy. @shape x [T, D], slot [R]
template <class T, memory_space Space>
struct gathered_rows {
  tensor_view<T, 2, Space> x;
  tensor_view<const std::int32_t, 1, Space> slot;
  index active = 1;

  [[nodiscard]] constexpr index rows() const noexcept { return slot.size(); }
  [[nodiscard]] constexpr index columns() const noexcept { return x.extent(1); }
};

}  // namespace esft
