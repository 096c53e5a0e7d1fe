// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `amx_tiles`: products of blocks of bf16 tiles on the tile registers of AMX.

#include <esft/backends/eigen/isa.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/shape.hpp>

#include <cstdint>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Memory to bring into the second-level cache while a block is computed: `lines` lines of 64 bytes at `from`, and as many `stride`
/// bytes further with every step of the reduction.
struct look_ahead {
  const char* from = nullptr;
  index stride = 0;
  index lines = 0;
};

/// What `ldtilecfg` reads.
struct alignas(64) tile_configuration {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(tile_configuration) == 64);
inline constexpr tile_configuration all_tiles{};  // not a local variable: GCC believes that the instruction reads its first bytes only

/// The engine of CPUs with AMX. An engine multiplies tiles: a left tile is 16 rows of 32 bf16, a right tile is 16 pairs of rows of 16
/// columns, the two rows of a pair interleaved; each is 1 KiB without gaps. Their product has 16 x 16 sums.
struct amx_tiles {
  /// Configures the eight tile registers of this thread as 16 rows of 64 bytes, and gives them back in the end, so that the operating
  /// system need not save them with the thread.
  class session {
   public:
    ESFT_EIGEN_AMX session() noexcept { _tile_loadconfig(&all_tiles); }
    session(const session&) = delete;
    session& operator=(const session&) = delete;
    ESFT_EIGEN_AMX ~session() { _tile_release(); }
  };

  /// c = A B, or c += A B where not `first`, for Left x Right tiles (one or two each) over `steps` steps of 32. The left tiles of a step
  /// lie one behind the other, `left_step` elements from those of the next; so do the right ones. c is 32 x 32 floats, of which the top
  /// left 16 Left x 16 Right are used. The sums of a cell run over the steps in order, however they are split into calls.
  /// @pre a session is open on this thread
  template <int Left, int Right>
  ESFT_EIGEN_AMX static void product(const bf16* left, index left_step, const bf16* right, index right_step, index steps, float* c,
                                     bool first, look_ahead next) {
    constexpr long sum_stride = 32 * sizeof(float);
    asm volatile("" ::: "memory");  // the loads below are invisible to GCC: what was packed before must be in memory
    if (first) {
      _tile_zero(0);
      if constexpr (Right == 2) _tile_zero(1);
      if constexpr (Left == 2) _tile_zero(2);
      if constexpr (Left == 2 && Right == 2) _tile_zero(3);
    } else {
      _tile_loadd(0, c, sum_stride);
      if constexpr (Right == 2) _tile_loadd(1, c + 16, sum_stride);
      if constexpr (Left == 2) _tile_loadd(2, c + 512, sum_stride);
      if constexpr (Left == 2 && Right == 2) _tile_loadd(3, c + 528, sum_stride);
    }
    for (index step = 0; step < steps; ++step) {
      _tile_loadd(4, left, 64L);
      _tile_loadd(6, right, 64L);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (Right == 2) {
        _tile_loadd(7, right + 512, 64L);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (Left == 2) {
        _tile_loadd(5, left + 512, 64L);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (Right == 2) _tile_dpbf16ps(3, 5, 7);
      }
      for (index line = 0; line < next.lines; ++line) _mm_prefetch(next.from + 64 * line, _MM_HINT_T1);
      next.from += next.stride;
      left += left_step;
      right += right_step;
    }
    _tile_stored(0, c, sum_stride);
    if constexpr (Right == 2) _tile_stored(1, c + 16, sum_stride);
    if constexpr (Left == 2) _tile_stored(2, c + 512, sum_stride);
    if constexpr (Left == 2 && Right == 2) _tile_stored(3, c + 528, sum_stride);
    asm volatile("" ::: "memory");
  }
};

#endif

}  // namespace esft::detail::eigen
