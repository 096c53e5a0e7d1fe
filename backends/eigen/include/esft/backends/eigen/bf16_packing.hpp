// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Rows of activations into the tiles of a bf16 engine, and blocks of its sums into rows of results.

#include <esft/backends/eigen/packing.hpp>
#include <esft/backends/eigen/rows.hpp>

#include <cstdint>
#include <type_traits>

namespace esft::detail::eigen {

/// Rows, columns and steps of the reduction that one block of tiles covers.
inline constexpr index block_side = 32;

#if ESFT_EIGEN_X86

/// Elements of such a block, and of one of its two tiles.
inline constexpr index block_size = block_side * block_side;
inline constexpr index tile_size = block_size / 2;
/// Most rows of activations that are multiplied together: three tiles.
inline constexpr index panel_side = 48;

/// In how many bf16 parts an element travels. A float becomes the nearest bf16 and the bf16 nearest to the rest: 16 bits of its mantissa.
template <class T>
inline constexpr index parts_of = std::is_same_v<T, float> ? 2 : 1;

/// Pointers to up to 48 rows; rows that do not exist are null.
template <class T>
struct row_pointers {
  const T* at[panel_side];

  row_pointers(const row_source<T>& rows, index first, index count) noexcept {
    for (index i = 0; i < panel_side; ++i) at[i] = i < count ? rows[first + i] : nullptr;
  }
};

/// Part `part` of 32 elements of a row, zeros for no row.
ESFT_EIGEN_AVX512_BF16 inline __m512i load_part(const bf16* row, index column, index part) {
  static_cast<void>(part);
  return row == nullptr ? _mm512_setzero_si512() : _mm512_loadu_si512(row + column);
}
ESFT_EIGEN_AVX512_BF16 inline __m512 widened(__m256i halves) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
ESFT_EIGEN_AVX512_BF16 inline __m512i load_part(const float* row, index column, index part) {
  if (row == nullptr) return _mm512_setzero_si512();
  const __m512 low = _mm512_loadu_ps(row + column);
  const __m512 high = _mm512_loadu_ps(row + column + 16);
  const auto nearest = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
  if (part == 0) return nearest;
  const __m512 low_rest = _mm512_sub_ps(low, widened(_mm512_castsi512_si256(nearest)));
  const __m512 high_rest = _mm512_sub_ps(high, widened(_mm512_extracti64x4_epi64(nearest, 1)));
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high_rest, low_rest));
}

/// Sixteen vectors of sixteen pairs become their transpose, each pair staying whole.
ESFT_EIGEN_AVX512_BF16 inline void transpose_pairs(__m512i (&row)[16]) {
  __m512 turned[16];
  ESFT_EIGEN_UNROLL
  for (int i = 0; i < 16; ++i) turned[i] = _mm512_castsi512_ps(row[i]);
  transpose_16x16(turned);
  ESFT_EIGEN_UNROLL
  for (int i = 0; i < 16; ++i) row[i] = _mm512_castps_si512(turned[i]);
}

/// How results and packed rows reach memory: into the caches; past them, where there are more than the caches hold; or added to what is
/// there. Past the caches a store needs not wait for its line to come from memory first, which would cost a quarter of a product's time.
enum class writing : std::uint8_t { store, stream, add };

/// Results of more bytes than this go past the caches.
inline constexpr index streamed_bytes = index{1} << 19;

/// The way for `count` results in all.
template <class Y>
writing way_of(const Y* y, index count, bool accumulate) noexcept {
  if (accumulate) return writing::add;
  const bool whole_lines = reinterpret_cast<std::uintptr_t>(y) % 64 == 0;
  return whole_lines && count * index{sizeof(Y)} > streamed_bytes ? writing::stream : writing::store;
}
/// Makes streamed results visible to other threads; to be called before a task that streams ends.
inline void finish(writing way) noexcept {
  if (way == writing::stream) _mm_sfence();
}

/// One line of 64 bytes.
ESFT_EIGEN_AVX512_BF16 ESFT_EIGEN_INLINE void write_line(void* to, __m512i line, writing way) {
  if (way == writing::stream) {
    _mm512_stream_si512(static_cast<__m512i*>(to), line);
  } else {
    _mm512_storeu_si512(to, line);
  }
}

