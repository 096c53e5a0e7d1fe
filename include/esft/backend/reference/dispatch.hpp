// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Plain-loop dispatch of tokens to experts and combination of their outputs.

#include <esft/backend/backend.hpp>

namespace esft::reference {

/// Stable counting sort of the T x K slots by expert; empty slots get no row, and the rows that are left over no slot.
/// @shape ids [T, K], offsets [E+1], row_slot [T*K], slot_row [T, K]
inline void dispatch(host_view<const std::int32_t, 2> ids, host_view<std::int32_t, 1> offsets, host_view<std::int32_t, 1> row_slot,
                     host_view<std::int32_t, 2> slot_row) {
  const index experts = offsets.size() - 1;
  ESFT_EXPECTS(experts >= 0 && row_slot.size() == ids.size() && slot_row.size() == ids.size(),
               "offsets [E+1], row_slot [T K], slot_row [T,K]");
  for (index e = 0; e <= experts; ++e) offsets[e] = 0;
  const auto flat = ids.flat();
  for (index slot = 0; slot < flat.size(); ++slot) {
    ESFT_EXPECTS(flat[slot] >= no_expert && flat[slot] < experts, "routed ids lie in [0, E), or are no_expert");
    if (flat[slot] != no_expert) ++offsets[flat[slot] + 1];
  }
  for (index e = 0; e < experts; ++e) offsets[e + 1] += offsets[e];
  for (index row = offsets[experts]; row < row_slot.size(); ++row) row_slot[row] = no_expert;
  for (index slot = 0; slot < flat.size(); ++slot) {
    slot_row.data()[slot] = no_expert;
    if (flat[slot] == no_expert) continue;
    const std::int32_t row = offsets[flat[slot]]++;
    row_slot[row] = static_cast<std::int32_t>(slot);
    slot_row.data()[slot] = row;
  }
  for (index e = experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
}

/// y[r] = x[row_slot[r] / active]; rows without a slot are left alone. @shape x [T, D], row_slot [R], y [R, D]
template <class T>
void gather(host_view<const T, 2> x, host_view<const std::int32_t, 1> row_slot, index active, host_view<T, 2> y) {
  ESFT_EXPECTS(x.extent(1) == y.extent(1) && row_slot.size() == y.extent(0), "x [T,D], row_slot [R], y [R,D]");
  for (index r = 0; r < y.extent(0); ++r) {
    if (row_slot[r] == no_expert) continue;
    for (index d = 0; d < y.extent(1); ++d) y(r, d) = x(row_slot[r] / active, d);
  }
}

/// out[t] (+)= sum_k factor(t, k) y[slot_row[t, k]], k ascending, over the slots that have a row.
/// @shape y [R, D], slot_row [T, K], out [T, D]
template <class T, class Factor>
void weighted_gather_sum(host_view<const T, 2> y, host_view<const std::int32_t, 2> slot_row, host_view<T, 2> out, write_mode mode,
                         Factor factor) {
  using sum_type = accumulate_t<T>;
  ESFT_EXPECTS(y.extent(1) == out.extent(1) && slot_row.extent(0) == out.extent(0), "y [R,D], slot_row [T,K], out [T,D]");
  for (index t = 0; t < out.extent(0); ++t) {
    for (index d = 0; d < out.extent(1); ++d) {
      sum_type sum = mode == write_mode::accumulate ? static_cast<sum_type>(out(t, d)) : sum_type{};
      for (index k = 0; k < slot_row.extent(1); ++k) {
        if (slot_row(t, k) != no_expert) sum += factor(t, k) * static_cast<sum_type>(y(slot_row(t, k), d));
      }
      out(t, d) = static_cast<T>(sum);
    }
  }
}

}  // namespace esft::reference
