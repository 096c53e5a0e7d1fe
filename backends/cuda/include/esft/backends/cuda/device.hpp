// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The few words in which kernels are written: threads, barriers, shuffles, shared memory. nvcc compiles them for a GPU, any other compiler
/// for the emulator, so that the same kernels run in tests on machines without one.

#include <esft/core/config.hpp>
#include <esft/core/shape.hpp>

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define ESFT_KERNEL __global__
#define ESFT_DEVICE __device__ inline
#define ESFT_SHARED __shared__
#define ESFT_BLOCK_OF(threads) __launch_bounds__(threads)
#define ESFT_UNROLL _Pragma("unroll")
#define ESFT_UNROLL_BY_2 _Pragma("unroll 2")
#define ESFT_UNROLL_BY_4 _Pragma("unroll 4")
#define ESFT_NO_UNROLL _Pragma("unroll 1")
#else
#include <esft/backends/cuda/emulator.hpp>
#define ESFT_KERNEL
#define ESFT_DEVICE inline
#define ESFT_SHARED static
#define ESFT_BLOCK_OF(threads)
#define ESFT_UNROLL
#define ESFT_UNROLL_BY_2
#define ESFT_UNROLL_BY_4
#define ESFT_NO_UNROLL
#endif

namespace esft::detail::cuda {

inline constexpr int warp_size = 32;
/// Bytes of shared memory that a block can have on every device of compute capability 8.0 and later. Those for data centres have more.
inline constexpr std::size_t least_shared_bytes = std::size_t{99} * 1024;

/// Where a call stands: std::source_location, which Clang 14 does not have.
class call_place {
 public:
  static constexpr call_place current(const char* file = __builtin_FILE(), int line = __builtin_LINE()) noexcept { return {file, line}; }
  [[nodiscard]] constexpr const char* file_name() const noexcept { return file_; }
  [[nodiscard]] constexpr int line() const noexcept { return line_; }

 private:
  constexpr call_place(const char* file, int line) noexcept : file_(file), line_(line) {}
  const char* file_;
  int line_;
};

/// Blocks and threads of one launch, and who asked for it.
struct grid {
  index blocks;
  int threads;
  std::size_t shared_bytes;
  call_place where;
  grid(index count, int per_block, std::size_t shared = 0, call_place place = call_place::current())
      : blocks(count), threads(per_block), shared_bytes(shared), where(place) {}
};

#if defined(__CUDACC__)
ESFT_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
ESFT_DEVICE int block_size() { return static_cast<int>(blockDim.x); }
ESFT_DEVICE index block_index() { return static_cast<index>(blockIdx.x); }
ESFT_DEVICE index block_count() { return static_cast<index>(gridDim.x); }
ESFT_DEVICE void sync_block() { __syncthreads(); }
ESFT_DEVICE void sync_warp() { __syncwarp(); }
template <class V>
ESFT_DEVICE V shuffle_xor(V value, int mask) {
  return __shfl_xor_sync(0xffffffffU, value, mask);
}
/// What the lane `by` below has; of the first lanes, their own.
template <class V>
ESFT_DEVICE V shuffle_up(V value, int by) {
  return __shfl_up_sync(0xffffffffU, value, static_cast<unsigned>(by));
}
/// Bit l: what lane l says.
ESFT_DEVICE std::uint32_t warp_ballot(bool said) { return __ballot_sync(0xffffffffU, said); }
ESFT_DEVICE void atomic_add(float* sum, float value) { atomicAdd(sum, value); }
/// Dynamic shared memory of the block, 16-byte aligned.
ESFT_DEVICE float* shared_floats() {
  extern __shared__ __align__(16) unsigned char esft_shared_bytes[];
  return reinterpret_cast<float*>(esft_shared_bytes);
}
#else
inline int thread_index() { return emulator::here().thread; }
inline int block_size() { return emulator::here().threads; }
inline index block_index() { return emulator::here().block; }
inline index block_count() { return emulator::here().blocks; }
inline void sync_block() { emulator::wait(emulator::barrier::block); }
inline void sync_warp() { emulator::wait(emulator::barrier::warp); }
template <class V>
V shuffle_xor(V value, int mask) {
  return emulator::exchange(value, emulator::here().thread ^ mask);
}
template <class V>
V shuffle_up(V value, int by) {
  const int thread = emulator::here().thread;
  return emulator::exchange(value, thread % warp_size < by ? thread : thread - by);
}
inline std::uint32_t warp_ballot(bool said) {
  const auto all = emulator::offer(said);
  std::uint32_t bits = 0;
  for (int lane = 0; lane < warp_size; ++lane) bits |= static_cast<std::uint32_t>(all(lane)) << static_cast<unsigned>(lane);
  return bits;
}
inline void atomic_add(float* sum, float value) { *sum += value; }
inline float* shared_floats() { return emulator::here().shared; }
#endif

ESFT_DEVICE int lane_index() { return thread_index() % warp_size; }
ESFT_DEVICE int warp_index() { return thread_index() / warp_size; }

/// Sum over the lanes of a warp, in an order that never changes; every lane gets the same bits.
template <class V>
ESFT_DEVICE V warp_sum(V value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
/// Largest over the lanes; a NaN loses.
template <class V>
ESFT_DEVICE V warp_max(V value) {
  for (int mask = warp_size / 2; mask > 0; mask /= 2) {
    const V other = shuffle_xor(value, mask);
    value = other > value || value != value ? other : value;
  }
  return value;
}
/// Sum over the threads of a block of whole warps; every thread gets the same bits.
template <class V>
ESFT_DEVICE V block_sum(V value) {
  ESFT_SHARED V parts[warp_size];
  value = warp_sum(value);
  sync_block();  // the last sum may still be read
  if (lane_index() == 0) parts[warp_index()] = value;
  sync_block();
  V total{};
  for (int w = 0; w < block_size() / warp_size; ++w) total += parts[w];
  return total;
}

}  // namespace esft::detail::cuda
