// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// y = x w^T and dx = dy w on bf16 tiles for at most four rows an expert, by AVX512_BF16: the weight streams by, nothing is packed or padded.

#include <esft/backends/eigen/machine.hpp>
#include <esft/backends/eigen/packing.hpp>
#include <esft/backends/eigen/rows.hpp>
#include <esft/backends/eigen/swiglu.hpp>

#include <algorithm>
#include <vector>

namespace esft::detail::eigen {

/// Groups with at most so many rows are served without packing.
inline constexpr index few_rows = 4;

/// Groups of few rows and the others, in order.
struct split_groups {
  std::vector<row_group> few, many;

  explicit split_groups(const std::vector<row_group>& groups, index most = few_rows) {
    for (const row_group& group : groups) (group.rows() <= most ? few : many).push_back(group);
  }
};

#if ESFT_EIGEN_X86

/// Sums of 32 rows of the weight, a strip of tiles, with `Rows` rows of x. @shape strip [depth / 32][32][32], sums [Rows][32]
template <int Rows>
ESFT_EIGEN_AVX512_BF16 void dot_strip(const bf16* strip, const bf16* const* x, index depth, float* sums) {
  constexpr int at_once = Rows == 1 ? 16 : Rows == 2 ? 8 : 4;
  constexpr index line = 32;
  for (int first = 0; first < 32; first += at_once) {
    __m512 sum[std::size_t{at_once}][std::size_t{Rows}];
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < at_once; ++i) {
      ESFT_EIGEN_UNROLL
      for (int r = 0; r < Rows; ++r) sum[i][r] = _mm512_setzero_ps();
    }
    const bf16* weight = strip + first * line;
    for (index k = 0; k < depth; k += 32, weight += 32 * line) {
      __m512bh row[std::size_t{Rows}];
      ESFT_EIGEN_UNROLL
      for (int r = 0; r < Rows; ++r) row[r] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(x[r] + k));
      ESFT_EIGEN_UNROLL
      for (int i = 0; i < at_once; ++i) {
        _mm_prefetch(weight + 8 * 32 * line + i * line, _MM_HINT_T0);
        const auto left = reinterpret_cast<__m512bh>(_mm512_loadu_si512(weight + i * line));
        ESFT_EIGEN_UNROLL
        for (int r = 0; r < Rows; ++r) sum[i][r] = _mm512_dpbf16_ps(sum[i][r], left, row[r]);
      }
    }
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < at_once; ++i) {
      ESFT_EIGEN_UNROLL
      for (int r = 0; r < Rows; ++r) sums[32 * r + first + i] = _mm512_reduce_add_ps(sum[i][r]);
    }
  }
}

/// Sums of `Tiles` neighbouring columns of tiles with `Rows` rows of dy. @shape first tile of w [depth / 32][columns / 32][32][32],
/// sums [Rows][32 Tiles]
template <int Rows, int Tiles>
ESFT_EIGEN_AVX512_BF16 void dot_columns(const bf16* weight, const bf16* const* dy, index columns, index depth, float* sums) {
  constexpr index line = 32;
  __m512 sum[std::size_t{Rows}][std::size_t{2 * Tiles}];
  ESFT_EIGEN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ESFT_EIGEN_UNROLL
    for (int v = 0; v < 2 * Tiles; ++v) sum[r][v] = _mm512_setzero_ps();
  }
  for (index n = 0; n < depth; n += 32, weight += 32 * columns) {
    for (index pair = 0; pair < 16; ++pair) {
      __m512bh weights[std::size_t{2 * Tiles}];
      ESFT_EIGEN_UNROLL
      for (int t = 0; t < Tiles; ++t) {
        const bf16* const at = weight + t * 32 * line + 2 * pair * line;
        _mm_prefetch(at + 32 * columns, _MM_HINT_T0);
        _mm_prefetch(at + 32 * columns + line, _MM_HINT_T0);
        const __m512i even = _mm512_loadu_si512(at);
        const __m512i odd = _mm512_loadu_si512(at + line);
        weights[2 * t] = reinterpret_cast<__m512bh>(_mm512_unpacklo_epi16(even, odd));  // columns 0-3, 8-11, 16-19, 24-27
        weights[2 * t + 1] = reinterpret_cast<__m512bh>(_mm512_unpackhi_epi16(even, odd));
      }
      ESFT_EIGEN_UNROLL
      for (int r = 0; r < Rows; ++r) {
        std::int32_t both;
        __builtin_memcpy(&both, dy[r] + n + 2 * pair, sizeof both);
        const auto repeated = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
        ESFT_EIGEN_UNROLL
        for (int v = 0; v < 2 * Tiles; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], repeated, weights[v]);
      }
    }
  }
  const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  ESFT_EIGEN_UNROLL
  for (int r = 0; r < Rows; ++r) {
    ESFT_EIGEN_UNROLL
    for (int t = 0; t < Tiles; ++t) {
      float* const out = sums + r * 32 * Tiles + 32 * t;
      _mm512_storeu_ps(out, _mm512_permutex2var_ps(sum[r][2 * t], low, sum[r][2 * t + 1]));
      _mm512_storeu_ps(out + 16, _mm512_permutex2var_ps(sum[r][2 * t], high, sum[r][2 * t + 1]));
    }
  }
}

