// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Attention in tiles with an online softmax: memory linear in the sequence length. Plain float arithmetic; one warp owns four rows.
/// @source T. Dao, arXiv 2307.08691

#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/online_softmax.hpp>

namespace esft::detail::cuda {

inline constexpr int attention_warps = 4;
inline constexpr int warp_rows = 4;                                ///< rows (queries, or keys in the backward) that a warp owns
inline constexpr int block_rows = attention_warps * warp_rows;    ///< rows that a block owns
inline constexpr int tile_columns = warp_size;                     ///< keys (or queries) that pass by at a time, one per lane
inline constexpr int attention_threads = attention_warps * warp_size;

/// Extents: queries [T, H, F], keys [S, G, F].
struct attention_extents {
  index queries, heads, keys, groups, width;
  float scale;
  /// Floats per row in shared memory: odd, so that lanes that read down a column meet different banks.
  [[nodiscard]] ESFT_HOST_DEVICE index stride() const { return width | 1; }
  /// Bytes of shared memory for this many resident and passing tiles, and one of weights.
  [[nodiscard]] std::size_t shared_bytes(index resident, index passing) const {
    const index rows = resident * block_rows + passing * tile_columns;
    return static_cast<std::size_t>(rows * stride() + block_rows * tile_columns) * sizeof(float);
  }
};

/// Rows [first, first + count) of one head as floats, zeros beyond the end.
template <class T>
ESFT_DEVICE void load_rows(const T* from, index rows, index heads, index head, index width, index first, int count, index stride,
                           float* to) {
  for (index i = thread_index(); i < count * width; i += block_size()) {
    const index row = i / width;
    const index f = i % width;
    to[row * stride + f] = first + row < rows ? static_cast<float>(from[((first + row) * heads + head) * width + f]) : 0.0F;
  }
}
ESFT_DEVICE float dot_rows(const float* a, const float* b, index width) {
  float sum = 0;
  ESFT_UNROLL_BY_4
  for (index f = 0; f < width; ++f) sum += a[f] * b[f];
  return sum;
}
/// Whether any of `count` ranges meets [first, end).
ESFT_DEVICE bool any_meets(const std::int32_t* begin, const std::int32_t* end_of, int count, index first, index end) {
  bool meets = false;
  for (int i = 0; i < count; ++i) meets = meets || (begin[i] < end_of[i] && begin[i] < end && end_of[i] > first);
  return meets;
}
/// sums[r][c] += sum_j weight[r][j] rows[j][lane + 32 c]. A weight of 0 hides its row: it may hold anything, as unwritten cache rows do.
template <int Columns>
ESFT_DEVICE void add_weighted_rows(const float* weights, const float* rows, index stride, index width,
                                   float (&sums)[warp_rows][static_cast<std::size_t>(Columns)]) {
  ESFT_UNROLL
  for (int c = 0; c < Columns; ++c) {
    const index f = lane_index() + c * warp_size;
    if (f >= width) break;
    ESFT_UNROLL_BY_4  // more would keep more rows in flight than there are registers
    for (int j = 0; j < tile_columns; ++j) {
      const float x = rows[j * stride + f];
      ESFT_UNROLL
      for (int r = 0; r < warp_rows; ++r) {
        const float w = weights[r * tile_columns + j];
        if (w != 0) sums[r][c] += w * x;
      }
    }
  }
}

/// One block per (16 queries, head). @shape o [T, H, F], lse [T, H]
template <class T, int Columns>
ESFT_KERNEL void attention_kernel(const T* q, const T* k, const T* v, const std::int32_t* key_begin, const std::int32_t* key_end,
                                  attention_extents x, T* o, float* lse) {
  const index h = block_index() % x.heads;
  const index g = h / (x.heads / x.groups);
  const index first_query = block_index() / x.heads * block_rows;
  const index stride = x.stride();
  float* q_tile = shared_floats();
  float* k_tile = q_tile + block_rows * stride;
  float* v_tile = k_tile + tile_columns * stride;
  float* weights = v_tile + tile_columns * stride + warp_index() * warp_rows * tile_columns;
  ESFT_SHARED std::int32_t begin[block_rows];
  ESFT_SHARED std::int32_t end[block_rows];
  if (thread_index() < block_rows) {
    const index t = first_query + thread_index();
    begin[thread_index()] = t < x.queries ? key_begin[t] : 0;
    end[thread_index()] = t < x.queries ? key_end[t] : 0;
  }
  load_rows(q, x.queries, x.heads, h, x.width, first_query, block_rows, stride, q_tile);
  sync_block();
  index low = x.keys;
  index high = 0;
  for (int i = 0; i < block_rows; ++i) {
    if (begin[i] >= end[i]) continue;
    low = begin[i] < low ? begin[i] : low;
    high = end[i] > high ? end[i] : high;
  }
  online_softmax state[warp_rows];
  float sums[warp_rows][static_cast<std::size_t>(Columns)] = {};
  for (index s0 = low; s0 < high; s0 += tile_columns) {
    if (!any_meets(begin, end, block_rows, s0, s0 + tile_columns)) continue;
    sync_block();
    load_rows(k, x.keys, x.groups, g, x.width, s0, tile_columns, stride, k_tile);
    load_rows(v, x.keys, x.groups, g, x.width, s0, tile_columns, stride, v_tile);
    sync_block();
    const index s = s0 + lane_index();
    ESFT_UNROLL
    for (int r = 0; r < warp_rows; ++r) {
      const int i = warp_index() * warp_rows + r;
      const bool visible = s >= begin[i] && s < end[i];
      const float score = x.scale * dot_rows(q_tile + i * stride, k_tile + lane_index() * stride, x.width);
      const float seen = warp_max(visible ? score : online_softmax::nothing);
      const float top = seen > state[r].peak ? seen : state[r].peak;
      const float weight = visible ? online_softmax::weight(score, top) : 0.0F;
      const float rescale = online_softmax::rescale(state[r].peak, top);
      state[r].total = state[r].total * rescale + warp_sum(weight);
      state[r].peak = top;
      ESFT_UNROLL
      for (int c = 0; c < Columns; ++c) sums[r][c] *= rescale;
      weights[r * tile_columns + lane_index()] = weight;
    }
    sync_warp();
    add_weighted_rows<Columns>(weights, v_tile, stride, x.width, sums);
    sync_warp();
  }
  ESFT_UNROLL
  for (int r = 0; r < warp_rows; ++r) {
    const int i = warp_index() * warp_rows + r;
    const index t = first_query + i;
    if (t >= x.queries) continue;
    const bool empty = begin[i] >= end[i];
    if (lane_index() == 0) lse[t * x.heads + h] = empty ? online_softmax::nothing : state[r].log_sum();
    ESFT_UNROLL
    for (int c = 0; c < Columns; ++c) {
      const index f = lane_index() + c * warp_size;
      if (f < x.width) o[(t * x.heads + h) * x.width + f] = T(empty ? 0.0F : sums[r][c] / state[r].total);
    }
  }
}

}  // namespace esft::detail::cuda
