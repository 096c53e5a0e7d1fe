// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Cross-entropy in place, and sums in an order that nothing but their length decides.

#include <esft/backend/backend.hpp>
#include <esft/backends/kokkos/context.hpp>
#include <esft/backends/kokkos/team.hpp>
#include <esft/core/token_batch.hpp>

#include <limits>

namespace esft::detail::kokkos {

/// One row: its loss to `losses`, its logits become scale * (softmax - onehot).
template <class Execution, class A>
struct cross_entropy_row {
  A* logits;
  const std::int32_t* labels;
  double* losses;
  index vocabulary;
  A scale;
  int* bad;
  int mark_of_bad;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index t = team.league_rank();
    A* const row = logits + t * vocabulary;
    const std::int32_t label = labels[t];
    const bool counts = label >= 0 && label < vocabulary;
    if (!counts) {
      if (label != ignored_label) leave_mark(bad, mark_of_bad);
      team_each<Execution>(team, vocabulary, [=](index v) { row[v] = A{}; });
      Kokkos::single(Kokkos::PerTeam(team), [=, *this] { losses[t] = 0; });
      return;
    }
    const A peak = team_largest<A, Execution>(team, vocabulary, -std::numeric_limits<A>::infinity(), [=](index v) { return row[v]; });
    const A total = team_sum<A, Execution>(team, vocabulary, [=](index v) { return exponential(row[v] - peak); });
    const A lse = peak + log(total);
    const A own = row[label];
    team.team_barrier();  // everybody has read the label's logit before it changes
    const A factor = scale;
    team_each<Execution>(team, vocabulary, [=](index v) { row[v] = factor * (exponential(row[v] - lse) - (v == label ? A(1) : A(0))); });
    Kokkos::single(Kokkos::PerTeam(team), [=, *this] { losses[t] = static_cast<double>(lse - own); });
  }
};

/// Elements that one team adds up.
inline constexpr index terms_of_a_part = 8192;

/// parts[p] = sum of the p-th few thousand terms, or of their squares.
template <class Execution, class A, bool Squares>
struct sum_part {
  const A* terms;
  double* parts;
  index count;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index p = team.league_rank();
    const A* const from = terms + p * terms_of_a_part;
    const double sum = team_sum<double, Execution>(team, smaller(terms_of_a_part, count - p * terms_of_a_part), [=](index i) {
      const auto x = static_cast<double>(from[i]);
      return Squares ? x * x : x;
    });
    Kokkos::single(Kokkos::PerTeam(team), [=, *this] { parts[p] = sum; });
  }
};

/// total = the sum of all parts, in their order.
struct sum_of_parts {
  const double* parts;
  double* total;
  index count;
  KOKKOS_FUNCTION void operator()(index) const {
    double sum = 0;
    for (index p = 0; p < count; ++p) sum += parts[p];
    *total = sum;
  }
};

}  // namespace esft::detail::kokkos
