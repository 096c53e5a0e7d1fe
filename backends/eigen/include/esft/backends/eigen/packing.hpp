// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Moving blocks of operands into the layout that `block_product` reads, widening bf16 on the way, and results back.

#include <esft/backends/eigen/micro_kernel.hpp>
#include <esft/backends/eigen/simd.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86
/// Sixteen rows of sixteen floats become their transpose.
ESFT_EIGEN_AVX512 inline void transpose_16x16(__m512 (&row)[16]) {
  __m512 t[16];
  ESFT_EIGEN_UNROLL
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_ps(row[2 * i], row[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_ps(row[2 * i], row[2 * i + 1]);
  }
  ESFT_EIGEN_UNROLL
  for (int i = 0; i < 4; ++i) {  // column 4 lane + q of rows 4 i .. 4 i + 3 is lane `lane` of row[4 i + q]
    row[4 * i + 0] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 2])));
    row[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 2])));
    row[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * i + 1]), _mm512_castps_pd(t[4 * i + 3])));
    row[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * i + 1]), _mm512_castps_pd(t[4 * i + 3])));
  }
  ESFT_EIGEN_UNROLL
  for (int q = 0; q < 4; ++q) {
    const __m512 low01 = _mm512_shuffle_f32x4(row[q], row[4 + q], 0x44);
    const __m512 high01 = _mm512_shuffle_f32x4(row[q], row[4 + q], 0xee);
    const __m512 low23 = _mm512_shuffle_f32x4(row[8 + q], row[12 + q], 0x44);
    const __m512 high23 = _mm512_shuffle_f32x4(row[8 + q], row[12 + q], 0xee);
    t[q] = _mm512_shuffle_f32x4(low01, low23, 0x88);
    t[4 + q] = _mm512_shuffle_f32x4(low01, low23, 0xdd);
    t[8 + q] = _mm512_shuffle_f32x4(high01, high23, 0x88);
    t[12 + q] = _mm512_shuffle_f32x4(high01, high23, 0xdd);
  }
  ESFT_EIGEN_UNROLL
  for (int i = 0; i < 16; ++i) row[i] = t[i];
}

ESFT_EIGEN_AVX512 inline __m512 load_avx512(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
ESFT_EIGEN_AVX512 inline __m512 load_avx512(const bf16* from, __mmask16 mask) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

template <class T>
ESFT_EIGEN_AVX512 void pack_transposed_avx512(const T* x, index rows, index depth, index x_stride, float* to, index width) {
  for (index r = 0; r < width; r += 16) {
    const index present = std::min<index>(16, rows - r);
    for (index k = 0; k < depth; k += 16) {
      const index count = std::min<index>(16, depth - k);
      const auto mask = static_cast<__mmask16>(0xffffU >> static_cast<unsigned>(16 - count));
      __m512 row[16];
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) {
        row[i] = i < present ? load_avx512(x + (r + i) * x_stride + k, mask) : _mm512_setzero_ps();
      }
      transpose_16x16(row);
      if (count == 16) {
        ESFT_EIGEN_UNROLL
        for (int i = 0; i < 16; ++i) _mm512_storeu_ps(to + (k + i) * width + r, row[i]);
      } else {
        for (index i = 0; i < count; ++i) _mm512_storeu_ps(to + (k + i) * width + r, row[i]);
      }
    }
  }
}

