// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `multiply_panels`: C = A B with both operands in panels of sixteen, the float kernel below products with packed weights.

#include <esft/backends/eigen/packing.hpp>
#include <esft/backends/eigen/rows.hpp>
#include <esft/backends/eigen/simd.hpp>

namespace esft::detail::eigen {

/// Rows of a panel, and so the tile rows of the layout of a weight. A panel [depth, 16] holds sixteen rows of an operand side by side.
inline constexpr index panel_width = 16;
/// Panels of the right operand that meet eight rows of the left one at once: 24 sums in registers.
inline constexpr index panel_vectors = 3;

/// The result of a product: element (i, 16 v + lane) lies at data[i * row + v * panel + lane].
struct panel_result {
  float* data;
  index row;
  index panel;
};

/// Rows that a kernel takes before it goes on to the next ones.
constexpr index rows_of_tile(isa set) noexcept { return set >= isa::avx512 ? block_rows : panel_width; }

/// What to bring closer while computing: up to three streams (as many as the right operand has panels), `per_tile` floats of each for every
/// tile of `rows_of_tile` rows.
struct lookahead {
  const float* from[panel_vectors] = {nullptr, nullptr, nullptr};
  index per_tile = 0;

  lookahead() = default;
  lookahead(const float* first, const float* second, const float* third, index amount) noexcept
      : from{first, second, third}, per_tile(amount) {}
  /// Streams `panel` floats apart.
  lookahead(const float* first, index panel, index amount) noexcept : lookahead(first, first + panel, first + 2 * panel, amount) {}
};

#if ESFT_EIGEN_X86
template <index Rows, index Vectors>
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE void panel_tile_avx512(index depth, const float* a, const float* b, index b_panel, float* c,
                                                           index c_row, index c_panel, bool accumulate, const lookahead& ahead, index skip,
                                                           index interval) {
  const float* near[static_cast<std::size_t>(Vectors)];
  ESFT_EIGEN_UNROLL
  for (index v = 0; v < Vectors; ++v) near[v] = (ahead.from[v] == nullptr ? a : ahead.from[v]) + skip;
  __m512 sum[static_cast<std::size_t>(Rows)][static_cast<std::size_t>(Vectors)];
  if (accumulate) {
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Rows; ++i) {
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < Vectors; ++v) sum[i][v] = _mm512_loadu_ps(c + i * c_row + v * c_panel);
    }
  } else {
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Rows; ++i) {
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < Vectors; ++v) sum[i][v] = _mm512_setzero_ps();
    }
  }
  for (index p = 0; p < depth;) {
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < Vectors; ++v) {
      _mm_prefetch(reinterpret_cast<const char*>(near[v]), _MM_HINT_T1);
      near[v] += panel_width;
    }
    const index end = std::min(depth, p + interval);
    for (; p < end; ++p) {
      __m512 right[static_cast<std::size_t>(Vectors)];
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < Vectors; ++v) right[v] = _mm512_loadu_ps(b + v * b_panel);
      ESFT_EIGEN_UNROLL
      for (index i = 0; i < Rows; ++i) {
        const __m512 left = _mm512_set1_ps(a[i]);
        ESFT_EIGEN_UNROLL
        for (index v = 0; v < Vectors; ++v) sum[i][v] = _mm512_fmadd_ps(left, right[v], sum[i][v]);
      }
      a += panel_width;
      b += panel_width;
    }
  }
  ESFT_EIGEN_UNROLL
  for (index i = 0; i < Rows; ++i) {
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < Vectors; ++v) _mm512_storeu_ps(c + i * c_row + v * c_panel, sum[i][v]);
  }
}

