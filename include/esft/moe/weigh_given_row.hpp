// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `weigh_given_row`: gate weights of experts that a router is given, by the formula of those that it chooses.

#include <esft/backend/backend.hpp>
#include <esft/moe/choice.hpp>

namespace esft::detail {

/// One token: `weigh_chosen` of the ids as they are. @shape probabilities [T, E], ids, weights [T, K]
template <class Backend>
struct weigh_given_row {
  view_t<Backend, const accum_t<Backend>, 2> probabilities;
  view_t<Backend, const std::int32_t, 2> ids;
  view_t<Backend, accum_t<Backend>, 2> weights;
  bool normalise;
  accum_t<Backend> scale;
  accum_t<Backend> tiny;

  ESFT_HOST_DEVICE void operator()(index t) const {
    weigh_chosen(&probabilities(t, 0), &ids(t, 0), ids.extent(1), normalise, scale, tiny, &weights(t, 0));
  }
};

}  // namespace esft::detail
