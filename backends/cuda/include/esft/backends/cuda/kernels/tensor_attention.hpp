// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Attention forward on tensor cores: bf16 products, online softmax in float; probabilities are rounded to bf16 before they weigh values.
/// @source T. Dao, arXiv 2307.08691

#include <esft/backends/cuda/kernels/tensor_tiles.hpp>

namespace esft::detail::cuda {

/// Keys that pass by at a time.
constexpr int forward_keys(int columns) noexcept { return columns <= 128 ? 64 : 32; }

/// Bytes of dynamic shared memory. Where queries move on to registers, the second tile of keys lies where they came in.
template <int Columns>
constexpr std::size_t tensor_attention_bytes() {
  constexpr int rows = 2 * tile_stages(Columns) * forward_keys(Columns) + (rows_in_registers(Columns) ? 0 : tensor_block);
  return static_cast<std::size_t>(rows) * Columns * sizeof(bf16);
}

/// The online softmax of the two rows of which a lane holds a quarter; base 2, so scores come times log2(e).
struct two_rows {
  float peak[2] = {online_softmax::nothing, online_softmax::nothing};
  float total[2] = {0, 0};  ///< of this lane's columns

  /// Scores become weights; returns what earlier sums are multiplied by.
  template <std::size_t Tiles>
  ESFT_DEVICE void add(sums_c (&scores)[Tiles], float (&rescale)[2]) {
    ESFT_UNROLL
    for (int r = 0; r < 2; ++r) {
      float top = peak[r];
      ESFT_UNROLL
      for (std::size_t n = 0; n < Tiles; ++n) {
        ESFT_UNROLL
        for (int i = 2 * r; i < 2 * r + 2; ++i) top = scores[n].value[i] > top ? scores[n].value[i] : top;
      }
      for (int mask = 1; mask <= 2; mask *= 2) {
        const float other = shuffle_xor(top, mask);
        top = other > top ? other : top;
      }
      const float base = top == online_softmax::nothing ? 0.0F : top;
      rescale[r] = exp_2(peak[r] - base);
      total[r] *= rescale[r];
      peak[r] = top;
      ESFT_UNROLL
      for (std::size_t n = 0; n < Tiles; ++n) {
        ESFT_UNROLL
        for (int i = 2 * r; i < 2 * r + 2; ++i) {
          scores[n].value[i] = exp_2(scores[n].value[i] - base);
          total[r] += scores[n].value[i];
        }
      }
    }
  }
  /// The sums over all columns; every lane of the row gets the same bits.
  ESFT_DEVICE void finish() {
    ESFT_UNROLL
    for (int r = 0; r < 2; ++r) {
      for (int mask = 1; mask <= 2; mask *= 2) total[r] += shuffle_xor(total[r], mask);
    }
  }
};

/// One block per (64 queries, head), the last queries first: under a causal mask they see most. `Columns` >= F, 64, 128 or 256.
/// @shape o [T, H, F], lse [T, H] @pre F is a multiple of 8, all addresses of 16 bytes
template <int Columns>
ESFT_KERNEL void ESFT_BLOCK_OF(tensor_threads)
    tensor_attention_kernel(const bf16* q, const bf16* k, const bf16* v, const std::int32_t* key_begin, const std::int32_t* key_end,
                            attention_extents x, bf16* o, float* lse) {
  constexpr int keys = forward_keys(Columns);
  constexpr int stages = tile_stages(Columns);
  constexpr int tile = keys * Columns;
  const index h = block_index() % x.heads;
  const index g = h / (x.heads / x.groups);
  const index first_query = (block_count() / x.heads - 1 - block_index() / x.heads) * tensor_block;
  bf16* k_tiles = reinterpret_cast<bf16*>(shared_floats());
  bf16* v_tiles = k_tiles + stages * tile;
  bf16* q_tile = rows_in_registers(Columns) ? k_tiles + tile : v_tiles + stages * tile;
  ESFT_SHARED std::int32_t begin[tensor_block];
  ESFT_SHARED std::int32_t end[tensor_block];
  const int own = warp_index() * tensor_rows;
  const auto [low, high] = load_ranges(key_begin, key_end, x.queries, first_query, begin, end);
  const auto begin_keys = [&](index s, int stage) {
    begin_rows<keys, Columns>(k, x.keys, x.groups, g, x.width, s, k_tiles + stage * tile);
    begin_rows<keys, Columns>(v, x.keys, x.groups, g, x.width, s, v_tiles + stage * tile);
  };
  index s0 = next_keys(begin, end, low, high, keys);
  begin_rows<tensor_block, Columns>(q, x.queries, x.heads, h, x.width, first_query, q_tile);
  end_copy_group();
  if (s0 < high) begin_keys(s0, 0);
  end_copy_group();
  wait_for_copies<1>();
  sync_block();
  own_rows<Columns, rows_in_registers(Columns)> queries;
  queries.load(q_tile, own);
  sync_block();  // the queries' place may be written

  two_rows state;
  sums_c sums[static_cast<std::size_t>(Columns / 8)] = {};
  const float factor = x.scale * log2_e;
  for (int stage = 0; s0 < high; stage = (stage + 1) % stages) {
    const index next = next_keys(begin, end, s0 + keys, high, keys);
    if constexpr (stages == 2) {
      if (next < high) begin_keys(next, 1 - stage);
      end_copy_group();
    }
    wait_for_copies<stages - 1>();
    sync_block();
    if (cover_of(begin, end, tensor_block, s0, s0 + keys) == cover::some) {
      hide_unseen_rows<keys, Columns>(begin, end, s0, v_tiles + stage * tile);
      sync_block();
    }
    const cover seen = cover_of(begin + own, end + own, tensor_rows, s0, s0 + keys);
    if (seen != cover::none) {
      sums_c scores[static_cast<std::size_t>(keys / 8)] = {};
      multiply_by_rows<keys, Columns>(queries, k_tiles + stage * tile, scores);
      ESFT_UNROLL
      for (int n = 0; n < keys / 8; ++n) {
        ESFT_UNROLL
        for (int i = 0; i < 4; ++i) {
          scores[n].value[i] *= factor;
          if (seen == cover::all) continue;
          const element at = c_element(lane_index(), i);
          const index s = s0 + 8 * n + at.column;
          if (s < begin[own + at.row] || s >= end[own + at.row]) scores[n].value[i] = online_softmax::nothing;
        }
      }
      float rescale[2];
      state.add(scores, rescale);
      ESFT_UNROLL
      for (int n = 0; n < Columns / 8; ++n) {
        ESFT_UNROLL
        for (int i = 0; i < 4; ++i) sums[n].value[i] *= rescale[i / 2];
      }
      add_weighted<keys, Columns, Columns>(scores, v_tiles + stage * tile, 0, sums);
    }
    sync_block();  // this tile's place may be written
    if constexpr (stages == 1) {
      if (next < high) begin_keys(next, 0);
      end_copy_group();
    }
    s0 = next;
  }
  wait_for_copies<0>();
  state.finish();
  ESFT_UNROLL
  for (int r = 0; r < 2; ++r) {
    const int row = own + c_element(lane_index(), 2 * r).row;
    const index t = first_query + row;
    if (t >= x.queries) continue;
    const bool empty = begin[row] >= end[row];
    if (lane_index() % 4 == 0) {
      lse[t * x.heads + h] = empty ? online_softmax::nothing : (state.peak[r] + ::log2f(state.total[r])) * ln_2;
    }
    ESFT_UNROLL
    for (int n = 0; n < Columns / 8; ++n) {
      const int f = 8 * n + c_element(lane_index(), 0).column;
      if (f >= x.width) break;
      const float first = empty ? 0.0F : sums[n].value[2 * r] / state.total[r];
      const float second = empty ? 0.0F : sums[n].value[2 * r + 1] / state.total[r];
      store_pair(o + (t * x.heads + h) * x.width + f, first, second);
    }
  }
}

}  // namespace esft::detail::cuda