/// Up to 48 rows as right tiles, transposed: column i of the tiles is row i, the reduction runs along the row. Per step of 32 elements
/// as many tiles as the rows fill or begin.
ESFT_EIGEN_AVX512_BF16 inline void pack_rows_as_columns(const row_pointers<bf16>& rows, index count, index width, bf16* to, writing way) {
  for (index k = 0; k < width; k += block_side) {
    for (index first = 0; first < count; first += 16, to += tile_size) {
      __m512i row[16];
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) row[i] = load_part(rows.at[first + i], k, 0);
      transpose_pairs(row);
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) write_line(to + 32 * i, row[i], way);
    }
  }
}

/// Up to 48 rows as left tiles: row i of the tiles is row i, the reduction runs along the row. Per step of 32 elements, for each part,
/// as many tiles as the rows fill or begin.
template <class T>
ESFT_EIGEN_AVX512_BF16 void pack_rows_as_rows(const row_pointers<T>& rows, index count, index width, bf16* to, writing way) {
  const index height = (count + 15) / 16 * 16;
  for (index k = 0; k < width; k += block_side) {
    for (index part = 0; part < parts_of<T>; ++part) {
      for (index i = 0; i < height; ++i, to += 32) write_line(to, load_part(rows.at[i], k, part), way);
    }
  }
}

/// Rows 2 i and 2 i + 1 interleaved: the pairs of columns 0 to 15 and those of columns 16 to 31.
ESFT_EIGEN_AVX512_BF16 inline void interleave(__m512i first, __m512i second, __m512i& low, __m512i& high) {
  const __m512i even = _mm512_unpacklo_epi16(first, second);  // columns 0-3 8-11 16-19 24-27
  const __m512i odd = _mm512_unpackhi_epi16(first, second);   // columns 4-7 12-15 20-23 28-31
  const __m512i low_lanes = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
  const __m512i high_lanes = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
  low = _mm512_permutex2var_epi64(even, low_lanes, odd);
  high = _mm512_permutex2var_epi64(even, high_lanes, odd);
}

/// 32 rows as right tiles: column i of the tiles is column i, the reduction runs over the rows. A block of two tiles per 32 columns,
/// `stride` elements from the next.
ESFT_EIGEN_AVX512_BF16 inline void pack_columns_as_columns(const row_pointers<bf16>& rows, index width, bf16* to, index stride,
                                                           writing way) {
  for (index k = 0; k < width; k += block_side, to += stride) {
    for (int pair = 0; pair < 16; ++pair) {
      __m512i low;
      __m512i high;
      interleave(load_part(rows.at[2 * pair], k, 0), load_part(rows.at[2 * pair + 1], k, 0), low, high);
      write_line(to + 32 * pair, low, way);
      write_line(to + tile_size + 32 * pair, high, way);
    }
  }
}

/// 32 rows as left tiles, transposed: row i of the tiles is column i, the reduction runs over the rows. A block of two tiles per part
/// and 32 columns, `stride` elements from that of the next columns.
template <class T>
ESFT_EIGEN_AVX512_BF16 void pack_columns_as_rows(const row_pointers<T>& rows, index width, bf16* to, index stride, writing way) {
  for (index k = 0; k < width; k += block_side, to += stride) {
    for (index part = 0; part < parts_of<T>; ++part) {
      __m512i low[16];
      __m512i high[16];
      ESFT_EIGEN_UNROLL
      for (int pair = 0; pair < 16; ++pair) {
        interleave(load_part(rows.at[2 * pair], k, part), load_part(rows.at[2 * pair + 1], k, part), low[pair], high[pair]);
      }
      transpose_pairs(low);
      transpose_pairs(high);
      bf16* const block = to + part * block_size;
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) {
        write_line(block + 32 * i, low[i], way);
        write_line(block + tile_size + 32 * i, high[i], way);
      }
    }
  }
}

/// Two neighbouring rows of a block of the weight, as one row of each of its two right tiles, whose reduction runs over the block's rows.
/// Columns come in the order in which unpacking leaves them: 0-3 8-11 16-19 24-27 in the first tile, the others in the second; `write_rows`
/// puts the sums right.
ESFT_EIGEN_AVX512_BF16 ESFT_EIGEN_INLINE void turn_pair(const bf16* rows, bf16* to) {
  const __m512i first = _mm512_loadu_si512(rows);
  const __m512i second = _mm512_loadu_si512(rows + 32);
  _mm512_storeu_si512(to, _mm512_unpacklo_epi16(first, second));
  _mm512_storeu_si512(to + tile_size, _mm512_unpackhi_epi16(first, second));
}

