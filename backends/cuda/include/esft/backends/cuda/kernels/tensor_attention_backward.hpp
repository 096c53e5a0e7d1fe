// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Attention backward on tensor cores: dq by the owner of the queries, dk and dv by the owner of the keys: nothing is added by two blocks.
/// Probabilities and their gradients are rounded to bf16 before they weigh rows.
/// @source T. Dao, arXiv 2307.08691

#include <esft/backends/cuda/kernels/tensor_tiles.hpp>

namespace esft::detail::cuda {

inline constexpr int backward_rows = 32;  ///< keys, or queries, that pass by at a time

/// Bytes of dynamic shared memory: two blocks of own rows, and pairs of tiles that pass by.
template <int Columns>
constexpr std::size_t tensor_backward_bytes() {
  return static_cast<std::size_t>(2 * tensor_block + 2 * tile_stages(Columns) * backward_rows) * Columns * sizeof(bf16);
}

/// One block per (64 queries, head). @eq dq = scale sum_s ds k, ds = p (<do, v> - pull), p = exp(scale <q, k> - lse)
template <int Columns>
ESFT_KERNEL void ESFT_BLOCK_OF(tensor_threads)
    tensor_dq_kernel(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* lse, const float* pull,
                     const std::int32_t* key_begin, const std::int32_t* key_end, attention_extents x, bf16* dq) {
  constexpr int keys = backward_rows;
  constexpr int stages = tile_stages(Columns);
  constexpr int tile = keys * Columns;
  const index h = block_index() % x.heads;
  const index g = h / (x.heads / x.groups);
  const index first_query = (block_count() / x.heads - 1 - block_index() / x.heads) * tensor_block;
  bf16* q_tile = reinterpret_cast<bf16*>(shared_floats());
  bf16* d_tile = q_tile + tensor_block * Columns;
  bf16* k_tiles = d_tile + tensor_block * Columns;
  bf16* v_tiles = k_tiles + stages * tile;
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
  begin_rows<tensor_block, Columns>(d_o, x.queries, x.heads, h, x.width, first_query, d_tile);
  end_copy_group();
  if (s0 < high) begin_keys(s0, 0);
  end_copy_group();
  wait_for_copies<1>();
  sync_block();
  own_rows<Columns, rows_in_registers(Columns)> queries;
  own_rows<Columns, rows_in_registers(Columns)> pulls;
  queries.load(q_tile, own);
  pulls.load(d_tile, own);
  float row_lse[2];
  float row_pull[2];
  ESFT_UNROLL
  for (int r = 0; r < 2; ++r) {
    const index t = first_query + own + c_element(lane_index(), 2 * r).row;
    row_lse[r] = t < x.queries ? lse[t * x.heads + h] * log2_e : 0.0F;
    row_pull[r] = t < x.queries ? pull[t * x.heads + h] : 0.0F;
  }

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
      hide_unseen_rows<keys, Columns>(begin, end, s0, k_tiles + stage * tile);
      sync_block();
    }
    const cover seen = cover_of(begin + own, end + own, tensor_rows, s0, s0 + keys);
    if (seen != cover::none) {
      sums_c p[static_cast<std::size_t>(keys / 8)] = {};
      sums_c ds[static_cast<std::size_t>(keys / 8)] = {};
      multiply_by_rows<keys, Columns>(queries, k_tiles + stage * tile, p);
      multiply_by_rows<keys, Columns>(pulls, v_tiles + stage * tile, ds);
      ESFT_UNROLL
      for (int n = 0; n < keys / 8; ++n) {
        ESFT_UNROLL
        for (int i = 0; i < 4; ++i) {
          const element at = c_element(lane_index(), i);
          const index s = s0 + 8 * n + at.column;
          const bool visible = seen == cover::all || (s >= begin[own + at.row] && s < end[own + at.row]);
          const float weight = exp_2(p[n].value[i] * factor - row_lse[i / 2]);
          ds[n].value[i] = visible ? weight * (ds[n].value[i] - row_pull[i / 2]) : 0.0F;
        }
      }
      add_weighted<keys, Columns, Columns>(ds, k_tiles + stage * tile, 0, sums);
    }
    sync_block();  // this tile's place may be written
    if constexpr (stages == 1) {
      if (next < high) begin_keys(next, 0);
      end_copy_group();
    }
    s0 = next;
  }
  wait_for_copies<0>();
  ESFT_UNROLL
  for (int r = 0; r < 2; ++r) {
    const index t = first_query + own + c_element(lane_index(), 2 * r).row;
    if (t >= x.queries) continue;
    ESFT_UNROLL
    for (int n = 0; n < Columns / 8; ++n) {
      const int f = 8 * n + c_element(lane_index(), 0).column;
      if (f >= x.width) break;
      store_pair(dq + (t * x.heads + h) * x.width + f, x.scale * sums[n].value[2 * r], x.scale * sums[n].value[2 * r + 1]);
    }
  }
}

