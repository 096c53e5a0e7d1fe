// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `block_product`: C[I,J] = A[I,P] B[P,J] for J <= 48 in float, the kernel below products of row-major matrices, and below attention
/// but for that on AMX tiles.

#include <esft/backends/eigen/isa.hpp>
#include <esft/core/shape.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace esft::detail::eigen {

/// Columns of a block: three registers of 16 floats, which with eight rows makes 24 independent sums.
inline constexpr index block_columns = 48;
inline constexpr index block_rows = 8;

/// Width of the next block when `remaining` columns are left: 48, but two of 32 rather than 48 and 16, where loads would be the limit.
constexpr index next_width(index remaining) noexcept { return remaining > 48 && remaining <= 64 ? 32 : std::min(block_columns, remaining); }

/// How the left operand lies in memory: element (i, p) is at i * stride + p, or at p * stride + i.
enum class order : bool { rows, columns };

#if ESFT_EIGEN_X86
/// Rows x (16 Vectors) sums over `depth` products. The last vector is masked.
template <index Rows, index Vectors, order Order>
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE void micro_avx512(index depth, const float* a, index a_stride, const float* b, index b_stride,
                                                      __mmask16 mask, float* c, index c_stride, bool accumulate) {
  __m512 sum[static_cast<std::size_t>(Rows)][static_cast<std::size_t>(Vectors)];
  ESFT_EIGEN_UNROLL
  for (index i = 0; i < Rows; ++i) {
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < Vectors; ++v) sum[i][v] = _mm512_setzero_ps();
  }
  for (index p = 0; p < depth; ++p) {
    __m512 right[static_cast<std::size_t>(Vectors)];
    ESFT_EIGEN_UNROLL
    for (index v = 0; v + 1 < Vectors; ++v) right[v] = _mm512_loadu_ps(b + 16 * v);
    right[Vectors - 1] = _mm512_maskz_loadu_ps(mask, b + 16 * (Vectors - 1));
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Rows; ++i) {
      const __m512 left = _mm512_set1_ps(Order == order::rows ? a[i * a_stride] : a[i]);
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < Vectors; ++v) sum[i][v] = _mm512_fmadd_ps(left, right[v], sum[i][v]);
    }
    a += Order == order::rows ? 1 : a_stride;
    b += b_stride;
  }
  ESFT_EIGEN_UNROLL
  for (index i = 0; i < Rows; ++i) {
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < Vectors; ++v) {
      float* to = c + i * c_stride + 16 * v;
      const __mmask16 m = v + 1 == Vectors ? mask : static_cast<__mmask16>(0xffff);
      if (accumulate) sum[i][v] = _mm512_add_ps(sum[i][v], _mm512_maskz_loadu_ps(m, to));
      _mm512_mask_storeu_ps(to, m, sum[i][v]);
    }
  }
}

template <index Vectors, order Order>
ESFT_EIGEN_AVX512 void block_avx512(index rows, index depth, const float* a, index a_stride, const float* b, index b_stride, __mmask16 mask,
                                    float* c, index c_stride, bool accumulate) {
  const index step = Order == order::rows ? a_stride : 1;
  index i = 0;
  for (; i + block_rows <= rows; i += block_rows) {
    micro_avx512<8, Vectors, Order>(depth, a + i * step, a_stride, b, b_stride, mask, c + i * c_stride, c_stride, accumulate);
  }
  if (rows - i >= 4) {
    micro_avx512<4, Vectors, Order>(depth, a + i * step, a_stride, b, b_stride, mask, c + i * c_stride, c_stride, accumulate);
    i += 4;
  }
  if (rows - i >= 2) {
    micro_avx512<2, Vectors, Order>(depth, a + i * step, a_stride, b, b_stride, mask, c + i * c_stride, c_stride, accumulate);
    i += 2;
  }
  if (rows - i >= 1) {
    micro_avx512<1, Vectors, Order>(depth, a + i * step, a_stride, b, b_stride, mask, c + i * c_stride, c_stride, accumulate);
  }
}