/// 32 results of a row: stored, or added to what is there and then rounded.
ESFT_EIGEN_AVX512_BF16 ESFT_EIGEN_INLINE void write_32(float* to, __m512 low, __m512 high, writing way) {
  if (way == writing::add) {
    low = _mm512_add_ps(_mm512_loadu_ps(to), low);
    high = _mm512_add_ps(_mm512_loadu_ps(to + 16), high);
  }
  write_line(to, _mm512_castps_si512(low), way);
  write_line(to + 16, _mm512_castps_si512(high), way);
}
ESFT_EIGEN_AVX512_BF16 ESFT_EIGEN_INLINE void write_32(bf16* to, __m512 low, __m512 high, writing way) {
  if (way == writing::add) {
    const __m512i old = _mm512_loadu_si512(to);
    low = _mm512_add_ps(widened(_mm512_castsi512_si256(old)), low);
    high = _mm512_add_ps(widened(_mm512_extracti64x4_epi64(old, 1)), high);
  }
  write_line(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)), way);
}

/// Copies `count` rows of 32 from a block without gaps.
ESFT_EIGEN_AVX512_BF16 inline void write_block_rows(const bf16* block, index count, bf16* to, index stride, writing way) {
  for (index i = 0; i < count; ++i) write_line(to + i * stride, _mm512_loadu_si512(block + 32 * i), way);
}

/// y[i][0..32) = column i of 32 rows of sums, `sums_stride` apart, for i < count.
template <class Y>
ESFT_EIGEN_AVX512_BF16 void write_columns(const float* sums, index sums_stride, index count, Y* y, index stride, writing way) {
  for (index first = 0; first < count; first += 16) {
    const index present = std::min<index>(16, count - first);
    Y* out = y + first * stride;
    if (std::is_same_v<Y, bf16> && way != writing::add) {  // rounded before transposing: half the shuffles
      const __m512i in_pairs = _mm512_setr_epi32(0x100000, 0x110001, 0x120002, 0x130003, 0x140004, 0x150005, 0x160006, 0x170007, 0x180008,
                                                 0x190009, 0x1a000a, 0x1b000b, 0x1c000c, 0x1d000d, 0x1e000e, 0x1f000f);
      __m512i row[16];
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) {
        const __m512 even = _mm512_loadu_ps(sums + 2 * i * sums_stride + first);
        const __m512 odd = _mm512_loadu_ps(sums + (2 * i + 1) * sums_stride + first);
        row[i] = _mm512_permutexvar_epi16(in_pairs, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even)));
      }
      transpose_pairs(row);
      if (present == 16) {
        ESFT_EIGEN_UNROLL
        for (int i = 0; i < 16; ++i) write_line(out + i * stride, row[i], way);
      } else {
        for (index i = 0; i < present; ++i) write_line(out + i * stride, row[i], way);
      }
    } else {
      __m512 low[16];
      __m512 high[16];
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) {
        low[i] = _mm512_loadu_ps(sums + i * sums_stride + first);
        high[i] = _mm512_loadu_ps(sums + (i + 16) * sums_stride + first);
      }
      transpose_16x16(low);
      transpose_16x16(high);
      for (index i = 0; i < present; ++i) write_32(out + i * stride, low[i], high[i], way);
    }
  }
}

/// y[i][0..32) = row i of sums of 32 columns, for i < count, with the columns of `turn_pair` in their order again.
template <class Y>
ESFT_EIGEN_AVX512_BF16 void write_rows(const float* sums, index count, Y* y, index stride, writing way) {
  const __m512i low_lanes = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high_lanes = _mm512_add_epi32(low_lanes, _mm512_set1_epi32(8));
  for (index i = 0; i < count; ++i) {
    const __m512 even = _mm512_loadu_ps(sums + 32 * i);
    const __m512 odd = _mm512_loadu_ps(sums + 32 * i + 16);
    write_32(y + i * stride, _mm512_permutex2var_ps(even, low_lanes, odd), _mm512_permutex2var_ps(even, high_lanes, odd), way);
  }
}

#endif

}  // namespace esft::detail::eigen
