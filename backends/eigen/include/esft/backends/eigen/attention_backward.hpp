// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Backward of tiled attention: one task owns the keys of one segment and key-value head, so that nothing is added from two sides.

#include <esft/backends/eigen/attention.hpp>
#include <esft/backends/eigen/attention_amx_backward.hpp>

namespace esft::detail::eigen {

/// Columns [0, columns) of c[rows] += a b, in blocks as wide as a kernel allows.
inline void wide_product(isa set, index rows, index columns, index depth, const float* a, index a_stride, const float* b, index b_stride,
                         float* c, index c_stride) {
  const index block = columns % block_columns == 0 ? block_columns : 32;
  for (index j = 0; j < columns; j += block) {
    block_product<order::rows>(set, rows, std::min(block, columns - j), depth, a, a_stride, b + j, b_stride, c + j, c_stride, true);
  }
}

/// One head h against the keys [first, ...) of its segment; adds into dk, dv (floats, [keys, F]).
template <class T>
void attention_backward_head(machine& m, int slot, const attention_shape& shape, const attention_gradients<T>& t,
                             const attention_segment& s, index h, const float* keys, index key_stride, const float* values,
                             index value_stride, float* dk, float* dv) {
  const index row = shape.heads * shape.width;
  const index width = shape.width;
  const isa set = m.set;
  float* packed = m.of(slot)(buffer::extra, 3 * width * block_columns);
  float* packed_do = packed + width * block_columns;
  float* dq = packed_do + width * block_columns;
  float* scores = m.of(slot)(buffer::scores, 2 * block_keys * block_columns);
  float* gradients = scores + block_keys * block_columns;
  query_tile tile;
  for (index begin = s.query_begin; begin < s.query_end; begin += tile_queries) {
    const index count = std::min(tile_queries, s.query_end - begin);
    const index used = round_up(count, lanes);
    const auto [first, last] = fill_tile(tile, t.key_begin, t.key_end, begin, count);
    const index offset = begin * row + h * width;
    std::fill_n(tile.total, tile_queries, 0.0F);
    call<row_dots>(set, t.d_o + offset, t.o + offset, count, row, width, static_cast<float*>(tile.total));
    for (index i = 0; i < tile_queries; ++i) tile.peak[i] = i < count ? t.lse[(begin + i) * shape.heads + h] : 0.0F;
    pack_transposed(set, t.q + offset, count, width, row, packed, used);
    call<scale_elements>(set, packed, width * used, shape.scale);
    pack_transposed(set, t.d_o + offset, count, width, row, packed_do, used);
    const auto [query, query_stride] = as_floats(m, slot, buffer::partial, t.q + offset, row, count, width);
    const auto [d_o, d_o_stride] = as_floats(m, slot, buffer::result, t.d_o + offset, row, count, width);
    std::fill_n(dq, width * block_columns, 0.0F);
    for (index key = first; key < last; key += block_keys) {
      const index depth = std::min(block_keys, last - key);
      const index local = key - s.key_begin;
      const float* key_block = keys + local * key_stride;
      block_product<order::rows>(set, depth, used, width, key_block, key_stride, packed, used, scores, block_columns, false);
      block_product<order::rows>(set, depth, used, width, values + local * value_stride, value_stride, packed_do, used, gradients,
                                 block_columns, false);
      call<softmax_backward_block>(set, static_cast<const query_tile*>(&tile), used, key, depth, shape.scale, scores, gradients);
      wide_product(set, depth, width, count, scores, block_columns, d_o, d_o_stride, dv + local * width, width);
      wide_product(set, depth, width, count, gradients, block_columns, query, query_stride, dk + local * width, width);
      block_product<order::columns>(set, width, used, depth, key_block, key_stride, gradients, block_columns, dq, block_columns, true);
    }
    for (index f = 0; f < width; f += block_rows) {
      scatter_transposed(set, dq + f * block_columns, std::min(block_rows, width - f), count, t.dq + offset + f, row, false);
    }
  }
}

/// Overwrites dq, dk, dv. Probabilities are computed again from lse. Returns the instruction set whose kernels ran.
template <class T>
isa attention_backward_all(machine& m, const attention_shape& shape, const attention_gradients<T>& t, index queries, index key_count) {
  std::vector<attention_segment> segments = segments_of(t.key_begin, t.key_end, queries);
  const index key_row = shape.shared * shape.width;
  index covered = 0;
  double total = 0;
  for (const attention_segment& s : segments) {
    covered += s.key_end - s.key_begin;
    total += 10.0 * static_cast<double>(s.query_end - s.query_begin) *
             static_cast<double>((s.key_end - s.key_begin + 8) * shape.width * shape.heads);
  }
  if (covered != key_count) {  // keys that nobody looks at
    std::fill_n(t.dk, key_count * key_row, T{});
    std::fill_n(t.dv, key_count * key_row, T{});
  }
  std::stable_sort(segments.begin(), segments.end(), [](const auto& a, const auto& b) {
    return (a.query_end - a.query_begin) * (a.key_end - a.key_begin) > (b.query_end - b.query_begin) * (b.key_end - b.key_begin);
  });
  const index share = shape.heads / shape.shared;
  const bool on_tiles = std::is_same_v<T, bf16> && attention_on_tiles(m.set, shape.width);
  m.run(static_cast<index>(segments.size()) * shape.shared, total, [&](index number, int slot) {
    const attention_segment& s = segments[static_cast<std::size_t>(number / shape.shared)];
    const index g = number % shape.shared;
#if ESFT_EIGEN_X86
    if constexpr (std::is_same_v<T, bf16>) {
      if (on_tiles) return attention_backward_segment_amx(shape, t, s, g, m.of(slot));
    }
#endif
    const index count = s.key_end - s.key_begin;
    const index offset = s.key_begin * key_row + g * shape.width;
    const auto [keys, key_stride] = as_floats(m, slot, buffer::left, t.k + offset, key_row, count, shape.width);
    const auto [values, value_stride] = as_floats(m, slot, buffer::right, t.v + offset, key_row, count, shape.width);
    float* dk = m.of(slot)(buffer::more, 2 * count * shape.width);
    float* dv = dk + count * shape.width;
    std::fill_n(dk, 2 * count * shape.width, 0.0F);
    for (index h = g * share; h < (g + 1) * share; ++h) {
      attention_backward_head(m, slot, shape, t, s, h, keys, key_stride, values, value_stride, dk, dv);
    }
    call<write_block>(m.set, static_cast<const float*>(dk), shape.width, count, shape.width, t.dk + offset, key_row, false);
    call<write_block>(m.set, static_cast<const float*>(dv), shape.width, count, shape.width, t.dv + offset, key_row, false);
  });
  return on_tiles ? isa::amx : std::min(m.set, isa::avx512);
}

}  // namespace esft::detail::eigen
