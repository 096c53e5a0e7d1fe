// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `matrix_layout` and `matrix_view`: weights in the order in which a backend's kernels read them, packed once and never again.

#include <esft/backend/tensor.hpp>

#include <concepts>
#include <cstdint>
#include <span>
#include <utility>

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
  [[nodiscard]] constexpr bool fits(index rows, index columns) const noexcept {
    return rows % tile_rows == 0 && columns % tile_columns == 0;
  }
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

/// Owner of weight matrices [N, K] or [E, N, K] in some layout. Move-only.
template <class T, std::size_t Rank, memory_space Space>
class matrix_tensor {
 public:
  matrix_tensor() = default;
  /// From a plain tensor: row-major.
  matrix_tensor(tensor<T, Rank, Space> elements, matrix_layout order = {}) noexcept  // NOLINT(google-explicit-constructor)
      : elements_(std::move(elements)), layout_(order) {}

  /// Takes ownership of row-major `data`, as `tensor` does.
  matrix_tensor(T* data, extents<Rank> shape, typename tensor<T, Rank, Space>::release release_memory, void* context = nullptr) noexcept
      : elements_(data, shape, release_memory, context) {}

  [[nodiscard]] matrix_layout layout() const noexcept { return layout_; }
  [[nodiscard]] matrix_view<T, Rank, Space> matrix() noexcept { return {elements_.view(), layout_}; }
  [[nodiscard]] matrix_view<const T, Rank, Space> matrix() const noexcept { return {elements_.view(), layout_}; }
  /// All elements in the order of the layout.
  [[nodiscard]] tensor_view<T, 1, Space> elements() noexcept { return elements_.view().flat(); }
  [[nodiscard]] tensor_view<const T, 1, Space> elements() const noexcept { return elements_.view().flat(); }
  /// The row-major view. @pre the layout is row-major: in any other its elements are not where one would look for them
  [[nodiscard]] tensor_view<T, Rank, Space> view() {
    expect_row_major();
    return elements_.view();
  }
  [[nodiscard]] tensor_view<const T, Rank, Space> view() const {
    expect_row_major();
    return elements_.view();
  }

  [[nodiscard]] const extents<Rank>& shape() const noexcept { return elements_.shape(); }
  [[nodiscard]] index extent(std::size_t dimension) const noexcept { return elements_.extent(dimension); }
  [[nodiscard]] index size() const noexcept { return elements_.size(); }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  /// Says that the elements have been permuted. @pre they have
  void relabel(matrix_layout order) noexcept { layout_ = order; }
  /// The first element of the memory; what follows lies in the order of the layout.
  [[nodiscard]] T* data() noexcept { return elements_.data(); }
  [[nodiscard]] const T* data() const noexcept { return elements_.data(); }

 private:
  void expect_row_major() const {
    ESFT_EXPECTS(layout_.row_major(), "this weight lies in its backend's tiles: read and write it through copy_in, copy_out or matrix()");
  }
  tensor<T, Rank, Space> elements_;
  matrix_layout layout_{};
};

/// Consecutive rows of one matrix, wherever its layout puts them; a vector is a matrix of one column. This is what files hold.
template <class T, memory_space Space>
struct matrix_rows {
  tensor_view<T, 2, Space> matrix;
  matrix_layout layout{};
  index first = 0;
  index count = 0;

  [[nodiscard]] constexpr index size() const noexcept { return count * matrix.extent(1); }
};

template <class T, memory_space Space>
matrix_rows(tensor_view<T, 2, Space>, matrix_layout, index, index) -> matrix_rows<T, Space>;

namespace detail {
/// Calls `visit(position in row-major order, run of elements)` for every contiguous run of the rows.
template <class T, memory_space Space, class Visit>
void for_each_run(const matrix_rows<T, Space>& rows, Visit&& visit) {
  const index columns = rows.matrix.extent(1);
  if (rows.layout.row_major()) {
    visit(index{0}, tensor_view<T, 1, Space>(rows.matrix.data() + rows.first * columns, {rows.size()}));
    return;
  }
  const index run = rows.layout.tile_columns;
  for (index r = 0; r < rows.count; ++r) {
    for (index c = 0; c < columns; c += run) {
      visit(r * columns + c, tensor_view<T, 1, Space>(rows.matrix.data() + rows.layout.offset(rows.first + r, c, columns), {run}));
    }
  }
}
}  // namespace detail

/// Host values in row-major order become the rows of a matrix in any layout. @pre equally many elements
template <class Backend, class H, class T, memory_space Space>
void copy_in(Backend& backend, std::span<H> host, const matrix_rows<T, Space>& to) {
  ESFT_EXPECTS(static_cast<index>(host.size()) == to.size(), "host and rows have equally many elements");
  detail::for_each_run(to, [&](index at, tensor_view<T, 1, Space> run) {
    backend.copy_in(host.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(run.size())), run);
  });
}
/// The rows of a matrix in any layout become host values in row-major order. @pre equally many elements
template <class Backend, class H, class T, memory_space Space>
void copy_out(Backend& backend, const matrix_rows<T, Space>& from, std::span<H> host) {
  ESFT_EXPECTS(static_cast<index>(host.size()) == from.size(), "host and rows have equally many elements");
  detail::for_each_run(from, [&](index at, tensor_view<T, 1, Space> run) {
    backend.copy_out(run, host.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(run.size())));
  });
}

namespace detail {
template <class T, std::size_t Rank, memory_space Space, class Visit>
void for_each_matrix(const matrix_view<T, Rank, Space>& stack, Visit&& visit) {
  const index rows = stack.rows();
  const index size = rows * stack.columns();
  for (index at = 0; at < stack.size(); at += size) {
    const tensor_view<T, 2, Space> one(stack.data() + at, {rows, stack.columns()});
    visit(static_cast<std::size_t>(at), static_cast<std::size_t>(size), matrix_rows<T, Space>{one, stack.layout, 0, rows});
  }
}
}  // namespace detail

/// Host values in row-major order become matrices in any layout. @pre equally many elements
template <class Backend, class H, class T, std::size_t Rank, memory_space Space>
void copy_in(Backend& backend, std::span<H> host, const matrix_view<T, Rank, Space>& to) {
  ESFT_EXPECTS(static_cast<index>(host.size()) == to.size(), "host and matrices have equally many elements");
  detail::for_each_matrix(to, [&](std::size_t at, std::size_t size, const auto& rows) { copy_in(backend, host.subspan(at, size), rows); });
}
/// Matrices in any layout become host values in row-major order. @pre equally many elements
template <class Backend, class H, class T, std::size_t Rank, memory_space Space>
void copy_out(Backend& backend, const matrix_view<T, Rank, Space>& from, std::span<H> host) {
  ESFT_EXPECTS(static_cast<index>(host.size()) == from.size(), "host and matrices have equally many elements");
  detail::for_each_matrix(
      from, [&](std::size_t at, std::size_t size, const auto& rows) { copy_out(backend, rows, host.subspan(at, size)); });
}

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

/// Low-rank factors beside some matrices of a stack, and the rows that pass between the two factors.
/// @shape S pairs for E matrices [N, K]; a [S, r, K], b [S, N, r], inner [R, r]
template <class T, memory_space Space>
struct grouped_factors {
  matrix_view<const T, 3, Space> a;
  matrix_view<const T, 3, Space> b;
  std::span<const std::int32_t> experts;  ///< whom the pairs belong to, ascending
  float scale = 1;
  tensor_view<T, 2, Space> inner;  ///< takes scale * x A^T (forward) or scale * dy B (backward), zeros for rows of experts without factors
};

}  // namespace esft
