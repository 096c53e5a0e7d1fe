// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Softmax sums over parts that come one after another. @source M. Milakov, N. Gimelshein, arXiv 1805.02867

#include <esft/core/config.hpp>

#include <cmath>
#include <limits>

namespace esft::detail::cuda {

/// The largest score so far and the sum of exp(score - largest). A NaN score makes the sum NaN and never the peak; -inf adds nothing.
struct online_softmax {
  float peak = -std::numeric_limits<float>::infinity();
  float total = 0;

  static constexpr float nothing = -std::numeric_limits<float>::infinity();

  /// exp(score - top), where -inf has no weight even beside a top of -inf.
  ESFT_HOST_DEVICE static float weight(float score, float top) { return score == nothing ? 0.0F : ::expf(score - top); }

  ESFT_HOST_DEVICE void add(float score) {
    if (score > peak) {
      total = total * weight(peak, score) + 1.0F;
      peak = score;
    } else {
      total += weight(score, peak);
    }
  }
  /// Takes the scores of another part in. Merging in a fixed order gives fixed bits.
  ESFT_HOST_DEVICE void merge(const online_softmax& other) {
    const float top = other.peak > peak ? other.peak : peak;
    total = total * rescale(peak, top) + other.total * rescale(other.peak, top);
    peak = top;
  }
  /// What sums relative to `old_peak` are multiplied by when `top` takes its place.
  ESFT_HOST_DEVICE static float rescale(float old_peak, float top) { return old_peak == top ? 1.0F : weight(old_peak, top); }
  /// log of the sum of exponentials.
  [[nodiscard]] ESFT_HOST_DEVICE float log_sum() const { return peak + ::logf(total); }
};

}  // namespace esft::detail::cuda
