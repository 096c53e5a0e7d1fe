// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Backward of attention on the tile registers of AMX: one task owns the keys of one segment and key-value head.

#include <esft/backends/eigen/attention_amx.hpp>
#include <esft/backends/eigen/attention_segments.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Query blocks whose probabilities wait for the products that give dk and dv: the longer, the rarer those sums travel.
inline constexpr index amx_chunk = 4;

/// Memory of one task, all packed operands in tiles. Queries count from the segment's first, keys too.
struct amx_backward_memory {
  index queries, keys;  ///< padded to multiples of 64 and 32
  // of the segment and key-value head
  bf16 *k_left, *v_left, *k_turned;  // left tiles of k, v [keys, F], and of k^T
  index key_sums;                    // rows of dk and dv: all keys, or those of a panel where one head alone adds to them
  float *dk, *dv;                    // [key_sums, F]
  // of one head
  bf16 *q_turned, *do_turned, *q_right, *do_right;  // right tiles of q^T, do^T, q, do [queries, F]
  float *dq, *pull;                                 // dq^T by blocks of 64 queries, <do, o>
  // of one chunk of queries against amx_keys keys
  float *scores, *gradients;                     // [32, 64] each
  bf16 *probabilities, *left_ds, *right_ds;      // left tiles [keys, queries of the chunk], right tiles [keys, 64]

  amx_backward_memory(scratch& memory, index query_count, index key_count, index width, bool one_head)
      : queries((query_count + amx_queries - 1) / amx_queries * amx_queries), keys((key_count + 31) / 32 * 32) {
    const index key_plane = keys * width;
    const index query_plane = queries * width;
    k_left = reinterpret_cast<bf16*>(memory(buffer::left, 3 * key_plane / 2));
    v_left = k_left + key_plane;
    k_turned = v_left + key_plane;
    key_sums = one_head ? std::min(keys, amx_keys) : keys;
    dk = memory(buffer::more, 2 * key_sums * width);
    dv = dk + key_sums * width;
    q_turned = reinterpret_cast<bf16*>(memory(buffer::right, 2 * query_plane));
    do_turned = q_turned + query_plane;
    q_right = do_turned + query_plane;
    do_right = q_right + query_plane;
    dq = memory(buffer::result, query_plane + queries);
    pull = dq + query_plane;
    scores = memory(buffer::scores, 2 * 32 * amx_queries);
    gradients = scores + 32 * amx_queries;
    const index pairs = amx_keys * amx_queries;
    probabilities = reinterpret_cast<bf16*>(memory(buffer::partial, (2 * amx_chunk + 1) * pairs / 2));
    left_ds = probabilities + amx_chunk * pairs;
    right_ds = left_ds + amx_chunk * pairs;
  }
};

/// 32 rows of scores become p = exp(scale score - lse), those of gradients ds = scale p (dp - <do, o>), 0 where unseen: p and ds as left
/// tiles (keys by queries, `left_tile` elements from 16 keys to the next), ds as right tiles (key pairs by queries) as well.
template <bool Masked>
ESFT_EIGEN_AMX inline void softmax_backward_avx512(const query_block& block, const float* scores, const float* gradients, index first_key,
                                                   float scale, bf16* left_p, bf16* left_ds, index left_tile, bf16* right_ds) {
  const __m512 scales = _mm512_set1_ps(scale);
  const __m512i order = interleave_halves();
  for (int half = 0; half < 2; ++half) {  // 32 queries: one row of a left tile
    __m512 lse[2];
    __m512 pull[2];
    ESFT_EIGEN_UNROLL
    for (int j = 0; j < 2; ++j) {
      lse[j] = _mm512_load_ps(block.peak + 32 * half + 16 * j);
      pull[j] = _mm512_load_ps(block.total + 32 * half + 16 * j);
    }
    for (index s = 0; s < 32; s += 2) {
      __m512 ds[2][2];
      ESFT_EIGEN_UNROLL
      for (int k = 0; k < 2; ++k) {
        __m512 p[2];
        ESFT_EIGEN_UNROLL
        for (int j = 0; j < 2; ++j) {
          const index cell = (s + k) * amx_queries + 32 * half + 16 * j;
          p[j] = exp_avx512(_mm512_fmsub_ps(_mm512_load_ps(scores + cell), scales, lse[j]));
          const __m512 pulled = _mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(gradients + cell), pull[j]), scales);
          if constexpr (Masked) {
            const __mmask16 seen = seen_by(block, 32 * half + 16 * j, first_key + s + k);
            p[j] = _mm512_maskz_mov_ps(seen, p[j]);
            ds[k][j] = _mm512_maskz_mul_ps(seen, p[j], pulled);
          } else {
            ds[k][j] = _mm512_mul_ps(p[j], pulled);
          }
        }
        const index to = (s + k) / 16 * left_tile + half * tile_elements + (s + k) % 16 * 32;
        _mm512_store_si512(left_p + to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(p[1], p[0])));
        _mm512_store_si512(left_ds + to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(ds[k][1], ds[k][0])));
      }
      ESFT_EIGEN_UNROLL
      for (int j = 0; j < 2; ++j) {
        const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(ds[1][j], ds[0][j]));
        _mm512_store_si512(right_ds + (2 * half + j) * tile_elements + 16 * s, _mm512_permutexvar_epi16(order, both));
      }
    }
  }
}