template <index Vectors>
ESFT_EIGEN_AVX512 void panels_avx512(index rows, index depth, const float* a, index a_panel, const float* b, index b_panel, panel_result c,
                                     bool accumulate, lookahead ahead) {
  // each line once: a second fetch of one that is on its way, or in the second-level cache only, would cost another request
  const index interval = ahead.per_tile == 0 ? std::max<index>(1, depth) : std::max<index>(1, depth * panel_width / ahead.per_tile);
  for (index i = 0; i < rows; i += block_rows) {
    const float* left = a + i / panel_width * a_panel + i % panel_width;
    const index skip = i / block_rows * ahead.per_tile;
    float* out = c.data + i * c.row;
    switch (std::min(block_rows, rows - i)) {
#define ESFT_EIGEN_TILE(height)                                                                                          \
  case height:                                                                                                           \
    panel_tile_avx512<height, Vectors>(depth, left, b, b_panel, out, c.row, c.panel, accumulate, ahead, skip, interval); \
    break;
      ESFT_EIGEN_TILE(1)
      ESFT_EIGEN_TILE(2)
      ESFT_EIGEN_TILE(3)
      ESFT_EIGEN_TILE(4)
      ESFT_EIGEN_TILE(5)
      ESFT_EIGEN_TILE(6)
      ESFT_EIGEN_TILE(7)
      ESFT_EIGEN_TILE(8)
#undef ESFT_EIGEN_TILE
    }
  }
}
#endif

/// The same in the compiler's vectors: a few rows by one panel, for instruction sets with sixteen registers.
template <class vec>
struct narrow_panels {
  static constexpr index parts = panel_width / lanes_of<vec>;

  /// With every step of the depth it fetches the line at `near`, and goes on there by `stride` floats.
  template <index Height>
  ESFT_EIGEN_INLINE static void tile(index depth, const float* a, const float* b, float* c, index c_row, bool accumulate, const float* near,
                                     index stride) {
    vec sum[static_cast<std::size_t>(Height)][static_cast<std::size_t>(parts)];
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Height; ++i) {
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < parts; ++v) {
        sum[i][v] = vec{};
        if (accumulate) load(sum[i][v], c + i * c_row + v * lanes_of<vec>);
      }
    }
    for (index p = 0; p < depth; ++p) {
      __builtin_prefetch(near);
      near += stride;
      vec right[static_cast<std::size_t>(parts)];
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < parts; ++v) load(right[v], b + v * lanes_of<vec>);
      ESFT_EIGEN_UNROLL
      for (index i = 0; i < Height; ++i) {
        ESFT_EIGEN_UNROLL
        for (index v = 0; v < parts; ++v) sum[i][v] += a[i] * right[v];
      }
      a += panel_width;
      b += panel_width;
    }
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Height; ++i) {
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < parts; ++v) store(c + i * c_row + v * lanes_of<vec>, sum[i][v]);
    }
  }

  ESFT_EIGEN_INLINE static void run(index rows, index vectors, index depth, const float* a, index a_panel, const float* b, index b_panel,
                                    panel_result c, bool accumulate, lookahead ahead) {
    constexpr index most = parts == 2 ? 6 : 2;  // rows whose sums, a panel wide, are held in registers
    constexpr index tiles = (panel_width + most - 1) / most;
    const index stride = depth == 0 ? 0 : (ahead.per_tile + tiles * depth - 1) / (tiles * depth);
    for (index v = 0; v < vectors; ++v, b += b_panel, c.data += c.panel) {
      for (index top = 0; top < rows; top += panel_width) {
        const index end = rows - top < panel_width ? rows - top : panel_width;
        const float* left = a + top / panel_width * a_panel;
        const float* near = ahead.from[v] == nullptr ? left : ahead.from[v] + top / panel_width * ahead.per_tile;
        float* out = c.data + top * c.row;
        for (index i = 0; i < end;) {
          const index remaining = end - i;
          const index height = remaining >= 2 * most ? most : remaining > most ? (remaining + 1) / 2 : remaining;
          switch (height) {
#define ESFT_EIGEN_TILE(count)                                                                                      \
  case count:                                                                                                       \
    if constexpr (count <= most) tile<count>(depth, left + i, b, out + i * c.row, c.row, accumulate, near, stride); \
    break;
            ESFT_EIGEN_TILE(1)
            ESFT_EIGEN_TILE(2)
            ESFT_EIGEN_TILE(3)
            ESFT_EIGEN_TILE(4)
            ESFT_EIGEN_TILE(5)
            ESFT_EIGEN_TILE(6)
#undef ESFT_EIGEN_TILE
          }
          i += height;
          near += stride * depth;
        }
      }
    }
  }
};

