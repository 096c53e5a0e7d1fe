// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Operands of attention as tiles of 1 KiB in the four orders that products on tile registers read, and results back to rows.

#include <esft/backends/eigen/packing.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

// A left tile is 16 rows of 32 elements; a right tile is 16 pairs of rows by 16 columns, the two rows of a pair interleaved.
// With 32-bit words instead of elements, the transpose of a left tile of x is a right tile of x^T, and the other way round.

inline constexpr index tile_elements = 512;

/// Elements [0, 32) of row r, or zero where r is not below `rows`.
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE __m512i row_of_32(const bf16* x, index stride, index r, index rows) {
  return r < rows ? _mm512_loadu_si512(x + r * stride) : _mm512_setzero_si512();
}

/// Left tiles of x: tile (i, s) has rows [16 i, 16 i + 16) and columns [32 s, 32 s + 32), s fastest.
/// Rows from `rows` to `padded`, a multiple of 32, are zero. @shape x [rows, width], width a multiple of 32, to [padded, width]
ESFT_EIGEN_AVX512 inline void pack_left(const bf16* x, index stride, index rows, index padded, index width, bf16* to) {
  for (index i = 0; i < padded; i += 16) {
    for (index r = 0; r < 16; ++r) {
      bf16* tile = to + i * width + 32 * r;
      for (index f = 0; f < width; f += 32, tile += tile_elements) {
        _mm512_storeu_si512(tile, row_of_32(x + f, stride, i + r, rows));
      }
    }
  }
}

/// Right tiles of x^T: tile (s, j) has columns [32 s, 32 s + 32) of x by rows [16 j, 16 j + 16) of x, s fastest.
ESFT_EIGEN_AVX512 inline void pack_right_transposed(const bf16* x, index stride, index rows, index padded, index width, bf16* to) {
  for (index j = 0; j < padded; j += 16) {
    for (index f = 0; f < width; f += 32, to += tile_elements) {
      __m512 row[16];
      ESFT_EIGEN_UNROLL
      for (int r = 0; r < 16; ++r) row[r] = _mm512_castsi512_ps(row_of_32(x + f, stride, j + r, rows));
      transpose_16x16(row);
      ESFT_EIGEN_UNROLL
      for (int r = 0; r < 16; ++r) _mm512_storeu_ps(to + 32 * r, row[r]);
    }
  }
}

/// Positions that interleave the lower or upper sixteen 16-bit elements of two registers.
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE __m512i interleave_low() {
  const __m512i lanes_of_first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return _mm512_or_si512(lanes_of_first, _mm512_slli_epi32(_mm512_add_epi32(lanes_of_first, _mm512_set1_epi32(32)), 16));
}
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE __m512i interleave_high() { return _mm512_add_epi32(interleave_low(), _mm512_set1_epi32(0x00100010)); }

/// Positions that interleave the two halves of one register.
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE __m512i interleave_halves() {
  return _mm512_sub_epi32(interleave_low(), _mm512_set1_epi32(0x00100000));
}

