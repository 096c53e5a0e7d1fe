// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The parts of attention that work on one block of keys against one tile of up to 48 queries, queries along the vector lanes.

#include <esft/backends/eigen/packing.hpp>

#include <cmath>
#include <limits>

namespace esft::detail::eigen {

inline constexpr index tile_queries = block_columns;
inline constexpr index block_keys = 64;

/// Sizes shared by all tasks of one call.
struct attention_shape {
  index heads = 0;   ///< H
  index shared = 0;  ///< G
  index width = 0;   ///< F
  float scale = 0;
};

/// Per-query numbers of one tile. Lanes without a query have an empty key range.
struct query_tile {
  alignas(64) std::int32_t key_begin[tile_queries];
  alignas(64) std::int32_t key_end[tile_queries];
  alignas(64) float peak[tile_queries];   ///< running maximum; in the backward the logarithm of the sum (lse)
  alignas(64) float total[tile_queries];  ///< running sum of exponentials; in the backward <do, o>
};

/// Online softmax over one block. scores [keys, 48] become exponentials; `out` [head, 48] is rescaled to the new maximum.
template <class vec>
struct softmax_block {
  ESFT_EIGEN_INLINE static void run(query_tile* tile, index width, index first_key, index keys, float* scores, float* out, index head) {
    for (index q = 0; q < width; q += lanes_of<vec>) {
      ints_of<vec> begin;
      ints_of<vec> end;
      vec peak;
      vec total;
      std::memcpy(&begin, tile->key_begin + q, sizeof begin);
      std::memcpy(&end, tile->key_end + q, sizeof end);
      load(peak, tile->peak + q);
      load(total, tile->total + q);
      vec largest = peak;
      for (index s = 0; s < keys; ++s) {
        const auto key = static_cast<std::int32_t>(first_key + s);
        vec z;
        load(z, scores + s * block_columns + q);
        z = ((begin <= key) & (end > key)) ? z : vec{} - std::numeric_limits<float>::infinity();
        largest = z > largest ? z : largest;
        store(scores + s * block_columns + q, z);
      }
      const vec base = largest == -std::numeric_limits<float>::infinity() ? vec{} : largest;  // no key yet: avoid Inf - Inf
      vec decay = peak - base;
      exp_in_place(decay);
      total *= decay;
      for (index s = 0; s < keys; ++s) {
        vec p;
        load(p, scores + s * block_columns + q);
        p -= base;
        exp_in_place(p);
        total += p;
        store(scores + s * block_columns + q, p);
      }
      store(tile->peak + q, largest);
      store(tile->total + q, total);
      for (index f = 0; f < head; ++f) {
        vec o;
        load(o, out + f * block_columns + q);
        store(out + f * block_columns + q, o * decay);
      }
    }
  }
};

/// out /= total; a query without keys gets 0.
template <class vec>
struct softmax_finish {
  ESFT_EIGEN_INLINE static void run(const query_tile* tile, index width, float* out, index head) {
    for (index q = 0; q < width; q += lanes_of<vec>) {
      vec total;
      load(total, tile->total + q);
      const vec inverse = total == 0.0F ? vec{} : 1.0F / total;
      for (index f = 0; f < head; ++f) {
        vec o;
        load(o, out + f * block_columns + q);
        store(out + f * block_columns + q, o * inverse);
      }
    }
  }
};

/// scores become p = exp(score - lse), gradients dp become ds = scale p (dp - <do, o>); both 0 outside the key range.
template <class vec>
struct softmax_backward_block {
  ESFT_EIGEN_INLINE static void run(const query_tile* tile, index width, index first_key, index keys, float scale, float* scores,
                                    float* gradients) {
    for (index q = 0; q < width; q += lanes_of<vec>) {
      ints_of<vec> begin;
      ints_of<vec> end;
      vec lse;
      vec pull;
      std::memcpy(&begin, tile->key_begin + q, sizeof begin);
      std::memcpy(&end, tile->key_end + q, sizeof end);
      load(lse, tile->peak + q);
      load(pull, tile->total + q);
      for (index s = 0; s < keys; ++s) {
        const auto key = static_cast<std::int32_t>(first_key + s);
        const ints_of<vec> inside = (begin <= key) & (end > key);
        vec p;
        vec dp;
        load(p, scores + s * block_columns + q);
        load(dp, gradients + s * block_columns + q);
        p -= lse;
        exp_in_place(p);
        p = inside ? p : vec{};
        const vec ds = inside ? scale * (p * (dp - pull)) : vec{};
        store(scores + s * block_columns + q, p);
        store(gradients + s * block_columns + q, ds);
      }
    }
  }
};

/// x *= factor
template <class vec>
struct scale_elements {
  ESFT_EIGEN_INLINE static void run(float* x, index count, float factor) {
    for (index i = 0; i < count; i += lanes_of<vec>) {
      vec v;
      load(v, x + i, count - i);
      store(x + i, v * factor, count - i);
    }
  }
};

/// out[q] = <a[q], b[q]> over `width` columns.
template <class vec>
struct row_dots {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* a, const T* b, index rows, index stride, index width, float* out) {
    for (index q = 0; q < rows; ++q) {
      vec sum = {};
      for (index f = 0; f < width; f += lanes_of<vec>) {
        vec left;
        vec right;
        load(left, a + q * stride + f, width - f);
        load(right, b + q * stride + f, width - f);
        sum += left * right;
      }
      out[q] = sum_of(sum);
    }
  }
};

}  // namespace esft::detail::eigen
