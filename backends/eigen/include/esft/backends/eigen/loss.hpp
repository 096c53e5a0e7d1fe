// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Softmax cross-entropy of rows, in place.

#include <esft/backends/eigen/simd.hpp>
#include <esft/core/token_batch.hpp>

#include <cmath>

namespace esft::detail::eigen {

/// Lanes from `count` on become `other`. By comparison: writing a lane whose number varies would keep the vector in memory.
template <class vec>
ESFT_EIGEN_INLINE void replace_beyond(vec& x, index count, float other) {
  constexpr std::int32_t numbers[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  ints_of<vec> lane;
  std::memcpy(&lane, numbers, sizeof lane);
  x = lane < static_cast<std::int32_t>(count) ? x : vec{} + other;
}

/// losses[t] = -log softmax(logits[t])[label]; logits become scale (softmax - onehot), 0 for ignored rows. @pre labels are in range
template <class vec>
struct cross_entropy_rows {
  ESFT_EIGEN_INLINE static void run(float* logits, const std::int32_t* labels, index rows, index width, float scale, double* losses) {
    for (index t = 0; t < rows; ++t, logits += width) {
      losses[t] = 0;
      if (labels[t] == ignored_label) {
        for (index v = 0; v < width; ++v) logits[v] = 0;
        continue;
      }
      vec largest = vec{} + logits[0];
      for (index v = 0; v < width; v += lanes_of<vec>) {
        vec z;
        load(z, logits + v, width - v);
        if (width - v < lanes_of<vec>) replace_beyond(z, width - v, logits[0]);
        largest = z > largest ? z : largest;
      }
      const float peak = max_of(largest);
      const double chosen = static_cast<double>(logits[labels[t]]) - static_cast<double>(peak);
      const index next = t + 1 < rows ? width : 0;
      double total = 0;
      for (index begin = 0; begin < width; begin += 16 * lanes_of<vec>) {  // short float sums, joined in double
        const index end = begin + 16 * lanes_of<vec> < width ? begin + 16 * lanes_of<vec> : width;
        vec sum = {};
        for (index v = begin; v < end; v += lanes_of<vec>) {
          vec z;
          __builtin_prefetch(logits + next + v, 0, 2);  // the next row arrives while this one computes
          load(z, logits + v, end - v);
          z -= peak;
          exp_in_place(z);
          if (end - v < lanes_of<vec>) replace_beyond(z, end - v, 0);
          sum += z;
          store(logits + v, z, end - v);
        }
        total += static_cast<double>(sum_of(sum));
      }
      losses[t] = std::log(total) - chosen;
      const auto share = static_cast<float>(1.0 / total);
      const float of_label = (logits[labels[t]] * share - 1.0F) * scale;
      for (index v = 0; v < width; v += lanes_of<vec>) {
        vec p;
        load(p, logits + v, width - v);
        store(logits + v, p * share * scale, width - v);
      }
      logits[labels[t]] = of_label;
    }
  }
};

}  // namespace esft::detail::eigen
