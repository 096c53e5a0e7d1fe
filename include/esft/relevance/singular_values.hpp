// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `singular_values` and `reciprocal_condition`: for matrices small enough that simplicity beats speed.

#include <esft/core/contract.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

namespace esft {

/// All singular values, largest first, by one-sided Jacobi rotations in double: small ones are as accurate as large ones.
/// @pre every element is finite
/// @shape matrix [rows, columns] row-major; result [min(rows, columns)]
/// @source M. Hestenes, "Inversion of matrices by biorthogonalization and related results", J. SIAM 6 (1958)
[[nodiscard]] inline std::vector<double> singular_values(std::span<const float> matrix, std::size_t rows, std::size_t columns) {
  ESFT_EXPECTS(matrix.size() == rows * columns, "matrix is [rows, columns]");
  const bool wide = rows <= columns;  // the vectors to make orthogonal are the fewer: rows or columns
  const std::size_t count = std::min(rows, columns);
  const std::size_t length = std::max(rows, columns);
  std::vector<std::vector<double>> v(count, std::vector<double>(length));
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t k = 0; k < length; ++k) v[i][k] = static_cast<double>(wide ? matrix[i * columns + k] : matrix[k * columns + i]);
  }
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    double sums[4] = {};  // four at a time: one sum would wait for each of its additions
    for (std::size_t k = 0; k < a.size(); ++k) sums[k % 4] += a[k] * b[k];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  };
  std::vector<double> squares(count);
  bool rotated = true;
  for (int sweep = 0; rotated && sweep < 40; ++sweep) {
    rotated = false;
    for (std::size_t i = 0; i < count; ++i) squares[i] = dot(v[i], v[i]);  // once a sweep, for rounding; rotations keep them up to date
    for (std::size_t p = 0; p + 1 < count; ++p) {
      for (std::size_t q = p + 1; q < count; ++q) {
        const double pp = squares[p];
        const double qq = squares[q];
        const double pq = dot(v[p], v[q]);
        if (pq == 0 || std::abs(pq) <= 1e-14 * std::sqrt(pp * qq)) continue;
        rotated = true;
        const double zeta = (qq - pp) / (2 * pq);
        const double tangent = std::copysign(1.0, zeta) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double cosine = 1 / std::hypot(1.0, tangent);
        const double sine = cosine * tangent;
        squares[p] = std::max(0.0, pp - tangent * pq);
        squares[q] = qq + tangent * pq;
        for (std::size_t k = 0; k < length; ++k) {
          const double held = v[p][k];
          v[p][k] = cosine * held - sine * v[q][k];
          v[q][k] = sine * held + cosine * v[q][k];
        }
      }
    }
  }
  std::vector<double> values;
  for (const auto& vector : v) values.push_back(std::sqrt(dot(vector, vector)));
  std::sort(values.rbegin(), values.rend());
  return values;
}

/// Smallest divided by largest singular value, in [0, 1]; 0 for a matrix of zeros, NaN where an element is not finite.
[[nodiscard]] inline double reciprocal_condition(std::span<const float> matrix, std::size_t rows, std::size_t columns) {
  if (!std::all_of(matrix.begin(), matrix.end(), [](float x) { return std::isfinite(x); })) return std::nan("");
  const std::vector<double> values = singular_values(matrix, rows, columns);
  return values.front() == 0 ? 0 : values.back() / values.front();
}

}  // namespace esft
