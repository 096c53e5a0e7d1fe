// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Extents and sizes: the signed `index` type and multiplication that cannot wrap in silence.

#include <esft/core/contract.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace esft {

/// Extent or position along one dimension of a tensor.
using index = std::int64_t;

/// Extents of a tensor, outermost first.
template <std::size_t Rank>
using extents = std::array<index, Rank>;

/// Product of all extents; throws `contract_violation` on a negative extent or on overflow.
template <std::size_t Rank>
constexpr index element_count(const extents<Rank>& shape) {
  index count = 1;
  for (const index extent : shape) {
    ESFT_EXPECTS(extent >= 0, "an extent is never negative");
    ESFT_EXPECTS(!__builtin_mul_overflow(count, extent, &count), "the element count must fit 63 bits");
  }
  return count;
}

}  // namespace esft
