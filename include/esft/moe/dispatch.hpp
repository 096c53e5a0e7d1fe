// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `dispatch_plan`: which routed row serves which token, rows sorted by expert.

#include <esft/moe/router.hpp>

namespace esft {

/// Rows of expert e are [offsets[e], offsets[e+1]). Row r serves slot row_slot[r] = t K + k; slot_row is the inverse. Empty slots have no
/// row, rows from offsets[E] on no slot: both say `no_expert`.
template <class Backend>
struct dispatch_plan {
  tensor_t<Backend, std::int32_t, 1> offsets;   ///< @shape [E + 1]
  tensor_t<Backend, std::int32_t, 1> row_slot;  ///< @shape [R], R = T K
  tensor_t<Backend, std::int32_t, 2> slot_row;  ///< @shape [T, K]
};

/// Stable: tokens keep their order inside an expert. @shape ids [T, K] in [0, experts) or `no_expert` @cost O(T K + E)
template <moe_backend Backend>
[[nodiscard]] dispatch_plan<Backend> plan_dispatch(Backend& backend, view_t<Backend, const std::int32_t, 2> ids, index experts) {
  dispatch_plan<Backend> plan{backend.template make_tensor<std::int32_t>(extents<1>{experts + 1}),
                              backend.template make_tensor<std::int32_t>(extents<1>{ids.size()}),
                              backend.template make_tensor<std::int32_t>(ids.shape())};
  backend.dispatch(ids, plan.offsets.view(), plan.row_slot.view(), plan.slot_row.view());
  return plan;
}

}  // namespace esft
