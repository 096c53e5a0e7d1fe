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

/// Memory to bring into the second-level cache while a block is computed: with every step of the reduction `lines` lines of 64 bytes from
/// each of `places` places that are `apart` bytes apart, and with the next step the lines behind them. Reading several pages at once
/// matters: a core waits for few lines at a time, but its prefetcher runs ahead in each page in which neighbours are being read.
struct look_ahead {
  const char* from = nullptr;
  index apart = 0;
  index places = 0;
  index lines = 1;

  ESFT_EIGEN_INLINE void step() noexcept {
    for (index i = 0; i < places; ++i) {
      for (index line = 0; line < lines; ++line) _mm_prefetch(from + i * apart + line * 64, _MM_HINT_T1);
    }
    from += lines * 64;
  }
};

/// Floats from one row of sums to the next, where a product has `right` tiles on its right side.
constexpr index sum_stride(int right) noexcept { return right == 3 ? 48 : 32; }

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

  /// c = A B, or c += A B where not `first`, for Left x Right tiles over `steps` steps of 32: up to 2 x 2 tiles, 2 x 3 or 3 x 2. The left
  /// tiles of a step lie one behind the other, `left_step` elements from those of the next; so do the right ones. c has 16 Left rows of
  /// `sum_stride(Right)` floats. The sums of a cell run over the steps in order, however they are split into calls.
  /// `meanwhile.step()` runs with every step, on units that tiles leave idle: a `look_ahead`, or a `strip_turner`.
  /// @pre a session is open on this thread
  template <int Left, int Right, class Work>
  ESFT_EIGEN_AMX static void product(const bf16* left, index left_step, const bf16* right, index right_step, index steps, float* c,
                                     bool first, Work&& meanwhile) {
    static_assert(Left * Right <= 6 && Left <= 3 && Right <= 3);
    auto work = meanwhile;  // in registers: its stores could change it
    asm volatile("" ::: "memory");  // the loads below are invisible to GCC: what was packed before must be in memory
    load_sums<Left, Right>(c, first);
    for (index step = 0; step < steps; ++step) {
      if constexpr (Left == 2 && Right == 3) {
        multiply_2x3(left, right);
      } else if constexpr (Left == 3) {
        multiply_3x2(left, right);
      } else {
        multiply_2x2<Left, Right>(left, right);
      }
      work.step();
      left += left_step;
      right += right_step;
    }
    meanwhile = work;
    store_sums<Left, Right>(c);
    asm volatile("" ::: "memory");
  }

 private:
  // Registers 0 to 5 hold sums, row of tiles by row; the numbers of registers must be literals.

  template <int Left, int Right>
  ESFT_EIGEN_AMX ESFT_EIGEN_INLINE static void load_sums(const float* c, bool first) {
    if (first) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      if constexpr (Left * Right == 6) _tile_zero(4);
      if constexpr (Left * Right == 6) _tile_zero(5);
      return;
    }
    constexpr index stride = sum_stride(Right);
    constexpr index bytes = stride * index{sizeof(float)};
    _tile_loadd(0, c, bytes);
    if constexpr (Left * Right > 1) _tile_loadd(1, c + (1 / Right * 16 * stride + 1 % Right * 16), bytes);
    if constexpr (Left * Right > 2) _tile_loadd(2, c + (2 / Right * 16 * stride + 2 % Right * 16), bytes);
    if constexpr (Left * Right > 3) _tile_loadd(3, c + (3 / Right * 16 * stride + 3 % Right * 16), bytes);
    if constexpr (Left * Right > 4) _tile_loadd(4, c + (4 / Right * 16 * stride + 4 % Right * 16), bytes);
    if constexpr (Left * Right > 5) _tile_loadd(5, c + (5 / Right * 16 * stride + 5 % Right * 16), bytes);
  }
  template <int Left, int Right>
  ESFT_EIGEN_AMX ESFT_EIGEN_INLINE static void store_sums(float* c) {
    constexpr index stride = sum_stride(Right);
    constexpr index bytes = stride * index{sizeof(float)};
    _tile_stored(0, c, bytes);
    if constexpr (Left * Right > 1) _tile_stored(1, c + (1 / Right * 16 * stride + 1 % Right * 16), bytes);
    if constexpr (Left * Right > 2) _tile_stored(2, c + (2 / Right * 16 * stride + 2 % Right * 16), bytes);
    if constexpr (Left * Right > 3) _tile_stored(3, c + (3 / Right * 16 * stride + 3 % Right * 16), bytes);
    if constexpr (Left * Right > 4) _tile_stored(4, c + (4 / Right * 16 * stride + 4 % Right * 16), bytes);
    if constexpr (Left * Right > 5) _tile_stored(5, c + (5 / Right * 16 * stride + 5 % Right * 16), bytes);
  }

  /// One step of up to 2 x 2 tiles.
  template <int Left, int Right>
  ESFT_EIGEN_AMX ESFT_EIGEN_INLINE static void multiply_2x2(const bf16* left, const bf16* right) {
    _tile_loadd(4, left, 64L);
    _tile_loadd(6, right, 64L);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Right == 2) _tile_loadd(7, right + 512, 64L);
    if constexpr (Right == 2) _tile_dpbf16ps(1, 4, 7);
    if constexpr (Left == 2) _tile_loadd(5, left + 512, 64L);
    if constexpr (Left == 2 && Right == 1) _tile_dpbf16ps(1, 5, 6);
    if constexpr (Left == 2 && Right == 2) _tile_dpbf16ps(2, 5, 6);
    if constexpr (Left == 2 && Right == 2) _tile_dpbf16ps(3, 5, 7);
  }
  /// One step of six sums, with two registers for operands: five tiles from the second-level cache, two of them again from the first.
  ESFT_EIGEN_AMX ESFT_EIGEN_INLINE static void multiply_2x3(const bf16* left, const bf16* right) {
    _tile_loadd(6, left, 64L);
    _tile_loadd(7, right, 64L);
    _tile_dpbf16ps(0, 6, 7);
    _tile_loadd(7, right + 512, 64L);
    _tile_dpbf16ps(1, 6, 7);
    _tile_loadd(7, right + 1024, 64L);
    _tile_dpbf16ps(2, 6, 7);
    _tile_loadd(6, left + 512, 64L);
    _tile_dpbf16ps(5, 6, 7);
    _tile_loadd(7, right + 512, 64L);
    _tile_dpbf16ps(4, 6, 7);
    _tile_loadd(7, right, 64L);
    _tile_dpbf16ps(3, 6, 7);
  }
  /// @copydoc multiply_2x3
  ESFT_EIGEN_AMX ESFT_EIGEN_INLINE static void multiply_3x2(const bf16* left, const bf16* right) {
    _tile_loadd(6, right, 64L);
    _tile_loadd(7, left, 64L);
    _tile_dpbf16ps(0, 7, 6);
    _tile_loadd(7, left + 512, 64L);
    _tile_dpbf16ps(2, 7, 6);
    _tile_loadd(7, left + 1024, 64L);
    _tile_dpbf16ps(4, 7, 6);
    _tile_loadd(6, right + 512, 64L);
    _tile_dpbf16ps(5, 7, 6);
    _tile_loadd(7, left + 512, 64L);
    _tile_dpbf16ps(3, 7, 6);
    _tile_loadd(7, left, 64L);
    _tile_dpbf16ps(1, 7, 6);
  }
};

#endif

}  // namespace esft::detail::eigen
