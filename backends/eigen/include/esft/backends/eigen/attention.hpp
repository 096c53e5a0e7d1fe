// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Tiled attention over independent segments (documents), forward and backward, with memory linear in the sequence.

#include <esft/backends/eigen/attention_amx.hpp>
#include <esft/backends/eigen/attention_segments.hpp>
#include <esft/backends/eigen/attention_tile.hpp>
#include <esft/backends/eigen/matmul.hpp>

#include <algorithm>
#include <vector>

namespace esft::detail::eigen {

/// Fills the lanes of a tile for queries [begin, begin + count); returns the range of keys that any of them sees.
inline std::pair<index, index> fill_tile(query_tile& tile, const std::int32_t* key_begin, const std::int32_t* key_end, index begin,
                                         index count) {
  index first = std::numeric_limits<index>::max();
  index last = 0;
  for (index q = 0; q < tile_queries; ++q) {
    const bool seeing = q < count && key_begin[begin + q] < key_end[begin + q];
    tile.key_begin[q] = seeing ? key_begin[begin + q] : 0;
    tile.key_end[q] = seeing ? key_end[begin + q] : 0;
    if (!seeing) continue;
    first = std::min<index>(first, tile.key_begin[q]);
    last = std::max<index>(last, tile.key_end[q]);
  }
  return {std::min(first, last), last};
}

/// Returns the instruction set whose kernels ran. @shape q, o [T, H, F], k, v [S, G, F], lse [T, H]
template <class T>
isa attention_forward(machine& m, const attention_shape& shape, const T* q, const T* k, const T* v, const std::int32_t* key_begin,
                       const std::int32_t* key_end, index queries, T* o, float* lse) {
#if ESFT_EIGEN_X86
  if constexpr (std::is_same_v<T, bf16>) {
    if (attention_on_tiles(m.set, shape.width)) {
      attention_forward_amx(m, {shape, q, k, v, key_begin, key_end, o, lse}, queries);
      return isa::amx;
    }
  }
#endif
  struct task {
    index begin, count, cost;
  };
  std::vector<task> tasks;
  double total = 0;
  for (const attention_segment& s : segments_of(key_begin, key_end, queries)) {
    for (index t = s.query_begin; t < s.query_end; t += tile_queries) {
      const index count = std::min(tile_queries, s.query_end - t);
      const auto [first, last] = std::minmax({key_begin[t], key_end[t + count - 1]});
      tasks.push_back({t, count, last - first});
      total += static_cast<double>((last - first + 8) * 4 * tile_queries * shape.width * shape.heads);
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const task& a, const task& b) { return a.cost > b.cost; });
  const index row = shape.heads * shape.width;
  const index key_row = shape.shared * shape.width;
  const index share = shape.heads / shape.shared;
  m.run(static_cast<index>(tasks.size()) * shape.shared, total, [&](index number, int slot) {
    const task& job = tasks[static_cast<std::size_t>(number / shape.shared)];
    const index g = number % shape.shared;
    const index lanes_used = round_up(job.count, lanes);
    query_tile tile;
    const auto [first, last] = fill_tile(tile, key_begin, key_end, job.begin, job.count);
    const auto [keys, key_stride] =
        as_floats(m, slot, buffer::left, k + first * key_row + g * shape.width, key_row, last - first, shape.width);
    const auto [values, value_stride] =
        as_floats(m, slot, buffer::right, v + first * key_row + g * shape.width, key_row, last - first, shape.width);
    float* packed = m.of(slot)(buffer::extra, shape.width * block_columns);
    float* out = m.of(slot)(buffer::result, shape.width * block_columns);
    float* scores = m.of(slot)(buffer::scores, block_keys * block_columns);
    for (index h = g * share; h < (g + 1) * share; ++h) {
      pack_transposed(m.set, q + job.begin * row + h * shape.width, job.count, shape.width, row, packed, lanes_used);
      call<scale_elements>(m.set, packed, shape.width * lanes_used, shape.scale);
      std::fill_n(out, shape.width * block_columns, 0.0F);
      std::fill_n(tile.peak, tile_queries, -std::numeric_limits<float>::infinity());
      std::fill_n(tile.total, tile_queries, 0.0F);
      for (index s = 0; s < last - first; s += block_keys) {
        const index count = std::min(block_keys, last - first - s);
        block_product<order::rows>(m.set, count, lanes_used, shape.width, keys + s * key_stride, key_stride, packed, lanes_used, scores,
                                   block_columns, false);
        call<softmax_block>(m.set, &tile, lanes_used, first + s, count, scores, out, shape.width);
        block_product<order::columns>(m.set, shape.width, lanes_used, count, values + s * value_stride, value_stride, scores, block_columns,
                                      out, block_columns, true);
      }
      call<softmax_finish>(m.set, static_cast<const query_tile*>(&tile), lanes_used, out, shape.width);
      for (index f = 0; f < shape.width; f += block_rows) {
        scatter_transposed(m.set, out + f * block_columns, std::min(block_rows, shape.width - f), job.count,
                           o + job.begin * row + h * shape.width + f, row, false);
      }
      for (index i = 0; i < job.count; ++i) lse[(job.begin + i) * shape.heads + h] = tile.peak[i] + std::log(tile.total[i]);
    }
  });
  return std::min(m.set, isa::avx512);
}

}  // namespace esft::detail::eigen
