// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Products grouped by expert whose sizes stay on the device: a grid as large as any routing may need, whose blocks find their tile in the
/// offsets. bf16 on tensor cores where 16-byte loads are possible, else plain float sums. Every result has one owner.

#include <esft/backends/cuda/kernels/scan.hpp>
#include <esft/backends/cuda/kernels/tensor_tiles.hpp>
#include <esft/backends/cuda/schedule.hpp>

namespace esft::detail::cuda {

/// first_tile [experts + 1]: tiles before each expert. One block.
template <class Id>
ESFT_KERNEL void count_tiles_kernel(const Id* offsets, std::int32_t experts, std::int32_t tile_rows, std::int32_t* first_tile) {
  block_running_sums(experts, [=](index e) { return tiles_of(offsets[e + 1] - offsets[e], tile_rows); }, first_tile);
}

/// Experts whose weight gradient one launch computes. By value: a captured launch keeps them.
struct selected_experts {
  static constexpr index most = 128;
  std::int32_t id[static_cast<std::size_t>(most)];
};

/// c [m, n] of one block = a [m, k] b [k, n]; a transposed operand is stored as [k, m] or [n, k]. Steps count elements between rows.
template <class T, class Out>
struct tile_product {
  const T* a;
  index a_step;
  const T* b;
  index b_step;
  Out* c;
  index c_step;
  index m, n, k;  ///< what is left of the extents from the tile's first element on; m and n are the tile's at most
};

/// Tile `number` of products of the experts' rows with their weights; without an expert where there are fewer tiles. @shape w [E, ...]
template <class T>
struct row_products {
  const T* x;  ///< [R, k]
  const T* w;  ///< [E, n, k], or [E, k, n]
  T* y;        ///< [R, n]
  const std::int32_t* offsets;
  const std::int32_t* first_tile;
  std::int32_t experts;
  index rows, n, k;
};
template <int Side, bool BTransposed, class T>
ESFT_DEVICE tile_product<T, T> tile_of(const row_products<T>& p) {
  const index strips = (p.n + Side - 1) / Side;  // neighbours share rows of x and the weights of one expert
  const index column = block_index() % strips * Side;
  const row_tile at = find_tile(p.offsets, p.first_tile, p.experts, Side, static_cast<std::int32_t>(block_index() / strips));
  const index end = at.end < p.rows ? at.end : p.rows;
  if (at.expert < 0) return {};
  const T* w = p.w + at.expert * p.n * p.k;
  return {p.x + at.first * p.k, p.k, BTransposed ? w + column * p.k : w + column, BTransposed ? p.k : p.n,
          p.y + at.first * p.n + column, p.n, end - at.first, p.n - column, p.k};
}

/// dw [S, m, n] += dy_e^T x_e for selected experts.
template <class T>
struct weight_products {
  const T* dy;  ///< [R, m]
  const T* x;   ///< [R, n]
  float* dw;
  const std::int32_t* offsets;
  index rows, m, n;
  selected_experts selected;
};
template <int Side, class T>
ESFT_DEVICE tile_product<T, float> tile_of(const weight_products<T>& p) {
  const index strips = (p.n + Side - 1) / Side;
  const index bands = (p.m + Side - 1) / Side;
  const index column = block_index() % strips * Side;
  const index row = block_index() / strips % bands * Side;
  const index slice = block_index() / strips / bands;
  const std::int32_t e = p.selected.id[slice];
  const index first = p.offsets[e];
  const index end = p.offsets[e + 1] < p.rows ? p.offsets[e + 1] : p.rows;
  return {p.dy + first * p.m + row, p.m, p.x + first * p.n + column, p.n,
          p.dw + (slice * p.m + row) * p.n + column, p.n, p.m - row, p.n - column, end - first};
}

// ---- tensor cores: 128 x 128 results a block, eight warps of 64 x 32, 64 terms at a time

inline constexpr int product_side = 128;
inline constexpr int product_depth = 64;
inline constexpr int product_threads = 8 * warp_size;
inline constexpr std::size_t product_bytes = 2 * 2 * product_side * product_depth * sizeof(bf16);

/// Begins to copy a tile of `Rows` x `Columns`; zeros beyond what is left. @pre the columns left are a multiple of 8
template <int Rows, int Columns>
ESFT_DEVICE void begin_tile(const bf16* from, index step, index rows, index columns, bf16* tile) {
  constexpr int chunks = Columns / chunk_elements;
  ESFT_UNROLL_BY_4
  for (int i = thread_index(); i < Rows * chunks; i += product_threads) {
    const int row = i / chunks;
    const int column = i % chunks * chunk_elements;
    const bool wanted = row < rows && column < columns;
    copy_16_bytes(tile + chunk_place(row, i % chunks, Columns), wanted ? from + row * step + column : from, wanted);
  }
}
ESFT_DEVICE void store_results(bf16* to, float first, float second) { store_pair(to, first, second); }
ESFT_DEVICE void store_results(float* to, float first, float second) {
  to[0] += first;
  to[1] += second;
}

template <bool ATransposed, bool BTransposed, class Out>
ESFT_DEVICE void multiply_tile(const tile_product<bf16, Out>& p) {
  constexpr int tile = product_side * product_depth;
  bf16* a_tiles = reinterpret_cast<bf16*>(shared_floats());
  bf16* b_tiles = a_tiles + 2 * tile;
  const int band = warp_index() / 4 * 64;
  const int strip = warp_index() % 4 * 32;
  const auto begin = [&](index l, int stage) {
    if constexpr (ATransposed) {
      begin_tile<product_depth, product_side>(p.a + l * p.a_step, p.a_step, p.k - l, p.m, a_tiles + stage * tile);
    } else {
      begin_tile<product_side, product_depth>(p.a + l, p.a_step, p.m, p.k - l, a_tiles + stage * tile);
    }
    if constexpr (BTransposed) {
      begin_tile<product_side, product_depth>(p.b + l, p.b_step, p.n, p.k - l, b_tiles + stage * tile);
    } else {
      begin_tile<product_depth, product_side>(p.b + l * p.b_step, p.b_step, p.k - l, p.n, b_tiles + stage * tile);
    }
  };
  sums_c c[4][4] = {};
  if (p.k > 0) begin(0, 0);
  end_copy_group();
  int stage = 0;
  for (index l = 0; l < p.k; l += product_depth) {
    if (l + product_depth < p.k) begin(l + product_depth, 1 - stage);
    end_copy_group();
    wait_for_copies<1>();
    sync_block();
    const bf16* a_tile = a_tiles + stage * tile;
    const bf16* b_tile = b_tiles + stage * tile;
    ESFT_UNROLL
    for (int k = 0; k < product_depth; k += 16) {
      operand_b b[4];
      ESFT_UNROLL
      for (int n = 0; n < 2; ++n) {
        operand_b pair[2];
        if constexpr (BTransposed) {
          load_b_transposed<product_depth>(b_tile, strip + 16 * n, k, pair);
        } else {
          load_b<product_side>(b_tile, k, strip + 16 * n, pair);
        }
        b[2 * n] = pair[0];
        b[2 * n + 1] = pair[1];
      }
      ESFT_UNROLL
      for (int m = 0; m < 4; ++m) {
        const operand_a a = ATransposed ? load_a_transposed<product_side>(a_tile, k, band + 16 * m)
                                        : load_a<product_depth>(a_tile, band + 16 * m, k);
        ESFT_UNROLL
        for (int n = 0; n < 4; ++n) multiply_add(c[m][n], a, b[n]);
      }
    }
    sync_block();  // this tile's place may be written
    stage = 1 - stage;
  }
  wait_for_copies<0>();
  ESFT_UNROLL
  for (int m = 0; m < 4; ++m) {
    ESFT_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = band + 16 * m + c_element(lane_index(), 2 * r).row;
      if (row >= p.m) continue;
      ESFT_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int column = strip + 8 * n + c_element(lane_index(), 0).column;
        if (column < p.n) store_results(p.c + row * p.c_step + column, c[m][n].value[2 * r], c[m][n].value[2 * r + 1]);
      }
    }
  }
}
template <bool BTransposed>
ESFT_KERNEL void ESFT_BLOCK_OF(product_threads) tensor_rows_kernel(row_products<bf16> p) {
  const auto tile = tile_of<product_side, BTransposed>(p);
  if (tile.m > 0) multiply_tile<false, BTransposed>(tile);  // the whole block
}
template <class T>
ESFT_KERNEL void ESFT_BLOCK_OF(product_threads) tensor_weights_kernel(weight_products<T> p) {
  const auto tile = tile_of<product_side>(p);
  if (tile.k > 0) multiply_tile<true, false>(tile);
}