/// y[j][i] = c[i][j] for eight full rows of c and `columns` <= 48.
ESFT_EIGEN_AVX512 inline void scatter_transposed_avx512(const float* c, index columns, float* y, index y_stride, bool accumulate) {
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  for (index j = 0; j < columns; j += 16) {
    __m512 row[8];
    __m512 t[8];
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < 8; ++i) row[i] = _mm512_loadu_ps(c + i * block_columns + j);
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      t[2 * i] = _mm512_unpacklo_ps(row[2 * i], row[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_ps(row[2 * i], row[2 * i + 1]);
    }
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < 2; ++i) {
      row[4 * i + 0] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 2])));
      row[4 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * i]), _mm512_castps_pd(t[4 * i + 2])));
      row[4 * i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[4 * i + 1]), _mm512_castps_pd(t[4 * i + 3])));
      row[4 * i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[4 * i + 1]), _mm512_castps_pd(t[4 * i + 3])));
    }
    float* out = y + j * y_stride;
    const index present = std::min<index>(16, columns - j);
    ESFT_EIGEN_UNROLL
    for (int q = 0; q < 4; ++q) {  // lane l of (row[q], row[4 + q]) is column 4 l + q
      const __m512 lanes01 = _mm512_permutex2var_ps(row[q], first, row[4 + q]);
      const __m512 lanes23 = _mm512_permutex2var_ps(row[q], second, row[4 + q]);
      const __m256 part[4] = {_mm512_castps512_ps256(lanes01), _mm512_extractf32x8_ps(lanes01, 1), _mm512_castps512_ps256(lanes23),
                              _mm512_extractf32x8_ps(lanes23, 1)};
      ESFT_EIGEN_UNROLL
      for (int lane = 0; lane < 4; ++lane) {
        if (4 * lane + q >= present) continue;
        float* cell = out + (4 * lane + q) * y_stride;
        _mm256_storeu_ps(cell, accumulate ? _mm256_add_ps(part[lane], _mm256_loadu_ps(cell)) : part[lane]);
      }
    }
  }
}

/// Eight of them become their transpose.
ESFT_EIGEN_AVX2 inline void transpose_8x8(__m256 (&row)[8]) {
  __m256 t[8];
  ESFT_EIGEN_UNROLL
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_ps(row[2 * i], row[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_ps(row[2 * i], row[2 * i + 1]);
  }
  __m256 quad[8];  // columns q and 4 + q of rows 4 i .. 4 i + 3 are the lanes of quad[4 i + q]
  ESFT_EIGEN_UNROLL
  for (int i = 0; i < 2; ++i) {
    quad[4 * i + 0] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
    quad[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
    quad[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
    quad[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
  }
  ESFT_EIGEN_UNROLL
  for (int q = 0; q < 4; ++q) {
    row[q] = _mm256_permute2f128_ps(quad[q], quad[4 + q], 0x20);
    row[4 + q] = _mm256_permute2f128_ps(quad[q], quad[4 + q], 0x31);
  }
}

/// The first `count` <= 8 elements as floats, zeros beyond.
ESFT_EIGEN_AVX2 inline __m256 load_avx2(const float* from, index count) {
  if (count == 8) return _mm256_loadu_ps(from);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane));
}
ESFT_EIGEN_AVX2 inline __m256 load_avx2(const bf16* from, index count) {
  __m128i stored = _mm_setzero_si128();
  if (count == 8) {
    stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  } else {
    std::memcpy(&stored, from, static_cast<std::size_t>(count) * sizeof(bf16));
  }
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(stored), 16));
}

/// to[k][i] = row[i][k] for eight rows of `depth` elements; zero for a row that is null.
template <class T>
ESFT_EIGEN_AVX2 void rows_to_columns_avx2(const T* const (&row)[8], index depth, float* to, index to_stride) {
  for (index k = 0; k < depth; k += 8) {
    const index count = std::min<index>(8, depth - k);
    __m256 part[8];
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < 8; ++i) part[i] = row[i] == nullptr ? _mm256_setzero_ps() : load_avx2(row[i] + k, count);
    transpose_8x8(part);
    if (count == 8) {
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(to + (k + i) * to_stride, part[i]);
    } else {
      for (index i = 0; i < count; ++i) _mm256_storeu_ps(to + (k + i) * to_stride, part[i]);
    }
  }
}
/// The same for `rows` rows, each as far from the next, and zeros up to `width`, a multiple of eight.
template <class T>
void rows_to_columns_avx2(const T* x, index rows, index x_stride, index depth, float* to, index width, index to_stride) {
  for (index r = 0; r < width; r += 8) {
    const T* row[8];
    for (index i = 0; i < 8; ++i) row[i] = r + i < rows ? x + (r + i) * x_stride : nullptr;
    rows_to_columns_avx2(row, depth, to + r, to_stride);
  }
}
#endif