/// Query block `number` against keys [panel, panel + extent): dq grows, probabilities and ds go to place `slot` of the chunk.
ESFT_EIGEN_AMX inline void attention_backward_block(const amx_backward_memory& t, const query_block& block, index number, index slot,
                                                    index panel, index extent, index key_origin, index width, float scale) {
  const index steps = width / 32;
  constexpr index left_tile = 2 * amx_chunk * tile_elements;
  const bf16* query = t.q_turned + number * amx_queries * width;
  const bf16* d_o = t.do_turned + number * amx_queries * width;
  bf16* left_p = t.probabilities + slot * 2 * tile_elements;
  bf16* left_ds = t.left_ds + slot * 2 * tile_elements;
  const index depth = std::clamp<index>((block.last - key_origin - panel + 31) / 32 * 32, 0, extent);
  const index start = std::clamp<index>((block.first - key_origin - panel) / 32 * 32, 0, depth);
  for (index k = 0; k < extent; k += 32) {
    bf16* p = left_p + k / 16 * left_tile;
    bf16* ds = left_ds + k / 16 * left_tile;
    if (k < start || k >= depth) {
      for (index i = 0; i < 2; ++i) {
        std::fill_n(p + i * left_tile, 2 * tile_elements, bf16{});
        std::fill_n(ds + i * left_tile, 2 * tile_elements, bf16{});
      }
      continue;
    }
    const index local = panel + k;
    for (index j = 0; j < amx_queries; j += 32) {
      tile_product({t.k_left + local * width, 16 * width, tile_elements}, {query + j * width, 16 * width, tile_elements}, steps,
                   t.scores + j, amx_queries, false);
      tile_product({t.v_left + local * width, 16 * width, tile_elements}, {d_o + j * width, 16 * width, tile_elements}, steps,
                   t.gradients + j, amx_queries, false);
    }
    const index key = key_origin + local;
    bf16* right_ds = t.right_ds + k / 32 * (4 * tile_elements);
    if (block.all_see(key, key + 32)) {
      softmax_backward_avx512<false>(block, t.scores, t.gradients, key, scale, p, ds, left_tile, right_ds);
    } else {
      softmax_backward_avx512<true>(block, t.scores, t.gradients, key, scale, p, ds, left_tile, right_ds);
    }
  }
  for (index f = 0; f < width; f += 32) {
    for (index j = 0; j < amx_queries; j += 32) {
      tile_product({t.k_turned + (panel + start) * width + f * 32, tile_elements, 32 * width},
                   {t.right_ds + start / 32 * (4 * tile_elements) + j * 32, tile_elements, 4 * tile_elements}, (depth - start) / 32,
                   t.dq + number * amx_queries * width + f * amx_queries + j, amx_queries, true);
    }
  }
}

/// c[key, f] += the sum over the queries of a chunk of weights[key, query] x[query, f]: dv of probabilities and do, dk of ds and q.
ESFT_EIGEN_AMX inline void attention_backward_chunk(const bf16* weights, const bf16* x, index blocks, index extent, index width,
                                                    float* c) {
  constexpr index left_tile = 2 * amx_chunk * tile_elements;
  for (index k = 0; k < extent; k += 32) {
    for (index f = 0; f < width; f += 32) {
      tile_product({weights + k / 16 * left_tile, left_tile, tile_elements}, {x + f * 32, tile_elements, 32 * width}, 2 * blocks,
                   c + k * width + f, width, true);
    }
  }
}

/// dk and dv of keys [panel, panel + count) of key-value head g.
ESFT_EIGEN_AVX512 inline void write_key_gradients(const attention_shape& shape, const attention_gradients<bf16>& t,
                                                  const attention_segment& s, index g, index panel, index count,
                                                  const amx_backward_memory& memory) {
  const index row = shape.shared * shape.width;
  const index offset = (s.key_begin + panel) * row + g * shape.width;
  unpack_rows(memory.dk, count, shape.width, t.dk + offset, row);
  unpack_rows(memory.dv, count, shape.width, t.dv + offset, row);
}