/// C = A B or C += A B for `vectors` <= 3 panels of B. Every sum begins with the old C and runs over the depth in order, so that no
/// cutting of rows, panels or depth changes a bit.
/// @shape a [rows / 16, depth, 16] with `a_panel` floats from panel to panel, b [vectors, depth, 16] likewise
/// @return the instruction set whose kernel ran: a test asks, as the bits of AVX2 and AVX-512 are the same
inline isa multiply_panels(isa set, index rows, index vectors, index depth, const float* a, index a_panel, const float* b, index b_panel,
                            panel_result c, bool accumulate, lookahead ahead = {}) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx512) {
    if (vectors == 3) {
      panels_avx512<3>(rows, depth, a, a_panel, b, b_panel, c, accumulate, ahead);
    } else if (vectors == 2) {
      panels_avx512<2>(rows, depth, a, a_panel, b, b_panel, c, accumulate, ahead);
    } else {
      panels_avx512<1>(rows, depth, a, a_panel, b, b_panel, c, accumulate, ahead);
    }
    return isa::avx512;
  }
  if (set == isa::avx2) {
    call_avx2<narrow_panels<vector_types<32>::floats>>(rows, vectors, depth, a, a_panel, b, b_panel, c, accumulate, ahead);
    return isa::avx2;
  }
#endif
  static_cast<void>(set);
  narrow_panels<vector_types<16>::floats>::run(rows, vectors, depth, a, a_panel, b, b_panel, c, accumulate, ahead);
  return isa::generic;
}

#if ESFT_EIGEN_X86
/// Up to sixteen rows, wherever each lies, become one panel.
template <class T>
ESFT_EIGEN_AVX512 void rows_to_panel_avx512(row_source<T> x, index first, index rows, index depth, float* to) {
  const T* from[16];
  for (index i = 0; i < panel_width; ++i) from[i] = x[first + std::min(i, rows - 1)];
  for (index k = 0; k < depth; k += 16) {
    const index count = std::min<index>(16, depth - k);
    const auto mask = static_cast<__mmask16>(0xffffU >> static_cast<unsigned>(16 - count));
    __m512 row[16];
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < 16; ++i) row[i] = load_avx512(from[i] + k, i < rows ? mask : static_cast<__mmask16>(0));
    transpose_16x16(row);
    if (count == 16) {
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < 16; ++i) _mm512_storeu_ps(to + (k + i) * panel_width, row[i]);
    } else {
      for (index i = 0; i < count; ++i) _mm512_storeu_ps(to + (k + i) * panel_width, row[i]);
    }
  }
}
#endif

/// to[k][i] = x[first + i][k] for i < rows <= 16, zero beyond. @shape to [depth, 16]
template <class T>
void rows_to_panel(isa set, row_source<T> x, index first, index rows, index depth, float* to) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx512) return rows_to_panel_avx512(x, first, rows, depth, to);
  if (set == isa::avx2) {
    for (index half = 0; half < panel_width; half += 8) {
      const T* row[8];
      for (index i = 0; i < 8; ++i) row[i] = half + i < rows ? x[first + half + i] : nullptr;
      rows_to_columns_avx2(row, depth, to + half, panel_width);
    }
    return;
  }
#endif
  static_cast<void>(set);
  for (index i = 0; i < panel_width; ++i) {
    const T* from = i < rows ? x[first + i] : nullptr;
    for (index k = 0; k < depth; ++k) to[k * panel_width + i] = from == nullptr ? 0.0F : static_cast<float>(from[k]);
  }
}

/// Rows, wherever each lies, become panels of their columns: to[c / 16][r][c % 16], zero beyond the last column.
/// @shape to [.., *, 16], `to_panel` floats from panel to panel
template <class vec>
struct columns_to_panels {
  template <class T>
  ESFT_EIGEN_INLINE static void run(row_source<T> x, index first, index rows, index columns, float* to, index to_panel) {
    for (index c = 0; c < columns; c += panel_width, to += to_panel) {
      for (index r = 0; r < rows; ++r) {
        for (index part = 0; part < panel_width; part += lanes_of<vec>) {
          vec v{};
          if (c + part < columns) load(v, x[first + r] + c + part, columns - c - part);
          store(to + r * panel_width + part, v);
        }
      }
    }
  }
};

}  // namespace esft::detail::eigen