/// Rows x 16 sums over `depth` products, in at most twelve registers of the sixteen. Of the columns only those of `columns` are touched.
template <index Rows, order Order, bool Whole>
ESFT_EIGEN_AVX2 ESFT_EIGEN_INLINE void micro_avx2(index depth, const float* a, index a_stride, const float* b, index b_stride,
                                                  index columns, float* c, index c_stride, bool accumulate) {
  constexpr index vectors = 2;
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i mask[vectors];  // used where not Whole
  ESFT_EIGEN_UNROLL
  for (index v = 0; v < vectors; ++v) mask[v] = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(columns - 8 * v)), lane);
  __m256 sum[static_cast<std::size_t>(Rows)][vectors];
  ESFT_EIGEN_UNROLL
  for (index i = 0; i < Rows; ++i) {
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < vectors; ++v) sum[i][v] = _mm256_setzero_ps();
  }
  for (index p = 0; p < depth; ++p) {
    __m256 right[vectors];
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < vectors; ++v) right[v] = Whole ? _mm256_loadu_ps(b + 8 * v) : _mm256_maskload_ps(b + 8 * v, mask[v]);
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Rows; ++i) {
      const __m256 left = _mm256_broadcast_ss(Order == order::rows ? a + i * a_stride : a + i);
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < vectors; ++v) sum[i][v] = _mm256_fmadd_ps(left, right[v], sum[i][v]);
    }
    a += Order == order::rows ? 1 : a_stride;
    b += b_stride;
  }
  ESFT_EIGEN_UNROLL
  for (index i = 0; i < Rows; ++i) {
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < vectors; ++v) {
      float* to = c + i * c_stride + 8 * v;
      if (accumulate) sum[i][v] = _mm256_add_ps(sum[i][v], Whole ? _mm256_loadu_ps(to) : _mm256_maskload_ps(to, mask[v]));
      if (Whole) {
        _mm256_storeu_ps(to, sum[i][v]);
      } else {
        _mm256_maskstore_ps(to, mask[v], sum[i][v]);
      }
    }
  }
}

/// Sixteen columns, or the `columns` that are left where not Whole.
template <order Order, bool Whole>
ESFT_EIGEN_AVX2 void block_avx2(index rows, index columns, index depth, const float* a, index a_stride, const float* b, index b_stride,
                                float* c, index c_stride, bool accumulate) {
  const index step = Order == order::rows ? a_stride : 1;
  for (index i = 0; i < rows;) {
    const index left = rows - i;
    const index height = left == 7 || left == 8 ? 4 : std::min<index>(6, left);  // four and four rather than six and two
    switch (height) {
#define ESFT_EIGEN_ROWS(count)                                                                                                         \
  case count:                                                                                                                          \
    micro_avx2<count, Order, Whole>(depth, a + i * step, a_stride, b, b_stride, columns, c + i * c_stride, c_stride, accumulate); \
    break;
      ESFT_EIGEN_ROWS(1)
      ESFT_EIGEN_ROWS(2)
      ESFT_EIGEN_ROWS(3)
      ESFT_EIGEN_ROWS(4)
      ESFT_EIGEN_ROWS(5)
      ESFT_EIGEN_ROWS(6)
#undef ESFT_EIGEN_ROWS
    }
    i += height;
  }
}
#endif

/// C = A B, or C += A B. @pre columns <= 48
/// The order of the sums depends on the shape alone.
/// @return the instruction set whose kernel ran: a test asks
template <order Order>
isa block_product(isa set, index rows, index columns, index depth, const float* a, index a_stride, const float* b, index b_stride,
                   float* c, index c_stride, bool accumulate) {
  if (rows <= 0 || columns <= 0) return isa::generic;
#if ESFT_EIGEN_X86
  if (set >= isa::avx512) {
    const index vectors = (columns + 15) / 16;
    const auto mask = static_cast<__mmask16>(0xffffU >> static_cast<unsigned>(16 * vectors - columns));
    if (vectors == 3) {
      block_avx512<3, Order>(rows, depth, a, a_stride, b, b_stride, mask, c, c_stride, accumulate);
    } else if (vectors == 2) {
      block_avx512<2, Order>(rows, depth, a, a_stride, b, b_stride, mask, c, c_stride, accumulate);
    } else {
      block_avx512<1, Order>(rows, depth, a, a_stride, b, b_stride, mask, c, c_stride, accumulate);
    }
    return isa::avx512;
  }
  if (set == isa::avx2) {
    index j = 0;
    for (; j + 16 <= columns; j += 16) block_avx2<Order, true>(rows, 16, depth, a, a_stride, b + j, b_stride, c + j, c_stride, accumulate);
    if (j < columns) block_avx2<Order, false>(rows, columns - j, depth, a, a_stride, b + j, b_stride, c + j, c_stride, accumulate);
    return isa::avx2;
  }
#endif
  static_cast<void>(set);
  using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using column_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;
  using stride = Eigen::OuterStride<>;
  using left_type = std::conditional_t<Order == order::rows, row_major, column_major>;
  const Eigen::Map<const left_type, 0, stride> left(a, rows, depth, stride(a_stride));
  const Eigen::Map<const row_major, 0, stride> right(b, depth, columns, stride(b_stride));
  Eigen::Map<row_major, 0, stride> out(c, rows, columns, stride(c_stride));
  if (accumulate) {
    out.noalias() += left * right;
  } else {
    out.noalias() = left * right;
  }
  return isa::generic;
}

}  // namespace esft::detail::eigen
