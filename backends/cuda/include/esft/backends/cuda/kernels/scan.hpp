// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Running sums of counts by a warp or a block. Of integers, so their order does not matter.

#include <esft/backends/cuda/device.hpp>

#include <cstdint>

namespace esft::detail::cuda {

inline constexpr int scan_threads = 256;

/// The sum over this lane and those below.
ESFT_DEVICE std::int32_t warp_running_sum(std::int32_t value) {
  for (int by = 1; by < warp_size; by *= 2) {
    const std::int32_t below = shuffle_up(value, by);
    if (lane_index() >= by) value += below;
  }
  return value;
}

/// sums [count + 1]: what stands before each of `count` numbers, number(i) the i-th, and the total behind them. One block of whole warps.
template <class Number>
ESFT_DEVICE void block_running_sums(index count, const Number& number, std::int32_t* sums) {
  ESFT_SHARED std::int32_t of_warp[warp_size];
  std::int32_t before = 0;
  for (index first = 0; first < count; first += block_size()) {
    const index i = first + thread_index();
    const std::int32_t own = i < count ? number(i) : 0;
    std::int32_t sum = warp_running_sum(own);
    if (lane_index() == warp_size - 1) of_warp[warp_index()] = sum;
    sync_block();
    std::int32_t round = 0;
    for (int w = 0; w < block_size() / warp_size; ++w) {
      if (w < warp_index()) sum += of_warp[w];
      round += of_warp[w];
    }
    if (i < count) sums[i] = before + sum - own;
    before += round;
    sync_block();  // of_warp may be written
  }
  if (thread_index() == 0) sums[count] = before;
}

}  // namespace esft::detail::cuda
