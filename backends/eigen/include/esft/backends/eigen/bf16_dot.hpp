// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `dot_tiles`: products of blocks of bf16 tiles by the dot products of pairs of AVX512_BF16, for CPUs without tile registers.

#include <esft/backends/eigen/amx.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// The engine of CPUs with AVX512_BF16 but without AMX: the same tiles and the same product as `amx_tiles`.
struct dot_tiles {
  struct session {
    session() noexcept {}  // nothing to configure
  };

  /// @copydoc amx_tiles::product
  template <int Left, int Right, class Work>
  ESFT_EIGEN_AVX512_BF16 static void product(const bf16* left, index left_step, const bf16* right, index right_step, index steps, float* c,
                                             bool first, Work&& meanwhile) {
    for (index step = 0; step < steps; ++step) meanwhile.step();
    for (int row = 0; row < 16 * Left; row += rows_at_once) {
      rows<Right>(left + row * 32, left_step, right, right_step, steps, c + row * sum_stride(Right), first);
    }
  }

 private:
  static constexpr int rows_at_once = 8;

  template <int Right>
  ESFT_EIGEN_AVX512_BF16 static void rows(const bf16* left, index left_step, const bf16* right, index right_step, index steps, float* c,
                                          bool first) {
    constexpr index stride = sum_stride(Right);
    __m512 sum[rows_at_once][std::size_t{Right}];
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < rows_at_once; ++i) {
      ESFT_EIGEN_UNROLL
      for (int j = 0; j < Right; ++j) sum[i][j] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + stride * i + 16 * j);
    }
    for (index step = 0; step < steps; ++step, left += left_step, right += right_step) {
      for (int pair = 0; pair < 16; ++pair) {
        __m512bh columns[std::size_t{Right}];
        ESFT_EIGEN_UNROLL
        for (int j = 0; j < Right; ++j) columns[j] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right + 512 * j + 32 * pair));
        ESFT_EIGEN_UNROLL
        for (int i = 0; i < rows_at_once; ++i) {
          std::int32_t both;
          __builtin_memcpy(&both, left + 32 * i + 2 * pair, sizeof both);
          const auto repeated = reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
          ESFT_EIGEN_UNROLL
          for (int j = 0; j < Right; ++j) sum[i][j] = _mm512_dpbf16_ps(sum[i][j], repeated, columns[j]);
        }
      }
    }
    ESFT_EIGEN_UNROLL
    for (int i = 0; i < rows_at_once; ++i) {
      ESFT_EIGEN_UNROLL
      for (int j = 0; j < Right; ++j) _mm512_storeu_ps(c + stride * i + 16 * j, sum[i][j]);
    }
  }
};

#endif

}  // namespace esft::detail::eigen