/// to[k][r] = x[r][k], zero for rows <= r < width. @pre width is 16, 32 or 48
template <class T>
void pack_transposed(isa set, const T* x, index rows, index depth, index x_stride, float* to, index width) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx512) return pack_transposed_avx512(x, rows, depth, x_stride, to, width);
  if (set == isa::avx2) return rows_to_columns_avx2(x, rows, x_stride, depth, to, width, width);
#endif
  static_cast<void>(set);
  for (index k = 0; k < depth; ++k) {
    for (index r = 0; r < width; ++r) to[k * width + r] = r < rows ? static_cast<float>(x[r * x_stride + k]) : 0.0F;
  }
}

/// to[i][0..columns) = from[i][0..columns), as floats.
template <class vec>
struct copy_block {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* from, index from_stride, index rows, index columns, float* to, index to_stride) {
    for (index i = 0; i < rows; ++i) {
      for (index j = 0; j < columns; j += lanes_of<vec>) {
        vec v;
        load(v, from + i * from_stride + j, columns - j);
        store(to + i * to_stride + j, v, columns - j);
      }
    }
  }
};

/// Splits rows into panels of `width` columns: element (i, j) goes to panel j / width, at i * width + j % width. Reads every row once,
/// from left to right, as memory likes it.
template <class vec>
struct copy_panels {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* from, index from_stride, index rows, index columns, index width, float* panels,
                                    index panel_stride) {
    for (index i = 0; i < rows; ++i) {
      for (index first = 0; first < columns; first += width) {
        const index count = columns - first < width ? columns - first : width;
        const T* source = from + i * from_stride + first;
        float* to = panels + first / width * panel_stride + i * width;
        for (index j = 0; j < count; j += lanes_of<vec>) {
          vec v;
          __builtin_prefetch(source + j + 2 * from_stride);  // each row is a page of its own: no hardware looks ahead across them
          load(v, source + j, count - j);
          store(to + j, v, count - j);
        }
      }
    }
  }
};

/// y[i][j] = c[i][j] or += , rounded once to the element type.
template <class vec>
struct write_block {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const float* c, index c_stride, index rows, index columns, T* y, index y_stride, bool accumulate) {
    for (index i = 0; i < rows; ++i) {
      for (index j = 0; j < columns; j += lanes_of<vec>) {
        vec v;
        load(v, c + i * c_stride + j, columns - j);
        if (accumulate) {
          vec old;
          load(old, y + i * y_stride + j, columns - j);
          v += old;
        }
        store(y + i * y_stride + j, v, columns - j);
      }
    }
  }
};

/// y[j][i] = c[i][j] or += , for `rows` <= 8 and `columns` <= 48 of a block with row stride 48.
template <class T>
void scatter_transposed(isa set, const float* c, index rows, index columns, T* y, index y_stride, bool accumulate) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx2 && rows == block_rows) {
    if constexpr (std::is_same_v<T, float>) {
      if (set >= isa::avx512) return scatter_transposed_avx512(c, columns, y, y_stride, accumulate);
      if (!accumulate) return rows_to_columns_avx2(c, rows, block_columns, columns, y, block_rows, y_stride);
    }
    alignas(64) float turned[block_columns * block_rows];
    if (set >= isa::avx512) {
      scatter_transposed_avx512(c, columns, turned, block_rows, false);
    } else {
      rows_to_columns_avx2(c, rows, block_columns, columns, turned, block_rows, block_rows);
    }
    return call<write_block>(set, static_cast<const float*>(turned), block_rows, columns, rows, y, y_stride, accumulate);
  }
#endif
  static_cast<void>(set);
  for (index j = 0; j < columns; ++j) {
    for (index i = 0; i < rows; ++i) {
      T& cell = y[j * y_stride + i];
      const float sum = accumulate ? static_cast<float>(cell) + c[i * block_columns + j] : c[i * block_columns + j];
      cell = static_cast<T>(sum);
    }
  }
}

}  // namespace esft::detail::eigen
