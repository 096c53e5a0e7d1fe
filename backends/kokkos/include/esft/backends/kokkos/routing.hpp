// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Kernels between tokens and experts: the stable counting sort of dispatch, gather, and weighted sums of a token's rows. No atomics.

#include <esft/backend/backend.hpp>
#include <esft/backends/kokkos/context.hpp>
#include <esft/backends/kokkos/team.hpp>

namespace esft::detail::kokkos {

/// Slots that one work item walks through, in order.
template <class Execution>
inline constexpr index slots_of_a_piece = on_cores<Execution> ? 4096 : 64;

/// Dispatch in three steps over pieces of the slots; `counts` is [pieces, E].
template <class Execution>
struct dispatch_slots {
  static constexpr index piece = slots_of_a_piece<Execution>;
  const std::int32_t* ids;
  std::int32_t* offsets;
  std::int32_t* row_slot;
  std::int32_t* slot_row;
  std::int32_t* counts;
  index slots;
  index experts;
  index pieces;
  int* bad;
  int mark_of_bad;

  /// Step 1: how many slots of a piece each expert gets.
  struct count {
    dispatch_slots d;
    KOKKOS_FUNCTION void operator()(index p) const {
      std::int32_t* const mine = d.counts + p * d.experts;
      for (index e = 0; e < d.experts; ++e) mine[e] = 0;
      for (index s = p * piece; s < smaller((p + 1) * piece, d.slots); ++s) {
        const std::int32_t id = d.ids[s];
        if (id < no_expert || id >= d.experts) leave_mark(d.bad, d.mark_of_bad);
        if (id >= 0 && id < d.experts) ++mine[id];
      }
    }
  };
  /// Step 2a: per expert, what pieces before a piece have; the sum goes where its end will be.
  struct add_pieces {
    dispatch_slots d;
    KOKKOS_FUNCTION void operator()(index e) const {
      std::int32_t sum = 0;
      for (index p = 0; p < d.pieces; ++p) {
        const std::int32_t here = d.counts[p * d.experts + e];
        d.counts[p * d.experts + e] = sum;
        sum += here;
      }
      d.offsets[e + 1] = sum;
    }
  };
  /// Step 2b: ends of the experts, by one work item: they are few.
  struct add_experts {
    dispatch_slots d;
    KOKKOS_FUNCTION void operator()(index) const {
      d.offsets[0] = 0;
      for (index e = 0; e < d.experts; ++e) d.offsets[e + 1] += d.offsets[e];
    }
  };
  /// Step 3: rows of the slots of a piece.
  struct assign {
    dispatch_slots d;
    KOKKOS_FUNCTION void operator()(index p) const {
      std::int32_t* const mine = d.counts + p * d.experts;
      for (index s = p * piece; s < smaller((p + 1) * piece, d.slots); ++s) {
        const std::int32_t id = d.ids[s];
        d.slot_row[s] = no_expert;
        if (id < 0 || id >= d.experts) continue;
        const std::int32_t row = d.offsets[id] + mine[id]++;
        d.slot_row[s] = row;
        d.row_slot[row] = static_cast<std::int32_t>(s);
      }
    }
  };
  /// Step 4: rows that are left over.
  struct clear_rest {
    dispatch_slots d;
    KOKKOS_FUNCTION void operator()(index r) const {
      if (r >= d.offsets[d.experts]) d.row_slot[r] = no_expert;
    }
  };
};

template <class T>
struct gather_row {
  const T* x;
  const std::int32_t* row_slot;
  T* y;
  index active;
  index width;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index r = team.league_rank();
    if (row_slot[r] == no_expert) return;
    const T* const from = x + row_slot[r] / active * width;
    T* const to = y + r * width;
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, width), [=](index d) { to[d] = from[d]; });
  }
};

/// out[t] (+)= sum_k weights[t, k] y[slot_row[t, k]], k ascending; without weights they are one.
template <class Execution, class T>
struct combine_token {
  using sum_type = accumulate_t<T>;
  static constexpr index strip = on_cores<Execution> ? 64 : 1;
  const T* y;
  const std::int32_t* slot_row;
  const sum_type* weights;
  T* out;
  index active;
  index width;
  bool accumulate;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index t = team.league_rank();
    team_each<Execution>(team, divide_up(width, strip), [=, *this](index s) {
      const index first = s * strip;
      const index count = smaller(strip, width - first);
      T* const to = out + t * width + first;
      sum_type sum[static_cast<std::size_t>(strip)] = {};
      if (accumulate) {
        for (index d = 0; d < count; ++d) sum[d] = static_cast<sum_type>(to[d]);
      }
      for (index k = 0; k < active; ++k) {
        const std::int32_t row = slot_row[t * active + k];
        if (row == no_expert) continue;
        const sum_type factor = weights == nullptr ? sum_type(1) : weights[t * active + k];
        const T* const from = y + row * width + first;
        for (index d = 0; d < count; ++d) sum[d] += factor * static_cast<sum_type>(from[d]);
      }
      for (index d = 0; d < count; ++d) to[d] = static_cast<T>(sum[d]);
    });
  }
};

}  // namespace esft::detail::kokkos
