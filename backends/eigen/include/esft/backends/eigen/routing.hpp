// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Dispatch of tokens to experts, and the gathers and sums that bring rows to experts and back.

#include <esft/backends/eigen/simd.hpp>
#include <esft/core/contract.hpp>
#include <esft/core/routing_record.hpp>

#include <cstring>

namespace esft::detail::eigen {

/// Stable counting sort of the slots by expert. @shape ids [slots], offsets [experts + 1], row_slot [slots], slot_row [slots]
inline void sort_slots(const std::int32_t* ids, index slots, index experts, std::int32_t* offsets, std::int32_t* row_slot,
                       std::int32_t* slot_row) {
  std::fill_n(offsets, experts + 1, 0);
  for (index s = 0; s < slots; ++s) {
    ESFT_EXPECTS(ids[s] >= no_expert && ids[s] < experts, "routed ids lie in [0, E), or are no_expert");
    if (ids[s] != no_expert) ++offsets[ids[s] + 1];
  }
  for (index e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  std::fill(row_slot + offsets[experts], row_slot + slots, no_expert);
  for (index s = 0; s < slots; ++s) {
    slot_row[s] = no_expert;
    if (ids[s] == no_expert) continue;
    const std::int32_t row = offsets[ids[s]]++;
    row_slot[row] = static_cast<std::int32_t>(s);
    slot_row[s] = row;
  }
  for (index e = experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

/// out[t] (+)= sum over k of weights[t, k] y[slot_row[t, k]], k ascending; without weights every factor is 1.
template <class vec>
struct weighted_sum_rows {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* y, const std::int32_t* slot_row, const float* weights, index tokens, index active, index width,
                                    T* out, bool accumulate) {
    for (index t = 0; t < tokens; ++t, out += width) {
      for (index d = 0; d < width; d += lanes_of<vec>) {
        vec sum = {};
        if (accumulate) load(sum, out + d, width - d);
        for (index k = 0; k < active; ++k) {
          if (slot_row[t * active + k] == no_expert) continue;
          vec row;
          load(row, y + slot_row[t * active + k] * width + d, width - d);
          if (weights == nullptr) {
            sum += row;
          } else {
            sum += weights[t * active + k] * row;
          }
        }
        store(out + d, sum, width - d);
      }
    }
  }
};

/// Columns [begin, end): table[ids[t]] += dy[t], t ascending.
template <class vec>
struct embedding_gradient_columns {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const std::int32_t* ids, const T* dy, index tokens, index width, index begin, index end, float* table) {
    for (index t = 0; t < tokens; ++t) {
      float* row = table + ids[t] * width;
      for (index d = begin; d < end; d += lanes_of<vec>) {
        vec sum;
        vec part;
        load(sum, row + d, end - d);
        load(part, dy + t * width + d, end - d);
        store(row + d, sum + part, end - d);
      }
    }
  }
};

}  // namespace esft::detail::eigen
