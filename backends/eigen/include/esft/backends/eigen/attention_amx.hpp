// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Attention of bf16 heads on the tile registers of AMX: keys and values packed once, online softmax in float.

#include <esft/backends/eigen/amx.hpp>
#include <esft/backends/eigen/attention_pack.hpp>
#include <esft/backends/eigen/attention_segments.hpp>
#include <esft/backends/eigen/attention_tile.hpp>
#include <esft/backends/eigen/machine.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace esft::detail::eigen {

/// Whether attention of heads of this width runs on tiles. Elsewhere it runs on floats.
inline bool attention_on_tiles(isa set, index width) noexcept {
  return ESFT_EIGEN_X86 != 0 && set >= isa::amx && width % 32 == 0 && width > 0 && width <= 256;
}

#if ESFT_EIGEN_X86

inline constexpr index amx_queries = 64;  ///< of one block, four vectors
inline constexpr index amx_keys = 128;    ///< of one block at most: the longer, the rarer the sums travel between tiles and memory

/// Tiles of an operand: the tile of the next 16 rows or columns and that of the next 32 terms of the sum lie so many elements further.
struct tile_grid {
  const bf16* data;
  index tile;
  index step;
};

/// c = a b, or +=, for two left by two right tiles, all at distances of their own. @pre a session of tiles is open on this thread
/// @shape a [32, 32 steps], b [32 steps, 32], c [32, 32] at c_stride
ESFT_EIGEN_AMX inline void tile_product(tile_grid a, tile_grid b, index steps, float* c, index c_stride, bool add) {
  const index bytes = c_stride * index{sizeof(float)};
  asm volatile("" ::: "memory");  // GCC does not know that the tile instructions read and write memory
  if (add) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + 16, bytes);
    _tile_loadd(2, c + 16 * c_stride, bytes);
    _tile_loadd(3, c + 16 * c_stride + 16, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (index s = 0; s < steps; ++s) {
    _tile_loadd(4, a.data, 64);
    _tile_loadd(6, b.data, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b.data + b.tile, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a.data + a.tile, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    a.data += a.step;
    b.data += b.step;
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + 16, bytes);
  _tile_stored(2, c + 16 * c_stride, bytes);
  _tile_stored(3, c + 16 * c_stride + 16, bytes);
  asm volatile("" ::: "memory");
}

/// e^x within 2 ulp where the result is a normal number; NaN stays NaN. Infinite x is for lanes that are masked out.
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE __m512 exp_avx512(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-104.0F), x);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341F)), 8);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375F), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4F), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.9875691500e-4F), r, _mm512_set1_ps(1.3981999507e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1F));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0F));
  return _mm512_scalef_ps(p, n);
}

/// Numbers of the queries of one block. Lanes without a query, and queries without keys, have an empty key range.
struct query_block {
  alignas(64) std::int32_t key_begin[amx_queries];
  alignas(64) std::int32_t key_end[amx_queries];
  alignas(64) float peak[amx_queries];   ///< running maximum; in the backward the logarithm of the sum (lse)
  alignas(64) float total[amx_queries];  ///< running sum of exponentials; in the backward <do, o>
  index first = 0;                       ///< keys [first, last) are seen by any query
  index last = 0;
  index all_first = 0;  ///< keys [all_first, all_last) are seen by every lane
  index all_last = 0;

  void set(const std::int32_t* begin, const std::int32_t* end, index count) {
    first = all_last = std::numeric_limits<index>::max();
    last = all_first = 0;
    for (index q = 0; q < amx_queries; ++q) {
      const bool seeing = q < count && begin[q] < end[q];
      key_begin[q] = seeing ? begin[q] : 0;
      key_end[q] = seeing ? end[q] : 0;
      all_first = std::max<index>(all_first, key_begin[q]);
      all_last = std::min<index>(all_last, key_end[q]);
      if (!seeing) continue;
      first = std::min<index>(first, key_begin[q]);
      last = std::max<index>(last, key_end[q]);
    }
    first = std::min(first, last);
  }
  [[nodiscard]] bool all_see(index begin, index end) const noexcept { return all_first <= begin && end <= all_last; }
};

/// Which of the 16 queries beginning at q see this key.
ESFT_EIGEN_AVX512 ESFT_EIGEN_INLINE __mmask16 seen_by(const query_block& block, int q, index key) {
  const __m512i id = _mm512_set1_epi32(static_cast<int>(key));
  return _mm512_mask_cmpgt_epi32_mask(_mm512_cmple_epi32_mask(_mm512_load_si512(block.key_begin + q), id),
                                      _mm512_load_si512(block.key_end + q), id);
}

