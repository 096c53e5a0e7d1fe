// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `slice_entry`: one trained piece as kernels see it, and which piece a block works on.

#include <esft/core/config.hpp>
#include <esft/core/shape.hpp>

namespace esft::detail::cuda {

/// Elements of a piece that one block treats.
inline constexpr index slice_chunk = 16384;

template <class T>
struct slice_entry {
  using stored = T;
  T* weight;
  float* gradient;
  index size;         ///< elements
  index first;        ///< of the optimizer state of all pieces
  index first_block;  ///< blocks of the pieces before
  bool decays;
};

/// The piece that holds a block: the last one that begins at or before it, which skips empty ones.
/// @pre 0 <= block < blocks of all pieces
template <class T>
ESFT_HOST_DEVICE constexpr index find_slice(const slice_entry<T>* list, index count, index block) noexcept {
  index low = 0;
  index high = count;
  while (high - low > 1) {
    const index middle = low + (high - low) / 2;
    (list[middle].first_block <= block ? low : high) = middle;
  }
  return low;
}

}  // namespace esft::detail::cuda
