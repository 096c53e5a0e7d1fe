// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Blocks of a weight as panels of floats, whatever its element type: of its rows, for y = x w^T, and of its columns, for dx = dy w.

#include <esft/backends/eigen/machine.hpp>
#include <esft/backends/eigen/panel_kernel.hpp>

#include <type_traits>

namespace esft::detail::eigen {

/// Depth of the blocks of the right operand: three panels of it take 24 KiB, half of the first-level cache.
inline constexpr index panel_depth = 128;
constexpr index divide_up(index value, index by) noexcept { return (value + by - 1) / by; }

/// Rows that a weight keeps together: one panel of floats, or two of bf16 in tiles.
template <class W>
inline constexpr index strip_rows = kernel_layout<W>.tile_rows;
/// Panels of a weight that meet rows at once: whole strips.
template <class W>
inline constexpr index panels_at_once = std::is_same_v<W, float> ? panel_vectors : strip_rows<W> / panel_width;

/// How many panels to take next when `remaining` are left: of floats three, but two and two of four.
template <class W>
constexpr index next_panels(index remaining) noexcept {
  return std::is_same_v<W, float> && remaining == 4 ? 2 : std::min(panels_at_once<W>, remaining);
}

#if ESFT_EIGEN_X86
ESFT_EIGEN_AVX512 inline void turn_panels_avx512(const float* from, index from_panel, index depth, index columns, float* to) {
  for (index n = 0; n < depth; n += panel_width, from += from_panel) {
    for (index c = 0; c < columns; c += panel_width) {
      float* out = to + c * depth + n * panel_width;
      __m512 row[16];
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) row[i] = c + i < columns ? _mm512_loadu_ps(from + (c + i) * panel_width) : _mm512_setzero_ps();
      transpose_16x16(row);
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) _mm512_storeu_ps(out + i * panel_width, row[i]);
    }
  }
}
#endif

/// Panels of the rows of a matrix become panels of its columns: to[c / 16][n][c % 16] = from[n / 16][c][n % 16], zero beyond the last.
/// @shape from [depth / 16, columns, 16] with `from_panel` floats from panel to panel, to [columns / 16, depth, 16]
inline void turn_panels(isa set, const float* from, index from_panel, index depth, index columns, float* to) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx512) return turn_panels_avx512(from, from_panel, depth, columns, to);
  if (set == isa::avx2) {
    for (index n = 0; n < depth; n += panel_width, from += from_panel) {
      for (index c = 0; c < columns; c += panel_width) {
        rows_to_columns_avx2(from + c * panel_width, columns - c, panel_width, panel_width, to + c * depth + n * panel_width, panel_width,
                             panel_width);
      }
    }
    return;
  }
#endif
  static_cast<void>(set);
  for (index n = 0; n < depth; n += panel_width) {
    for (index c = 0; c < columns; c += panel_width) {
      for (index i = 0; i < panel_width; ++i) {
        for (index j = 0; j < panel_width; ++j) {
          to[c * depth + (n + i) * panel_width + j] =
              c + j < columns ? from[n / panel_width * from_panel + (c + j) * panel_width + i] : 0.0F;
        }
      }
    }
  }
}

#if ESFT_EIGEN_X86
/// Sixteen rows of a tile become a panel: to[c][r] = from[r][c]. @shape from [16, 32], to [32, 16]
ESFT_EIGEN_AVX2 inline void turn_half_tile_avx2(const bf16* from, float* to) {
  constexpr index step = kernel_layout<bf16>.tile_columns;
  const __m256i zero = _mm256_setzero_si256();
  for (index c = 0; c < step; c += 8, to += 8 * panel_width) {
    __m256i row[8];  // rows 0 to 3 and 8 to 11 in the low lane, 4 to 7 and 12 to 15 in the high one: the last step joins them in order
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < 8; ++i) {
      const bf16* const low = from + (i < 4 ? i : 4 + i) * step + c;
      row[i] = _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(low + 4 * step), reinterpret_cast<const __m128i*>(low));
    }
    __m256i two[8];  // columns 4 h .. 4 h + 3 of rows 2 i and 2 i + 1 are two[2 i + h]
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < 4; ++i) {
      two[2 * i] = _mm256_unpacklo_epi16(row[2 * i], row[2 * i + 1]);
      two[2 * i + 1] = _mm256_unpackhi_epi16(row[2 * i], row[2 * i + 1]);
    }
    ESFT_EIGEN_UNROLL
    for (int h = 0; h < 2; ++h) {
      const __m256i four[4] = {_mm256_unpacklo_epi32(two[h], two[2 + h]), _mm256_unpackhi_epi32(two[h], two[2 + h]),
                               _mm256_unpacklo_epi32(two[4 + h], two[6 + h]), _mm256_unpackhi_epi32(two[4 + h], two[6 + h])};
      ESFT_EIGEN_UNROLL
      for (int q = 0; q < 4; ++q) {  // one column of all rows
        const __m256i up = four[q / 2];
        const __m256i down = four[2 + q / 2];
        const __m256i column = q % 2 == 0 ? _mm256_unpacklo_epi64(up, down) : _mm256_unpackhi_epi64(up, down);
        float* const out = to + (4 * h + q) * panel_width;
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_unpacklo_epi16(zero, column));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), _mm256_unpackhi_epi16(zero, column));
      }
    }
  }
}
#endif