// ---- plain float sums: 32 x 32 results a block, four a thread

inline constexpr int plain_side = 32;
inline constexpr int plain_threads = 256;

template <bool ATransposed, bool BTransposed, class T, class Out>
ESFT_DEVICE void multiply_plainly(const tile_product<T, Out>& p) {
  ESFT_SHARED float a[plain_side][plain_side + 1];  // [m, k]
  ESFT_SHARED float b[plain_side][plain_side + 1];  // [k, n]
  constexpr int bands = plain_threads / plain_side;
  const int column = thread_index() % plain_side;
  const int band = thread_index() / plain_side;
  float sums[plain_side / bands] = {};
  for (index l = 0; l < p.k; l += plain_side) {
    for (int i = band; i < plain_side; i += bands) {
      // Neighbouring threads read neighbouring elements of a row, whichever way it is stored.
      const int m = ATransposed ? column : i;
      const int ka = ATransposed ? i : column;
      const bool a_there = m < p.m && l + ka < p.k;
      a[m][ka] = a_there ? static_cast<float>(ATransposed ? p.a[(l + ka) * p.a_step + m] : p.a[m * p.a_step + l + ka]) : 0.0F;
      const int n = BTransposed ? i : column;
      const int kb = BTransposed ? column : i;
      const bool b_there = n < p.n && l + kb < p.k;
      b[kb][n] = b_there ? static_cast<float>(BTransposed ? p.b[n * p.b_step + l + kb] : p.b[(l + kb) * p.b_step + n]) : 0.0F;
    }
    sync_block();
    for (int k = 0; k < plain_side; ++k) {
      ESFT_UNROLL
      for (int i = 0; i < plain_side / bands; ++i) sums[i] += a[band + i * bands][k] * b[k][column];
    }
    sync_block();
  }
  ESFT_UNROLL
  for (int i = 0; i < plain_side / bands; ++i) {
    const int row = band + i * bands;
    if (row >= p.m || column >= p.n) continue;
    Out* to = p.c + row * p.c_step + column;
    if constexpr (ATransposed) {
      *to += sums[i];  // gradients of weights
    } else {
      *to = Out(sums[i]);
    }
  }
}
template <bool BTransposed, class T>
ESFT_KERNEL void plain_rows_kernel(row_products<T> p) {
  const auto tile = tile_of<plain_side, BTransposed>(p);
  if (tile.m > 0) multiply_plainly<false, BTransposed>(tile);
}
template <class T>
ESFT_KERNEL void plain_weights_kernel(weight_products<T> p) {
  const auto tile = tile_of<plain_side>(p);
  if (tile.k > 0) multiply_plainly<true, false>(tile);
}

}  // namespace esft::detail::cuda