/// Calls `body(group, first, last, slot)` for runs of `units` pieces of every group, each run reading about half a megabyte of weights.
template <class Body>
void for_few_rows(machine& m, const std::vector<row_group>& groups, index units, index unit_bytes, Body&& body) {
  const index run = std::max<index>(1, (index{1} << 19) / std::max<index>(1, unit_bytes));
  const index runs = (units + run - 1) / run;
  std::vector<row_group> present;
  std::copy_if(groups.begin(), groups.end(), std::back_inserter(present), [](const row_group& g) { return g.rows() > 0; });
  const auto tasks = static_cast<index>(present.size()) * runs;
  m.run(tasks, static_cast<double>(tasks * run) * static_cast<double>(unit_bytes), [&](index task, int slot) {
    const index first = task % runs * run;
    body(present[static_cast<std::size_t>(task / runs)], first, std::min(units, first + run), slot);
  });
}

/// y[r] = x[r] w[matrix]^T, or +=, for groups of at most four rows. @shape as `tiled_forward`
template <class Y>
void few_rows_forward(machine& m, row_source<bf16> x, const bf16* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                      bool accumulate) {
  for_few_rows(m, groups, columns / 32, 64 * depth, [&](const row_group& group, index first, index last, int) {
    const bf16* rows[few_rows] = {};
    for (index r = 0; r < group.rows(); ++r) rows[r] = x[group.begin + r];
    alignas(64) float sums[few_rows * 32];
    for (index s = first; s < last; ++s) {
      const bf16* const strip = w + (group.matrix * columns + 32 * s) * depth;
      switch (group.rows()) {
        case 1: dot_strip<1>(strip, rows, depth, sums); break;
        case 2: dot_strip<2>(strip, rows, depth, sums); break;
        case 3: dot_strip<3>(strip, rows, depth, sums); break;
        default: dot_strip<4>(strip, rows, depth, sums); break;
      }
      Y* const out = y + group.begin * columns + 32 * s;
      call<write_block>(m.set, static_cast<const float*>(sums), index{32}, group.rows(), index{32}, out, columns, accumulate);
    }
  });
}

/// gate_up[r] = x[r] w[matrix]^T and h[r] = silu(gate) * up for groups of at most four rows. @shape as `tiled_swiglu_forward`
inline void few_rows_swiglu_forward(machine& m, row_source<bf16> x, const bf16* w, bf16* gate_up, bf16* h,
                                    const std::vector<row_group>& groups, index inner, index depth) {
  few_rows_forward(m, x, w, gate_up, groups, 2 * inner, depth, false);
  for (const row_group& group : groups) {
    call<swiglu_rows>(m.set, static_cast<const bf16*>(gate_up + group.begin * 2 * inner), group.rows(), inner, h + group.begin * inner);
  }
}

/// dx[r] = dy[r] w[matrix], or +=, for groups of at most four rows. @shape as `tiled_input_gradient`
inline void few_rows_input_gradient(machine& m, row_source<bf16> dy, const bf16* w, bf16* dx, const std::vector<row_group>& groups,
                                    index columns, index depth, bool accumulate) {
  for_few_rows(m, groups, (columns + 63) / 64, 128 * depth, [&](const row_group& group, index first, index last, int) {
    const bf16* rows[few_rows] = {};
    for (index r = 0; r < group.rows(); ++r) rows[r] = dy[group.begin + r];
    alignas(64) float sums[few_rows * 64];
    for (index s = first; s < last; ++s) {
      const bf16* const tiles = w + group.matrix * columns * depth + 2 * s * 1024;
      const index width = std::min<index>(64, columns - 64 * s);
      const auto run = [&]<int Rows>() {
        if (width == 64) {
          dot_columns<Rows, 2>(tiles, rows, columns, depth, sums);
        } else {
          dot_columns<Rows, 1>(tiles, rows, columns, depth, sums);
        }
      };
      switch (group.rows()) {
        case 1: run.template operator()<1>(); break;
        case 2: run.template operator()<2>(); break;
        case 3: run.template operator()<3>(); break;
        default: run.template operator()<4>(); break;
      }
      call<write_block>(m.set, static_cast<const float*>(sums), width, group.rows(), width, dx + group.begin * columns + 64 * s, columns,
                        accumulate);
    }
  });
}

#endif

}  // namespace esft::detail::eigen
