// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Attention of bf16 heads on the tile registers of AMX: keys and values packed once, online softmax in float.

#include <esft/backends/eigen/amx.hpp>
#include <esft/backends/eigen/attention_pack.hpp>
#include <esft/backends/eigen/attention_tile.hpp>
#include <esft/backends/eigen/block_cache.hpp>
#include <esft/backends/eigen/machine.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace esft::detail::eigen {

/// Whether attention of heads of this width runs on tiles. Elsewhere it runs on floats.
inline bool attention_on_tiles(isa set, index width) noexcept { return ESFT_EIGEN_X86 != 0 && set >= isa::amx && width % 32 == 0 && width > 0; }

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
  index all_first = 0;                   ///< keys [all_first, all_last) are seen by every lane
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

/// Operands of one call, keys and values as left tiles in blocks of 32 keys. @shape q, o [T, H, F], keys, values [S up to 32, F] of each G
struct amx_forward {
  attention_shape shape;
  const bf16* q;
  const bf16 *keys, *values;
  index key_plane;  ///< elements of one key-value head
  const std::int32_t *key_begin, *key_end;
  bf16* o;
  float* lse;
};

/// Queries [begin, begin + count) of the heads that share key-value head g.
ESFT_EIGEN_AMX inline void attention_forward_block(const amx_forward& t, index begin, index count, index g, scratch& memory) {
  const index width = t.shape.width;
  const index steps = width / 32;
  const index row = t.shape.heads * width;
  const index share = t.shape.heads / t.shape.shared;
  const bf16* keys = t.keys + g * t.key_plane;
  const bf16* values = t.values + g * t.key_plane;
  auto* query = reinterpret_cast<bf16*>(memory(buffer::extra, amx_queries * width / 2));
  auto* probabilities = reinterpret_cast<bf16*>(memory(buffer::partial, amx_keys * amx_queries / 2));
  float* scores = memory(buffer::scores, amx_keys * amx_queries);
  float* out = memory(buffer::result, width * amx_queries);
  alignas(64) float decay[amx_queries];
  query_block block;
  block.set(t.key_begin + begin, t.key_end + begin, count);
  const index first = block.first / 32 * 32;
  const index used = count <= 32 ? 32 : amx_queries;  // the second half of the queries may be empty
  const amx_tiles::session tiles;
  for (index h = g * share; h < (g + 1) * share; ++h) {
    const index offset = begin * row + h * width;
    pack_right_transposed(t.q + offset, row, count, amx_queries, width, query);
    std::fill_n(block.peak, amx_queries, -std::numeric_limits<float>::infinity());
    std::fill_n(block.total, amx_queries, 0.0F);
    if (first >= block.last) std::fill_n(out, width * amx_queries, 0.0F);
    for (index s = first; s < block.last; s += amx_keys) {
      const index depth = std::min(amx_keys, (block.last - s + 31) / 32 * 32);
      for (index k = 0; k < depth; k += 32) {
        for (index j = 0; j < amx_queries; j += 32) {
          tile_product({keys + (s + k) * width, 16 * width, tile_elements}, {query + j * width, 16 * width, tile_elements}, steps,
                       scores + k * amx_queries + j, amx_queries, false);
        }
      }
      const bool changed = block.all_see(s, s + depth)
                               ? softmax_block_avx512<false>(block, scores, s, depth, t.shape.scale, probabilities, decay)
                               : softmax_block_avx512<true>(block, scores, s, depth, t.shape.scale, probabilities, decay);
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
          tile_product({values + s * width + f * 32, tile_elements, 32 * width},
                       {probabilities + j * 32, tile_elements, 4 * tile_elements}, depth / 32, out + f * amx_queries + j, amx_queries,
                       s > first);
        }
      }
    }
    for (int j = 0; j < amx_queries; ++j) decay[j] = block.total[j] == 0 ? 0.0F : 1.0F / block.total[j];
    unpack_transposed(out, amx_queries, count, width, decay, t.o + offset, row);
    for (index i = 0; i < count; ++i) t.lse[(begin + i) * t.shape.heads + h] = block.peak[i] + std::log(block.total[i]);
  }
}

/// Left tiles of keys and of transposed values of every key-value head, in blocks of 32 keys.
inline void pack_keys_and_values(machine& m, const attention_shape& shape, const bf16* k, const bf16* v, index count, bf16* keys,
                                 bf16* values, index plane) {
  const index row = shape.shared * shape.width;
  constexpr index block = 128;
  const index blocks = (count + block - 1) / block;
  m.run(blocks * shape.shared, static_cast<double>(4 * count * row), [&](index number, int) {
    const index g = number / blocks;
    const index s = number % blocks * block;
    const index rows = std::min(block, count - s);
    const index padded = (rows + 31) / 32 * 32;
    pack_left(k + s * row + g * shape.width, row, rows, padded, shape.width, keys + g * plane + s * shape.width);
    pack_left_transposed(v + s * row + g * shape.width, row, rows, padded, shape.width, values + g * plane + s * shape.width);
  });
}

/// @shape q, o [T, H, F], k, v [S, G, F], lse [T, H]. @pre attention_on_tiles
inline void attention_forward_amx(machine& m, const attention_shape& shape, const bf16* q, const bf16* k, const bf16* v,
                                  const std::int32_t* key_begin, const std::int32_t* key_end, index queries, bf16* o, float* lse) {
  index key_count = 0;
  for (index t = 0; t < queries; ++t) {
    if (key_begin[t] < key_end[t]) key_count = std::max<index>(key_count, key_end[t]);
  }
  const index plane = (key_count + 31) / 32 * 32 * shape.width;
  const auto keys = make_cached_tensor<bf16, 1>({std::max<index>(1, plane * shape.shared)});
  const auto values = make_cached_tensor<bf16, 1>({std::max<index>(1, plane * shape.shared)});
  auto* const packed_keys = const_cast<bf16*>(keys.data());
  auto* const packed_values = const_cast<bf16*>(values.data());
  pack_keys_and_values(m, shape, k, v, key_count, packed_keys, packed_values, plane);
  struct task {
    index begin, count, cost;
  };
  std::vector<task> tasks;
  double total = 0;
  for (index begin = 0; begin < queries; begin += amx_queries) {
    const index count = std::min(amx_queries, queries - begin);
    query_block block;
    block.set(key_begin + begin, key_end + begin, count);
    tasks.push_back({begin, count, block.last - block.first});
    total += static_cast<double>((block.last - block.first + 8) * amx_queries * shape.width * shape.heads / 4);
  }
  std::stable_sort(tasks.begin(), tasks.end(), [](const task& a, const task& b) { return a.cost > b.cost; });
  const amx_forward operands{shape, q, packed_keys, packed_values, plane, key_begin, key_end, o, lse};
  m.run(static_cast<index>(tasks.size()) * shape.shared, total, [&](index number, int slot) {
    const task& job = tasks[static_cast<std::size_t>(number / shape.shared)];
    attention_forward_block(operands, job.begin, job.count, number % shape.shared, m.of(slot));
  });
}

#endif

}  // namespace esft::detail::eigen