/// Online softmax of `keys` rows of scores against 64 queries: new maxima and sums, probabilities as right tiles (key pairs by queries),
/// and in `decay` what sums up to here are worth under the new maxima. True where any decay is not 1.
template <bool Masked>
ESFT_EIGEN_AMX inline bool softmax_block_avx512(query_block& block, const float* scores, index first_key, index keys, float scale,
                                                bf16* probabilities, float* decay) {
  constexpr int vectors = 4;
  const __m512 scales = _mm512_set1_ps(scale);
  const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest[vectors];
  ESFT_EIGEN_UNROLL
  for (int j = 0; j < vectors; ++j) largest[j] = _mm512_load_ps(block.peak + 16 * j);
  for (index s = 0; s < keys; ++s) {
    ESFT_EIGEN_UNROLL
    for (int j = 0; j < vectors; ++j) {
      const __m512 z = _mm512_mul_ps(_mm512_load_ps(scores + s * amx_queries + 16 * j), scales);
      if constexpr (Masked) {
        largest[j] = _mm512_mask_max_ps(largest[j], seen_by(block, 16 * j, first_key + s), largest[j], z);
      } else {
        largest[j] = _mm512_max_ps(largest[j], z);
      }
    }
  }
  __m512 total[vectors];
  unsigned changed = 0;
  ESFT_EIGEN_UNROLL
  for (int j = 0; j < vectors; ++j) {
    const __m512 old = _mm512_load_ps(block.peak + 16 * j);
    _mm512_store_ps(block.peak + 16 * j, largest[j]);
    largest[j] = _mm512_mask_mov_ps(largest[j], _mm512_cmp_ps_mask(largest[j], none, _CMP_EQ_OQ), _mm512_setzero_ps());  // no key yet
    const __m512 factor = exp_avx512(_mm512_sub_ps(old, largest[j]));
    changed |= _mm512_cmp_ps_mask(factor, _mm512_set1_ps(1.0F), _CMP_NEQ_UQ);
    _mm512_store_ps(decay + 16 * j, factor);
    total[j] = _mm512_mul_ps(_mm512_load_ps(block.total + 16 * j), factor);
  }
  const __m512i order = interleave_halves();
  for (index s = 0; s < keys; s += 2) {
    bf16* pair = probabilities + s / 32 * (4 * tile_elements) + s % 32 * 16;
    ESFT_EIGEN_UNROLL
    for (int j = 0; j < vectors; ++j) {
      __m512 p[2];
      ESFT_EIGEN_UNROLL
      for (int k = 0; k < 2; ++k) {
        const __m512 z = _mm512_load_ps(scores + (s + k) * amx_queries + 16 * j);
        p[k] = exp_avx512(_mm512_fmsub_ps(z, scales, largest[j]));
        if constexpr (Masked) p[k] = _mm512_maskz_mov_ps(seen_by(block, 16 * j, first_key + s + k), p[k]);
        total[j] = _mm512_add_ps(total[j], p[k]);
      }
      const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(p[1], p[0]));  // sixteen of the first key, sixteen of the second
      _mm512_store_si512(pair + j * tile_elements, _mm512_permutexvar_epi16(order, both));
    }
  }
  ESFT_EIGEN_UNROLL
  for (int j = 0; j < vectors; ++j) _mm512_store_ps(block.total + 16 * j, total[j]);
  return changed != 0;
}

/// Operands of one call. @shape q, o [T, H, F], k, v [S, G, F], lse [T, H]
struct amx_attention {
  attention_shape shape;
  const bf16 *q, *k, *v;
  const std::int32_t *key_begin, *key_end;
  bf16* o;
  float* lse;
};
/// Keys [origin, ...) of one head in blocks of 32: left tiles of k and of v^T.
struct amx_keys_of_head {
  const bf16 *keys, *values;
  index origin;
};

/// Queries [begin, begin + count) of head h.
ESFT_EIGEN_AMX inline void attention_forward_block(const amx_attention& t, const amx_keys_of_head& packed, query_block& block, index begin,
                                                   index count, index h, scratch& memory) {
  const index width = t.shape.width;
  const index steps = width / 32;
  const index row = t.shape.heads * width;
  const index offset = begin * row + h * width;
  auto* query = reinterpret_cast<bf16*>(memory(buffer::extra, amx_queries * width / 2));
  auto* probabilities = reinterpret_cast<bf16*>(memory(buffer::partial, amx_keys * amx_queries / 2));
  float* scores = memory(buffer::scores, amx_keys * amx_queries);
  float* out = memory(buffer::result, width * amx_queries);
  alignas(64) float decay[amx_queries];
  const index first = (block.first - packed.origin) / 32 * 32;
  const index last = block.last - packed.origin;
  const index used = count <= 32 ? 32 : amx_queries;  // the second half of the queries may be empty
  head_rows rows;
  for (index j = 0; j < amx_queries; j += 32) {
    rows.read(t.q + offset, row, j, count, width);
    pack_right_transposed(rows.data, width, 32, 32, width, query + j * width);
  }
  std::fill_n(block.peak, amx_queries, -std::numeric_limits<float>::infinity());
  std::fill_n(block.total, amx_queries, 0.0F);
  if (first >= last) std::fill_n(out, width * amx_queries, 0.0F);
  for (index s = first; s < last; s += amx_keys) {
    const index depth = std::min(amx_keys, (last - s + 31) / 32 * 32);
    const index key = packed.origin + s;
    for (index k = 0; k < depth; k += 32) {
      for (index j = 0; j < amx_queries; j += 32) {
        tile_product({packed.keys + (s + k) * width, 16 * width, tile_elements}, {query + j * width, 16 * width, tile_elements}, steps,
                     scores + k * amx_queries + j, amx_queries, false);
      }
    }
    const bool changed = block.all_see(key, key + depth)
                             ? softmax_block_avx512<false>(block, scores, key, depth, t.shape.scale, probabilities, decay)
                             : softmax_block_avx512<true>(block, scores, key, depth, t.shape.scale, probabilities, decay);
    if (s > first && changed) {
      for (index f = 0; f < width; ++f) {
        ESFT_EIGEN_UNROLL
        for (int j = 0; j < 4; ++j) {
          float* cell = out + f * amx_queries + 16 * j;
          _mm512_store_ps(cell, _mm512_mul_ps(_mm512_load_ps(cell), _mm512_load_ps(decay + 16 * j)));
        }
      }
    }
    for (index f = 0; f < width; f += 32) {
      for (index j = 0; j < used; j += 32) {
        tile_product({packed.values + s * width + f * 32, tile_elements, 32 * width},
                     {probabilities + j * 32, tile_elements, 4 * tile_elements}, depth / 32, out + f * amx_queries + j, amx_queries,
                     s > first);
      }
    }
  }
  for (int j = 0; j < amx_queries; ++j) decay[j] = block.total[j] == 0 ? 0.0F : 1.0F / block.total[j];
  unpack_transposed(out, amx_queries, count, width, decay, t.o + offset, row);
  for (index i = 0; i < count; ++i) t.lse[(begin + i) * t.shape.heads + h] = block.peak[i] + std::log(block.total[i]);
}

