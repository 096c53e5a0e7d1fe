// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Capacity: how many rows an expert serves at most, and the slots that stay empty beyond it.

#include <esft/moe/router.hpp>

#include <cmath>

namespace esft {

/// Rows that an expert serves at most, rounded up. @eq ceil(factor T K / E)
[[nodiscard]] inline index expert_capacity(index tokens, index active, index experts, double factor) {
  return static_cast<index>(std::ceil(factor * static_cast<double>(tokens * active) / static_cast<double>(experts)));
}

namespace detail {

/// Empties the slots of expert e beyond its capacity. First choices are served before second ones, and those in the order of the tokens.
template <class Backend>
struct empty_beyond_capacity {
  view_t<Backend, std::int32_t, 2> ids;
  view_t<Backend, accum_t<Backend>, 2> weights;
  index capacity;

  ESFT_HOST_DEVICE void operator()(index e) const {
    index served = 0;
    for (index k = 0; k < ids.extent(1); ++k) {
      for (index t = 0; t < ids.extent(0); ++t) {
        if (ids(t, k) != e || ++served <= capacity) continue;
        ids(t, k) = no_expert;
        weights(t, k) = 0;
      }
    }
  }
};

}  // namespace detail
}  // namespace esft