/// What a group of 32 queries sees, so that an owner of keys can pass over groups that see none of its own.
struct query_range {
  std::int32_t first;        ///< of the keys that any sees
  std::int32_t last;
  std::int32_t common_first;  ///< of the keys that all see
  std::int32_t common_last;
};
/// One warp per group. @shape ranges [ceil(T / 32)]
template <class Id>
ESFT_KERNEL void query_ranges_kernel(const Id* key_begin, const Id* key_end, index queries, query_range* ranges) {
  constexpr std::int32_t far = std::numeric_limits<std::int32_t>::max();
  const index t = block_index() * backward_rows + lane_index();
  const std::int32_t begin = t < queries ? key_begin[t] : 0;
  const std::int32_t end = t < queries ? key_end[t] : 0;
  const bool empty = begin >= end;
  const query_range all{-warp_max(empty ? -far : -begin), warp_max(empty ? 0 : end), warp_max(empty ? far : begin),
                        -warp_max(empty ? 0 : -end)};
  if (lane_index() == 0) ranges[block_index()] = all;
}

/// One block per (64 keys, key-value head, part of the columns); queries pass by ascending, with all heads that share the keys.
/// @eq dk = scale sum_t ds q;  dv = sum_t p do
template <int Columns, int Part>
ESFT_KERNEL void ESFT_BLOCK_OF(tensor_threads)
    tensor_dkv_kernel(const bf16* q, const bf16* k, const bf16* v, const bf16* d_o, const float* lse, const float* pull,
                      const std::int32_t* key_begin, const std::int32_t* key_end, const query_range* ranges, attention_extents x, bf16* dk,
                      bf16* dv) {
  constexpr int queries = backward_rows;
  constexpr int stages = tile_stages(Columns);
  constexpr int tile = queries * Columns;
  constexpr int parts = Columns / Part;
  const int first_column = static_cast<int>(block_index() % parts) * Part;
  const index g = block_index() / parts % x.groups;
  const index share = x.heads / x.groups;
  const index first_key = block_index() / parts / x.groups * tensor_block;
  bf16* k_tile = reinterpret_cast<bf16*>(shared_floats());
  bf16* v_tile = k_tile + tensor_block * Columns;
  bf16* q_tiles = v_tile + tensor_block * Columns;
  bf16* d_tiles = q_tiles + stages * tile;
  ESFT_SHARED std::int32_t begin[2 * backward_rows];
  ESFT_SHARED std::int32_t end[2 * backward_rows];
  ESFT_SHARED float row_lse[2 * backward_rows];
  ESFT_SHARED float row_pull[2 * backward_rows];
  const int own = warp_index() * tensor_rows;
  const index groups = (x.queries + queries - 1) / queries;

  // A window of 32 groups of queries at a time: bit l says whether group window + l sees any, or all, of this block's keys.
  index window = 0;
  std::uint32_t some = 0;
  std::uint32_t whole = 0;
  const auto look = [&] {
    const index at = window + lane_index();
    const query_range r = at < groups ? ranges[at] : query_range{0, 0, 0, 0};
    some = warp_ballot(r.first < first_key + tensor_block && r.last > first_key);
    whole = warp_ballot(r.common_first <= first_key && r.common_last >= first_key + tensor_block);
  };
  // The next group from `group` on that sees any; `groups` where there is none.
  const auto next_group = [&](index group) {
    while (group < groups) {
      if (group >= window + warp_size) {
        window += warp_size;
        look();
      }
      if ((some >> static_cast<unsigned>(group - window) & 1U) != 0) return group;
      ++group;
    }
    return groups;
  };
  struct visit {
    index group;
    index head;
    bool whole;
  };
  const auto at_group = [&](index group, index head) {
    return visit{group, head, group < groups && (whole >> static_cast<unsigned>(group - window) & 1U) != 0};
  };
  const auto begin_queries = [&](const visit& to, int stage) {
    const index t0 = to.group * queries;
    begin_rows<queries, Columns>(q, x.queries, x.heads, to.head, x.width, t0, q_tiles + stage * tile);
    begin_rows<queries, Columns>(d_o, x.queries, x.heads, to.head, x.width, t0, d_tiles + stage * tile);
    const int i = thread_index() % queries;
    const bool wanted = t0 + i < x.queries;
    const index t = wanted ? t0 + i : 0;
    const int place = stage * queries + i;
    if (warp_index() == 0) copy_4_bytes(begin + place, key_begin + t, wanted);
    if (warp_index() == 1) copy_4_bytes(end + place, key_end + t, wanted);
    if (warp_index() == 2) copy_4_bytes(row_lse + place, lse + t * x.heads + to.head, wanted);
    if (warp_index() == 3) copy_4_bytes(row_pull + place, pull + t * x.heads + to.head, wanted);
  };

  begin_rows<tensor_block, Columns>(k, x.keys, x.groups, g, x.width, first_key, k_tile);
  begin_rows<tensor_block, Columns>(v, x.keys, x.groups, g, x.width, first_key, v_tile);
  look();
  visit now = at_group(next_group(0), g * share);
  if (now.group < groups) begin_queries(now, 0);
  end_copy_group();

  own_rows<Columns, false> own_keys;
  own_rows<Columns, false> own_values;
  own_keys.load(k_tile, own);
  own_values.load(v_tile, own);
  sums_c dk_sums[static_cast<std::size_t>(Part / 8)] = {};
  sums_c dv_sums[static_cast<std::size_t>(Part / 8)] = {};
  const float factor = x.scale * log2_e;
  for (int stage = 0; now.group < groups; stage = (stage + 1) % stages) {
    const visit next = now.head + 1 < (g + 1) * share ? visit{now.group, now.head + 1, now.whole}
                                                      : at_group(next_group(now.group + 1), g * share);
    if constexpr (stages == 2) {
      if (next.group < groups) begin_queries(next, 1 - stage);
      end_copy_group();
    }
    wait_for_copies<stages - 1>();
    sync_block();
    bf16* q_tile = q_tiles + stage * tile;
    bf16* d_tile = d_tiles + stage * tile;
    if (!now.whole) {
      hide_blind_rows<queries, Columns>(begin + stage * queries, end + stage * queries, first_key, q_tile, d_tile);
      sync_block();
    }
    sums_c p[static_cast<std::size_t>(queries / 8)] = {};
    sums_c ds[static_cast<std::size_t>(queries / 8)] = {};
    multiply_by_rows<queries, Columns>(own_keys, q_tile, p);
    multiply_by_rows<queries, Columns>(own_values, d_tile, ds);
    ESFT_UNROLL
    for (int n = 0; n < queries / 8; ++n) {
      ESFT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const element at = c_element(lane_index(), i);
        const int query = stage * queries + 8 * n + at.column;
        const index s = first_key + own + at.row;
        const bool visible = now.whole || (s >= begin[query] && s < end[query]);
        const float weight = exp_2(p[n].value[i] * factor - row_lse[query] * log2_e);
        p[n].value[i] = visible ? weight : 0.0F;
        ds[n].value[i] = visible ? weight * (ds[n].value[i] - row_pull[query]) : 0.0F;
      }
    }
    add_weighted<queries, Columns, Part>(p, d_tile, first_column, dv_sums);
    add_weighted<queries, Columns, Part>(ds, q_tile, first_column, dk_sums);
    sync_block();  // this tile's place may be written
    if constexpr (stages == 1) {
      if (next.group < groups) begin_queries(next, 0);
      end_copy_group();
    }
    now = next;
  }
  wait_for_copies<0>();
  ESFT_UNROLL
  for (int r = 0; r < 2; ++r) {
    const index s = first_key + own + c_element(lane_index(), 2 * r).row;
    if (s >= x.keys) continue;
    ESFT_UNROLL
    for (int n = 0; n < Part / 8; ++n) {
      const int f = first_column + 8 * n + c_element(lane_index(), 0).column;
      if (f >= x.width) break;
      const index to = (s * x.groups + g) * x.width + f;
      store_pair(dk + to, x.scale * dk_sums[n].value[2 * r], x.scale * dk_sums[n].value[2 * r + 1]);
      store_pair(dv + to, dv_sums[n].value[2 * r], dv_sums[n].value[2 * r + 1]);
    }
  }
}

}  // namespace esft::detail::cuda