/// @copydoc turn_half_tile_avx2
inline void turn_half_tile(isa set, const bf16* from, float* to) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx2) return turn_half_tile_avx2(from, to);
#endif
  static_cast<void>(set);
  constexpr index step = kernel_layout<bf16>.tile_columns;
  for (index c = 0; c < step; ++c) {
    for (index r = 0; r < panel_width; ++r) to[c * panel_width + r] = static_cast<float>(from[r * step + c]);
  }
}

/// Tiles below one another become two panels of their columns. @shape from [rows / 32] tiles `stride` elements apart, to [2, rows, 16]
template <class vec>
struct widen_tiles {
  ESFT_EIGEN_INLINE static void run(const bf16* from, index stride, index rows, float* to) {
    constexpr index side = kernel_layout<bf16>.tile_rows;
    for (index r = 0; r < rows; r += side, from += stride) {
      for (index i = 0; i < side; ++i) {
        for (index c = 0; c < side; c += lanes_of<vec>) {
          vec v;
          load(v, from + i * side + c);
          store(to + c / panel_width * rows * panel_width + (r + i) * panel_width + c % panel_width, v);
        }
      }
    }
  }
};

/// Panels in memory. @shape data [*, depth, 16], `stride` floats from panel to panel
struct weight_panels {
  const float* data;
  index stride;
};

// A block of a weight [*, columns] in `kernel_layout`: `vectors` panels from number p on, and `deep` from k on in the other direction. bf16
// takes whole tiles. What is no panel yet becomes one in the thread's `buffer::right`.

/// The block's rows as panels: floats are ones as they lie. @shape [vectors, deep, 16]
inline weight_panels panels_of_rows(machine& /*m*/, int /*slot*/, const float* w, index columns, index p, index /*vectors*/, index k,
                                    index /*deep*/) {
  return {w + p * columns * panel_width + k * panel_width, columns * panel_width};
}
inline weight_panels panels_of_rows(machine& m, int slot, const bf16* w, index columns, index p, index vectors, index k, index deep) {
  constexpr index side = kernel_layout<bf16>.tile_columns;
  float* const to = m.of(slot)(buffer::right, vectors * deep * panel_width);
  for (index v = 0; v < vectors; ++v) {
    const index row = (p + v) * panel_width;
    const bf16* const from = w + row / side * side * columns + k * side + row % side * side;
    for (index c = 0; c < deep; c += side) turn_half_tile(m.set, from + c * side, to + (v * deep + c) * panel_width);
  }
  return {to, deep * panel_width};
}

/// The block's columns as panels, the last of `wide` columns filled with zeros. @shape [wide / 16, deep, 16]
inline weight_panels panels_of_columns(machine& m, int slot, const float* w, index columns, index p, index wide, index k, index deep) {
  float* const to = m.of(slot)(buffer::right, divide_up(wide, panel_width) * deep * panel_width);
  turn_panels(m.set, w + k * columns + p * panel_width * panel_width, columns * panel_width, deep, wide, to);
  return {to, deep * panel_width};
}
inline weight_panels panels_of_columns(machine& m, int slot, const bf16* w, index columns, index p, index wide, index k, index deep) {
  constexpr index side = kernel_layout<bf16>.tile_columns;
  float* const to = m.of(slot)(buffer::right, wide * deep);
  for (index c = 0; c < wide; c += side) {
    call<widen_tiles>(m.set, w + k * columns + (p * panel_width + c) * side, side * columns, deep, to + c * deep);
  }
  return {to, deep * panel_width};
}

}  // namespace esft::detail::eigen