/// Right tiles of x: tile (s, j) has rows [32 s, 32 s + 32) and columns [16 j, 16 j + 16), j fastest.
ESFT_EIGEN_AVX512 inline void pack_right(const bf16* x, index stride, index rows, index padded, index width, bf16* to) {
  const __m512i low = interleave_low();
  const __m512i high = interleave_high();
  for (index s = 0; s < padded; s += 32) {
    for (index r = 0; r < 32; r += 2) {
      bf16* tile = to + s * width + 16 * r;
      for (index f = 0; f < width; f += 32, tile += 2 * tile_elements) {
        const __m512i a = row_of_32(x + f, stride, s + r, rows);
        const __m512i b = row_of_32(x + f, stride, s + r + 1, rows);
        _mm512_storeu_si512(tile, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(tile + tile_elements, _mm512_permutex2var_epi16(a, high, b));
      }
    }
  }
}

/// Left tiles of x^T: tile (i, s) has columns [16 i, 16 i + 16) of x by rows [32 s, 32 s + 32) of x, i fastest.
ESFT_EIGEN_AVX512 inline void pack_left_transposed(const bf16* x, index stride, index rows, index padded, index width, bf16* to) {
  pack_right(x, stride, rows, padded, width, to);
  for (index tile = 0; tile < padded * width; tile += tile_elements) {
    __m512 row[16];
    ESFT_EIGEN_UNROLL
    for (int r = 0; r < 16; ++r) row[r] = _mm512_loadu_ps(to + tile + 32 * r);
    transpose_16x16(row);
    ESFT_EIGEN_UNROLL
    for (int r = 0; r < 16; ++r) _mm512_storeu_ps(to + tile + 32 * r, row[r]);
  }
}

/// The widest head that runs on tiles.
inline constexpr index widest_head = 256;

/// 32 rows of a head, side by side: rows of a tensor of many heads lie pages apart, fall into the same few places of the caches and are
/// not fetched ahead by the hardware.
struct head_rows {
  alignas(64) bf16 data[32 * widest_head];

  /// Rows [first, first + 32) of x, zero where not below `rows`; the 32 rows after them are fetched ahead.
  ESFT_EIGEN_AVX512 void read(const bf16* x, index stride, index first, index rows, index width) {
    for (index r = 0; r < 32; ++r) {
      const index ahead = first + r + 32 < rows ? first + r + 32 : first + r;
      for (index f = 0; f < width; f += 32) {
        _mm_prefetch(reinterpret_cast<const char*>(x + ahead * stride + f), _MM_HINT_T0);
        _mm512_store_si512(data + r * width + f, row_of_32(x + f, stride, first + r, rows));
      }
    }
  }
};

/// y[j][f] = factor[j] c[f][j], rounded once. @shape c [width, *] at c_stride, factor [columns], y [columns, width], width a multiple of 32
ESFT_EIGEN_AVX512 inline void unpack_transposed(const float* c, index c_stride, index columns, index width, const float* factor, bf16* y,
                                                index y_stride) {
  alignas(64) float turned[512];
  for (index j = 0; j < columns; j += 16) {
    const index present = std::min<index>(16, columns - j);
    const __m512 factors = _mm512_loadu_ps(factor + j);
    for (index f = 0; f < width; f += 32) {
      for (index half = 0; half < 2; ++half) {
        __m512 row[16];
        ESFT_EIGEN_UNROLL
        for (int i = 0; i < 16; ++i) row[i] = _mm512_mul_ps(_mm512_loadu_ps(c + (f + 16 * half + i) * c_stride + j), factors);
        transpose_16x16(row);
        ESFT_EIGEN_UNROLL
        for (int i = 0; i < 16; ++i) _mm512_store_ps(turned + 32 * i + 16 * half, row[i]);
      }
      for (index i = 0; i < present; ++i) {  // whole lines: the rows lie pages apart
        bf16* to = y + (j + i) * y_stride + f;
        if (j + i + 16 < columns) _mm_prefetch(reinterpret_cast<const char*>(to + 16 * y_stride), _MM_HINT_T0);
        widest low;
        widest high;
        load(low, turned + 32 * i);
        load(high, turned + 32 * i + 16);
        store(to, low);
        store(to + 16, high);
      }
    }
  }
}

/// y[r] = c[r], rounded once. @shape c [rows, width], y [rows, width] at y_stride, width a multiple of 16
ESFT_EIGEN_AVX512 inline void unpack_rows(const float* c, index rows, index width, bf16* y, index y_stride) {
  for (index r = 0; r < rows; ++r) {
    bf16* to = y + r * y_stride;
    for (index f = 0; f < width; f += 16) {
      if (r + 8 < rows) _mm_prefetch(reinterpret_cast<const char*>(to + 8 * y_stride + f), _MM_HINT_T0);
      widest v;
      load(v, c + r * width + f);
      store(to + f, v);
    }
  }
}

#endif

}  // namespace esft::detail::eigen
