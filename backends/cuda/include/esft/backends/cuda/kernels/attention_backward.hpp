// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Backward of attention: dq by the owner of the queries, dk and dv by the owner of the keys, so that nothing is added by two blocks.

#include <esft/backends/cuda/kernels/attention.hpp>

namespace esft::detail::cuda {

/// pull[t, h] = <do, o>. One warp per head of a token.
template <class T>
ESFT_KERNEL void attention_pull_kernel(const T* o, const T* d_o, float* pull, index rows, index width) {
  const index row = block_index() * attention_warps + warp_index();
  if (row >= rows) return;  // the whole warp
  float sum = 0;
  for (index f = lane_index(); f < width; f += warp_size)
    sum += static_cast<float>(d_o[row * width + f]) * static_cast<float>(o[row * width + f]);
  sum = warp_sum(sum);
  if (lane_index() == 0) pull[row] = sum;
}

/// One block per (16 queries, head).
/// @eq dq = scale sum_s ds k, ds = p (<do, v> - pull), p = exp(scale <q, k> - lse)
template <class T, int Columns>
ESFT_KERNEL void attention_dq_kernel(const T* q, const T* k, const T* v, const T* d_o, const float* lse, const float* pull,
                                     const std::int32_t* key_begin, const std::int32_t* key_end, attention_extents x, T* dq) {
  const index h = block_index() % x.heads;
  const index g = h / (x.heads / x.groups);
  const index first_query = block_index() / x.heads * block_rows;
  const index stride = x.stride();
  float* q_tile = shared_floats();
  float* d_tile = q_tile + block_rows * stride;
  float* k_tile = d_tile + block_rows * stride;
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
  load_rows(d_o, x.queries, x.heads, h, x.width, first_query, block_rows, stride, d_tile);
  sync_block();
  index low = x.keys;
  index high = 0;
  for (int i = 0; i < block_rows; ++i) {
    if (begin[i] >= end[i]) continue;
    low = begin[i] < low ? begin[i] : low;
    high = end[i] > high ? end[i] : high;
  }
  float sums[warp_rows][static_cast<std::size_t>(Columns)] = {};
  for (index s0 = low; s0 < high; s0 += tile_columns) {
    if (!any_meets(begin, end, block_rows, s0, s0 + tile_columns)) continue;
    sync_block();
    load_rows(k, x.keys, x.groups, g, x.width, s0, tile_columns, stride, k_tile);
    load_rows(v, x.keys, x.groups, g, x.width, s0, tile_columns, stride, v_tile);
    sync_block();
    const index s = s0 + lane_index();
    ESFT_NO_UNROLL
    for (int r = 0; r < warp_rows; ++r) {
      const int i = warp_index() * warp_rows + r;
      float ds = 0;
      if (s >= begin[i] && s < end[i]) {
        const index row = (first_query + i) * x.heads + h;
        const float p = ::expf(x.scale * dot_rows(q_tile + i * stride, k_tile + lane_index() * stride, x.width) - lse[row]);
        ds = x.scale * p * (dot_rows(d_tile + i * stride, v_tile + lane_index() * stride, x.width) - pull[row]);
      }
      weights[r * tile_columns + lane_index()] = ds;
    }
    sync_warp();
    add_weighted_rows<Columns>(weights, k_tile, stride, x.width, sums);
    sync_warp();
  }
  ESFT_UNROLL
  for (int r = 0; r < warp_rows; ++r) {
    const index t = first_query + warp_index() * warp_rows + r;
    if (t >= x.queries) continue;
    ESFT_UNROLL
    for (int c = 0; c < Columns; ++c) {
      const index f = lane_index() + c * warp_size;
      if (f < x.width) dq[(t * x.heads + h) * x.width + f] = T(sums[r][c]);
    }
  }
}

/// One block per (16 keys, key-value head); queries pass by ascending, with all heads that share it.
/// @eq dk = scale sum_t ds q;  dv = sum_t p do
template <class T, int Columns>
ESFT_KERNEL void attention_dkv_kernel(const T* q, const T* k, const T* v, const T* d_o, const float* lse, const float* pull,
                                      const std::int32_t* key_begin, const std::int32_t* key_end, attention_extents x, T* dk, T* dv) {
  const index g = block_index() % x.groups;
  const index share = x.heads / x.groups;
  const index first_key = block_index() / x.groups * block_rows;
  const index stride = x.stride();
  float* k_tile = shared_floats();
  float* v_tile = k_tile + block_rows * stride;
  float* q_tile = v_tile + block_rows * stride;
  float* d_tile = q_tile + tile_columns * stride;
  float* weights = d_tile + tile_columns * stride + warp_index() * warp_rows * tile_columns;  // p, and then ds: two would be too many bytes
  ESFT_SHARED std::int32_t begin[tile_columns];
  ESFT_SHARED std::int32_t end[tile_columns];
  load_rows(k, x.keys, x.groups, g, x.width, first_key, block_rows, stride, k_tile);
  load_rows(v, x.keys, x.groups, g, x.width, first_key, block_rows, stride, v_tile);
  float dk_sums[warp_rows][static_cast<std::size_t>(Columns)] = {};
  float dv_sums[warp_rows][static_cast<std::size_t>(Columns)] = {};
  for (index t0 = 0; t0 < x.queries; t0 += tile_columns) {
    sync_block();
    if (thread_index() < tile_columns) {
      const index t = t0 + thread_index();
      begin[thread_index()] = t < x.queries ? key_begin[t] : 0;
      end[thread_index()] = t < x.queries ? key_end[t] : 0;
    }
    sync_block();
    if (!any_meets(begin, end, tile_columns, first_key, first_key + block_rows)) continue;
    for (index h = g * share; h < (g + 1) * share; ++h) {
      sync_block();
      load_rows(q, x.queries, x.heads, h, x.width, t0, tile_columns, stride, q_tile);
      load_rows(d_o, x.queries, x.heads, h, x.width, t0, tile_columns, stride, d_tile);
      sync_block();
      const index row = (t0 + lane_index()) * x.heads + h;
      const auto visible = [&](int i) { return first_key + i >= begin[lane_index()] && first_key + i < end[lane_index()]; };
      ESFT_NO_UNROLL
      for (int r = 0; r < warp_rows; ++r) {
        const int i = warp_index() * warp_rows + r;
        const float* k_row = k_tile + i * stride;
        weights[r * tile_columns + lane_index()] =
            visible(i) ? ::expf(x.scale * dot_rows(k_row, q_tile + lane_index() * stride, x.width) - lse[row]) : 0.0F;
      }
      sync_warp();
      add_weighted_rows<Columns>(weights, d_tile, stride, x.width, dv_sums);
      sync_warp();
      ESFT_NO_UNROLL
      for (int r = 0; r < warp_rows; ++r) {
        const int i = warp_index() * warp_rows + r;
        const float* v_row = v_tile + i * stride;
        float& weight = weights[r * tile_columns + lane_index()];
        weight = visible(i) ? x.scale * weight * (dot_rows(v_row, d_tile + lane_index() * stride, x.width) - pull[row]) : 0.0F;
      }
      sync_warp();
      add_weighted_rows<Columns>(weights, q_tile, stride, x.width, dk_sums);
      sync_warp();
    }
  }
  ESFT_UNROLL
  for (int r = 0; r < warp_rows; ++r) {
    const index s = first_key + warp_index() * warp_rows + r;
    if (s >= x.keys) continue;
    ESFT_UNROLL
    for (int c = 0; c < Columns; ++c) {
      const index f = lane_index() + c * warp_size;
      if (f >= x.width) continue;
      dk[(s * x.groups + g) * x.width + f] = T(dk_sums[r][c]);
      dv[(s * x.groups + g) * x.width + f] = T(dv_sums[r][c]);
    }
  }
}

}  // namespace esft::detail::cuda
