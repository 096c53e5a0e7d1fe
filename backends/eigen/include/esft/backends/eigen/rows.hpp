// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `row_group` and `row_source`: which rows of an operand meet which matrix, and where each of them lies.

#include <esft/backend/matrix.hpp>

namespace esft::detail::eigen {

/// The order in which weights of this element type are read fastest, by y = x w^T, dx = dy w and dw alike.
template <class T>
inline constexpr matrix_layout kernel_layout = sizeof(T) == 2 ? matrix_layout{32, 32} : matrix_layout{16, 1};

/// Rows [begin, end) of the left operand that meet matrix number `matrix` of the stacked right operand (or of the result).
struct row_group {
  index begin = 0;
  index end = 0;
  index matrix = 0;

  [[nodiscard]] constexpr index rows() const noexcept { return end - begin; }
};

/// The rows of an operand: row r as it lies, or row slot[r] / active of a smaller matrix. @shape data [*, width]
template <class T>
struct row_source {
  const T* data = nullptr;
  index width = 0;
  const std::int32_t* slot = nullptr;
  index active = 1;

  row_source() = default;
  row_source(const T* rows, index columns) noexcept : data(rows), width(columns) {}
  explicit row_source(host_view<const T, 2> rows) noexcept : data(rows.data()), width(rows.extent(1)) {}
  explicit row_source(const gathered_rows<const T, host_space>& rows) noexcept
      : data(rows.x.data()), width(rows.x.extent(1)), slot(rows.slot.data()), active(rows.active) {}

  [[nodiscard]] bool gathered() const noexcept { return slot != nullptr; }
  [[nodiscard]] const T* operator[](index r) const noexcept { return data + (slot == nullptr ? r : slot[r] / active) * width; }
};

}  // namespace esft::detail::eigen
