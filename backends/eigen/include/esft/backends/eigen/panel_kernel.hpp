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

/// The same in the compiler's vectors, for instruction sets with sixteen registers: tiles of twelve sums in AVX2, of eight elsewhere. Where
/// there are three panels, four rows by three vectors: fewer instructions than six rows by one panel, and a core that is shared with
/// another thread issues few.
template <class vec>
struct narrow_panels {
  static constexpr index parts = panel_width / lanes_of<vec>;
  static constexpr index steps = 4;  ///< of the depth that go together

  struct operands {
    index rows, depth;
    const float* a;
    index a_panel;
    const float* b;
    index b_panel;
    panel_result c;
    bool accumulate;
  };
  /// Floats to fetch: `amount` while a pass takes sixteen rows, and the next ones with the next rows. Null for none.
  struct stream {
    const float* from;
    index amount;
  };
  /// A line to fetch now, and how far the next one is.
  struct line {
    const float* at;
    index stride;
  };

  /// One step of the depth: `Height` rows with `Width` vectors, from number First on.
  template <index Height, index Width, index First>
  ESFT_EIGEN_INLINE static void add(const float* a, const float* b, index b_panel,
                                    vec (&sum)[static_cast<std::size_t>(Height)][static_cast<std::size_t>(Width)]) {
    vec right[static_cast<std::size_t>(Width)];
    ESFT_EIGEN_UNROLL
    for (index v = 0; v < Width; ++v) load(right[v], b + (First + v) / parts * b_panel + (First + v) % parts * lanes_of<vec>);
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Height; ++i) {
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < Width; ++v) sum[i][v] += a[i] * right[v];
    }
  }

  /// `a` and `c` are of the first row of the tile.
  template <index Height, index Width, index First>
  ESFT_EIGEN_INLINE static void tile(const operands& o, const float* a, float* c, line& first, line& second) {
    const auto at = [&](index i, index v) {
      return c + i * o.c.row + (First + v) / parts * o.c.panel + (First + v) % parts * lanes_of<vec>;
    };
    vec sum[static_cast<std::size_t>(Height)][static_cast<std::size_t>(Width)];
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Height; ++i) {
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < Width; ++v) {
        sum[i][v] = vec{};
        if (o.accumulate) load(sum[i][v], at(i, v));
      }
    }
    const float* b = o.b;
    index p = 0;
    for (; p + steps <= o.depth; p += steps) {
      __builtin_prefetch(first.at);
      __builtin_prefetch(second.at);
      first.at += first.stride;
      second.at += second.stride;
      ESFT_EIGEN_UNROLL
      for (index s = 0; s < steps; ++s) add<Height, Width, First>(a + s * panel_width, b + s * panel_width, o.b_panel, sum);
      a += steps * panel_width;
      b += steps * panel_width;
    }
    for (; p < o.depth; ++p, a += panel_width, b += panel_width) add<Height, Width, First>(a, b, o.b_panel, sum);
    ESFT_EIGEN_UNROLL
    for (index i = 0; i < Height; ++i) {
      ESFT_EIGEN_UNROLL
      for (index v = 0; v < Width; ++v) store(at(i, v), sum[i][v]);
    }
  }

  /// All rows with `Width` vectors from number First on, in tiles of at most `Most` rows and about the same height.
  template <index Most, index Width, index First>
  ESFT_EIGEN_INLINE static void pass(const operands& o, stream first, stream second) {
    const index times = std::max<index>(1, (panel_width + Most - 1) / Most * (o.depth / steps));  // that a line of each is fetched
    const float* a = o.a;
    float* c = o.c.data;
    for (index top = 0; top < o.rows; top += panel_width, a += o.a_panel, c += panel_width * o.c.row) {
      line of_first = {first.from == nullptr ? a : first.from, (first.amount + times - 1) / times};
      line of_second = {second.from == nullptr ? a : second.from, (second.amount + times - 1) / times};
      const index rows = std::min(panel_width, o.rows - top);
      for (index i = 0; i < rows;) {
        const index remaining = rows - i;
        const index height = remaining >= 2 * Most ? Most : remaining > Most ? (remaining + 1) / 2 : remaining;
        switch (height) {
#define ESFT_EIGEN_TILE(count)                                                                                           \
  case count:                                                                                                            \
    if constexpr (count <= Most) tile<count, Width, First>(o, a + i, c + i * o.c.row, of_first, of_second);              \
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
      }
      if (first.from != nullptr) first.from += first.amount;
      if (second.from != nullptr) second.from += second.amount;
    }
  }

  ESFT_EIGEN_INLINE static void run(index rows, index vectors, index depth, const float* a, index a_panel, const float* b, index b_panel,
                                    panel_result c, bool accumulate, lookahead ahead) {
    operands o{rows, depth, a, a_panel, b, b_panel, c, accumulate};
    // Each stream in two halves: where a pass has one stream both are its own, else the middle one of three is shared.
    const index half = ahead.per_tile / 2;
    const auto behind = [&](const float* from) { return from == nullptr ? nullptr : from + half; };
    if constexpr (parts == 2) {
      if (vectors == 3) {
        pass<4, 3, 0>(o, {ahead.from[0], ahead.per_tile}, {ahead.from[1], half});
        return pass<4, 3, 3>(o, {ahead.from[2], ahead.per_tile}, {behind(ahead.from[1]), half});
      }
    }
    constexpr index most = parts == 2 ? 6 : 2;
    for (index v = 0; v < vectors; ++v, o.b += b_panel, o.c.data += c.panel) {
      pass<most, parts, 0>(o, {ahead.from[v], half}, {behind(ahead.from[v]), half});
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
