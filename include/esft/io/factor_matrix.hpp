// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `factor_matrix`: a small matrix on the host, for taking low-rank factors apart and putting them together; and how it is stored.

#include <esft/core/contract.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/f16.hpp>
#include <esft/io/safetensors.hpp>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// Row-major numbers.
struct factor_matrix {
  index rows = 0;
  index columns = 0;
  std::vector<float> values;  ///< @shape [rows, columns]

  factor_matrix() = default;
  factor_matrix(index row_count, index column_count)
      : rows(row_count), columns(column_count), values(static_cast<std::size_t>(row_count * column_count)) {}

  [[nodiscard]] float& at(index row, index column) { return values[static_cast<std::size_t>(row * columns + column)]; }
  [[nodiscard]] float at(index row, index column) const { return values[static_cast<std::size_t>(row * columns + column)]; }
  [[nodiscard]] bool is_zero() const {
    return std::all_of(values.begin(), values.end(), [](float value) { return value == 0; });
  }
  /// Rows [begin, begin + count).
  [[nodiscard]] factor_matrix row_range(index begin, index count) const {
    ESFT_EXPECTS(begin >= 0 && count >= 0 && begin + count <= rows, "rows lie inside their matrix");
    factor_matrix part(count, columns);
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(begin * columns), part.values.size(), part.values.begin());
    return part;
  }
  /// Copies another matrix into this one, its first element to (row, column), each element times `scale`.
  void put(const factor_matrix& part, index row, index column, double scale = 1) {
    ESFT_EXPECTS(row + part.rows <= rows && column + part.columns <= columns, "a part fits its matrix");
    for (index i = 0; i < part.rows; ++i) {
      for (index j = 0; j < part.columns; ++j) at(row + i, column + j) = static_cast<float>(scale * static_cast<double>(part.at(i, j)));
    }
  }
};

namespace detail {
template <class To>
std::vector<std::byte> bytes_as(std::span<const float> values) {
  std::vector<To> rounded(values.size());
  std::transform(values.begin(), values.end(), rounded.begin(), [](float value) { return To(value); });
  const auto bytes = std::as_bytes(std::span<const To>(rounded));
  return {bytes.begin(), bytes.end()};
}
}  // namespace detail

/// Whether `stored_bytes` writes numbers of this type.
[[nodiscard]] constexpr bool is_stored_type(dtype type) {
  return type == dtype::float32 || type == dtype::bfloat16 || type == dtype::float16;
}

/// The bytes of numbers in a floating-point type of checkpoints, rounded once. @pre is_stored_type(type)
[[nodiscard]] inline std::vector<std::byte> stored_bytes(std::span<const float> values, dtype type) {
  ESFT_EXPECTS(is_stored_type(type), "factors are stored as float32, bfloat16 or float16");
  if (type == dtype::bfloat16) return detail::bytes_as<bf16>(values);
  if (type == dtype::float16) return detail::bytes_as<f16>(values);
  return detail::bytes_as<float>(values);
}

/// A source of a matrix that is made when it is written. What `make` refers to must outlive the write.
[[nodiscard]] inline tensor_source matrix_source(std::string name, dtype type, index rows, index columns,
                                                 std::function<factor_matrix()> make) {
  return {std::move(name), type, {rows, columns}, [make = std::move(make), type](const byte_sink& sink) {
            sink(stored_bytes(make().values, type));
          }};
}

}  // namespace esft
