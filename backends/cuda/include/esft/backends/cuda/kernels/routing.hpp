// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Routing: softmax with top-k, and the stable counting sort of slots by expert: histogram, scan, scatter. No atomics, so one order.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/topk.hpp>
#include <esft/core/routing_record.hpp>

#include <cmath>
#include <limits>

namespace esft::detail::cuda {

inline constexpr int most_experts = 1024;
inline constexpr int experts_per_lane = most_experts / warp_size;
inline constexpr int rows_per_block = 4;

/// One warp per token; lane l holds experts l, l + 32, ... and marks those taken by a bit. `LaneExperts` is how many a lane holds at most.
template <int LaneExperts>
ESFT_KERNEL void softmax_topk_kernel(const float* logits, bool normalise, float scale, std::int32_t* ids, float* weights,
                                     float* probabilities, index tokens, int experts, int active) {
  const index t = block_index() * rows_per_block + warp_index();
  if (t >= tokens) return;  // the whole warp
  const float* z = logits + t * experts;
  float* p = probabilities + t * experts;
  float score[static_cast<std::size_t>(LaneExperts)];
  float peak = -std::numeric_limits<float>::infinity();
  for (int j = 0; j < LaneExperts; ++j) {
    const int e = lane_index() + j * warp_size;
    score[j] = e < experts ? z[e] : -std::numeric_limits<float>::infinity();
    peak = score[j] > peak ? score[j] : peak;
  }
  peak = warp_max(peak);
  float total = 0;
  for (int j = 0; j < LaneExperts; ++j) {
    const int e = lane_index() + j * warp_size;
    if (e < experts) total += ::expf(score[j] - peak);
  }
  total = warp_sum(total);
  for (int j = 0; j < LaneExperts; ++j) {
    const int e = lane_index() + j * warp_size;
    if (e < experts) p[e] = ::expf(score[j] - peak) / total;
  }
  std::uint32_t taken = 0;
  float selected = 0;
  for (int k = 0; k < active; ++k) {
    std::uint64_t best = 0;
    for (int j = 0; j < LaneExperts; ++j) {
      const int e = lane_index() + j * warp_size;
      if (e >= experts || (taken >> static_cast<unsigned>(j) & 1U) != 0) continue;
      const std::uint64_t key = preference(score[j], e);
      best = key > best ? key : best;
    }
    best = warp_max(best);
    const std::int32_t id = preferred_id(best);
    if (id % warp_size == lane_index()) {
      taken |= 1U << static_cast<unsigned>(id / warp_size);
      ids[t * active + k] = id;
      weights[t * active + k] = p[id];
    }
    sync_warp();
    selected += weights[t * active + k];
  }
  sync_warp();
  for (int k = lane_index(); k < active; k += warp_size) {
    const float s = weights[t * active + k];
    weights[t * active + k] = scale * (normalise ? s / selected : s);
  }
}

/// Slots that one block counts and scatters.
inline constexpr int slots_per_block = 256;
inline constexpr int sort_threads = 256;

/// Copies the ids of this block's slots to shared memory; unknown ids are a fault and leave their slots empty. Returns how many there are.
ESFT_DEVICE int load_ids(const std::int32_t* ids, index slots, index experts, std::int32_t* own, std::int32_t* faults) {
  const index begin = block_index() * slots_per_block;
  const index left = slots - begin;
  const int count = left < slots_per_block ? static_cast<int>(left) : slots_per_block;
  for (int i = thread_index(); i < count; i += block_size()) {
    const std::int32_t id = ids[begin + i];
    own[i] = id >= 0 && id < experts ? id : no_expert;
    if (own[i] != id) *faults = static_cast<std::int32_t>(fault::expert_id);
  }
  sync_block();
  return count;
}

/// counts [E, blocks]: slots of each block that chose each expert.
template <class Id>
ESFT_KERNEL void histogram_kernel(const Id* ids, index slots, index experts, std::int32_t* counts, std::int32_t* faults) {
  ESFT_SHARED std::int32_t own[slots_per_block];
  const int count = load_ids(ids, slots, experts, own, faults);
  for (index e = thread_index(); e < experts; e += block_size()) {
    std::int32_t found = 0;
    for (int i = 0; i < count; ++i) found += own[i] == e ? 1 : 0;
    counts[e * block_count() + block_index()] = found;
  }
}
/// counts become the expert's slots in the blocks before; totals [E]. One warp per expert.
template <class Id>
ESFT_KERNEL void scan_blocks_kernel(Id* counts, Id* totals, index blocks, index experts) {
  const index e = block_index() * (block_size() / warp_size) + warp_index();
  if (e >= experts) return;
  Id before = 0;
  for (index first = 0; first < blocks; first += warp_size) {
    const index b = first + lane_index();
    const Id own = b < blocks ? counts[e * blocks + b] : 0;
    const Id sum = warp_running_sum(own);
    if (b < blocks) counts[e * blocks + b] = before + sum - own;
    before += warp_sum(own);
  }
  if (lane_index() == 0) totals[e] = before;
}
/// offsets [E + 1]: rows before each expert. One block.
template <class Id>
ESFT_KERNEL void scan_experts_kernel(const Id* totals, std::int32_t* offsets, index experts) {
  block_running_sums(experts, [=](index e) { return totals[e]; }, offsets);
}
/// The slots of each expert in their order; empty slots and rows left over become `no_expert`. @shape row_slot [R], slot_row [R]
template <class Id>
ESFT_KERNEL void scatter_kernel(const Id* ids, index slots, index experts, const std::int32_t* before, const std::int32_t* offsets,
                                std::int32_t* row_slot, std::int32_t* slot_row, std::int32_t* faults) {
  ESFT_SHARED std::int32_t own[slots_per_block];
  const int count = load_ids(ids, slots, experts, own, faults);
  const index begin = block_index() * slots_per_block;
  for (index e = thread_index(); e < experts; e += block_size()) {
    std::int32_t row = offsets[e] + before[e * block_count() + block_index()];
    for (int i = 0; i < count; ++i) {
      if (own[i] != e) continue;
      row_slot[row] = static_cast<std::int32_t>(begin + i);
      slot_row[begin + i] = row++;
    }
  }
  for (int i = thread_index(); i < count; i += block_size()) {
    if (own[i] == no_expert) slot_row[begin + i] = no_expert;
    if (begin + i >= offsets[experts]) row_slot[begin + i] = no_expert;
  }
}

}  // namespace esft::detail::cuda