/// Queries [begin, end) of the heads that share key-value head g; the keys that they see are packed once.
ESFT_EIGEN_AMX inline void attention_forward_queries(const amx_attention& t, index begin, index end, index g, scratch& memory) {
  const index width = t.shape.width;
  const index key_row = t.shape.shared * width;
  const index share = t.shape.heads / t.shape.shared;
  std::vector<query_block> blocks;
  index origin = std::numeric_limits<index>::max();
  index last = 0;
  for (index q = begin; q < end; q += amx_queries) {
    query_block& block = blocks.emplace_back();
    block.set(t.key_begin + q, t.key_end + q, std::min(amx_queries, end - q));
    if (block.first == block.last) continue;
    origin = std::min(origin, block.first);
    last = std::max(last, block.last);
  }
  origin = std::min(origin, last);
  const index plane = (last - origin + 31) / 32 * 32 * width;
  auto* keys = reinterpret_cast<bf16*>(memory(buffer::left, plane / 2));
  auto* values = reinterpret_cast<bf16*>(memory(buffer::right, plane / 2));
  head_rows rows;
  for (index s = origin; s < last; s += 32) {
    rows.read(t.k + g * width, key_row, s, last, width);
    pack_left(rows.data, width, 32, 32, width, keys + (s - origin) * width);
    rows.read(t.v + g * width, key_row, s, last, width);
    pack_left_transposed(rows.data, width, 32, 32, width, values + (s - origin) * width);
  }
  const amx_tiles::session tiles;
  for (index h = g * share; h < (g + 1) * share; ++h) {
    for (index q = begin; q < end; q += amx_queries) {
      query_block& block = blocks[static_cast<std::size_t>((q - begin) / amx_queries)];
      attention_forward_block(t, {keys, values, block.first == block.last ? block.first : origin}, block, q, std::min(amx_queries, end - q),
                              h, memory);
    }
  }
}

/// @pre attention_on_tiles
inline void attention_forward_amx(machine& m, const amx_attention& t, index queries) {
  struct task {
    index begin, end;
    double cost;
  };
  constexpr index enough = 16;  // tasks; where there are fewer, segments are cut, and each part packs its keys for itself
  std::vector<task> tasks;
  double total = 0;
  const std::vector<attention_segment> segments = segments_of(t.key_begin, t.key_end, queries);
  const index parts = std::max<index>(1, enough / (static_cast<index>(segments.size()) * t.shape.shared + 1));
  for (const attention_segment& s : segments) {
    const index blocks = (s.query_end - s.query_begin + amx_queries - 1) / amx_queries;
    const index part = (blocks + parts - 1) / parts * amx_queries;
    for (index begin = s.query_begin; begin < s.query_end; begin += part) {
      const index end = std::min(begin + part, s.query_end);
      const double cost = static_cast<double>(end - begin) *
                          static_cast<double>(s.key_end - s.key_begin + end - s.query_begin + 8);  // causal: the later, the more
      tasks.push_back({begin, end, cost});
      total += cost * static_cast<double>(t.shape.width * t.shape.heads / 8);
    }
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const task& a, const task& b) { return a.cost > b.cost; });
  m.run(static_cast<index>(tasks.size()) * t.shape.shared, total, [&](index number, int slot) {
    const task& job = tasks[static_cast<std::size_t>(number / t.shape.shared)];
    attention_forward_queries(t, job.begin, job.end, number % t.shape.shared, m.of(slot));
  });
}

#endif

}  // namespace esft::detail::eigen