/// Head h of one segment: writes dq, adds into dk and dv of the task.
ESFT_EIGEN_AMX inline void attention_backward_head_amx(const attention_shape& shape, const attention_gradients<bf16>& t,
                                                       const attention_segment& s, index h, const std::vector<query_block>& blocks,
                                                       const amx_backward_memory& memory) {
  const index width = shape.width;
  const index row = shape.heads * width;
  const index offset = s.query_begin * row + h * width;
  const index count = s.query_end - s.query_begin;
  const bool one_head = shape.heads == shape.shared;
  head_rows rows;
  head_rows other;
  for (index r = 0; r < memory.queries; r += 32) {
    rows.read(t.q + offset, row, r, count, width);
    pack_right_transposed(rows.data, width, 32, 32, width, memory.q_turned + r * width);
    pack_right(rows.data, width, 32, 32, width, memory.q_right + r * width);
    rows.read(t.d_o + offset, row, r, count, width);
    pack_right_transposed(rows.data, width, 32, 32, width, memory.do_turned + r * width);
    pack_right(rows.data, width, 32, 32, width, memory.do_right + r * width);
    other.read(t.o + offset, row, r, count, width);
    call<row_dots>(isa::avx512, static_cast<const bf16*>(rows.data), static_cast<const bf16*>(other.data), index{32}, width, width,
                   memory.pull + r);
  }
  std::fill_n(memory.dq, memory.queries * width, 0.0F);
  const auto block_count = static_cast<index>(blocks.size());
  for (index panel = 0; panel < memory.keys; panel += amx_keys) {
    const index extent = std::min(amx_keys, memory.keys - panel);
    const index sums = one_head ? 0 : panel * width;
    if (one_head) {
      std::fill_n(memory.dk, extent * width, 0.0F);
      std::fill_n(memory.dv, extent * width, 0.0F);
    }
    const auto meets = [&](index b) {
      const query_block& block = blocks[static_cast<std::size_t>(b)];
      return block.first < s.key_begin + panel + extent && s.key_begin + panel < block.last;
    };
    for (index b = 0; b < block_count;) {
      if (!meets(b)) {
        ++b;
        continue;
      }
      const index begin = b;
      for (; b < block_count && b - begin < amx_chunk && meets(b); ++b) {
        query_block block = blocks[static_cast<std::size_t>(b)];
        const index first = b * amx_queries;
        for (index i = 0; i < amx_queries; ++i) {
          const bool present = first + i < count;
          block.peak[i] = present ? t.lse[(s.query_begin + first + i) * shape.heads + h] : 0.0F;
          block.total[i] = present ? memory.pull[first + i] : 0.0F;
        }
        attention_backward_block(memory, block, b, b - begin, panel, extent, s.key_begin, width, shape.scale);
      }
      attention_backward_chunk(memory.probabilities, memory.do_right + begin * amx_queries * width, b - begin, extent, width,
                               memory.dv + sums);
      attention_backward_chunk(memory.left_ds, memory.q_right + begin * amx_queries * width, b - begin, extent, width, memory.dk + sums);
    }
    if (one_head) write_key_gradients(shape, t, s, h, panel, std::min(extent, s.key_end - s.key_begin - panel), memory);
  }
  alignas(64) float ones[amx_queries];
  std::fill_n(ones, amx_queries, 1.0F);
  for (index b = 0; b < block_count; ++b) {
    const index first = b * amx_queries;
    unpack_transposed(memory.dq + first * width, amx_queries, std::min(amx_queries, count - first), width, ones,
                      t.dq + offset + first * row, row);
  }
}

ESFT_EIGEN_AMX inline void attention_backward_segment_amx(const attention_shape& shape, const attention_gradients<bf16>& t,
                                                          const attention_segment& s, index g, scratch& buffers) {
  const index width = shape.width;
  const index key_row = shape.shared * width;
  const index count = s.key_end - s.key_begin;
  const index offset = s.key_begin * key_row + g * width;
  const index share = shape.heads / shape.shared;
  const amx_backward_memory memory(buffers, s.query_end - s.query_begin, count, width, share == 1);
  head_rows rows;
  for (index r = 0; r < memory.keys; r += 32) {
    rows.read(t.k + offset, key_row, r, count, width);
    pack_left(rows.data, width, 32, 32, width, memory.k_left + r * width);
    pack_left_transposed(rows.data, width, 32, 32, width, memory.k_turned + r * width);
    rows.read(t.v + offset, key_row, r, count, width);
    pack_left(rows.data, width, 32, 32, width, memory.v_left + r * width);
  }
  if (share > 1) std::fill_n(memory.dk, 2 * memory.key_sums * width, 0.0F);
  std::vector<query_block> blocks(static_cast<std::size_t>(memory.queries / amx_queries));
  for (index b = 0; b < static_cast<index>(blocks.size()); ++b) {
    const index begin = s.query_begin + b * amx_queries;
    blocks[static_cast<std::size_t>(b)].set(t.key_begin + begin, t.key_end + begin, std::min(amx_queries, s.query_end - begin));
  }
  const amx_tiles::session tiles;
  for (index h = g * share; h < (g + 1) * share; ++h) attention_backward_head_amx(shape, t, s, h, blocks, memory);
  if (share > 1) write_key_gradients(shape, t, s, g, 0, count, memory);
}

#endif

}  // namespace esft::detail::eigen
