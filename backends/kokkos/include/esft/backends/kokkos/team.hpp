// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Loops of one team. On a core they are plain loops that the compiler makes into vectors; elsewhere the team's threads share them.

#include <esft/backends/kokkos/space.hpp>

namespace esft::detail::kokkos {

/// Partial sums side by side, so that a sum of floats, whose order is fixed, still becomes vectors.
inline constexpr int partial_sums = 16;

template <class Execution, class Team, class Body>
KOKKOS_INLINE_FUNCTION void team_each(const Team& team, index count, const Body& body) {
  if constexpr (on_cores<Execution>) {
    for (index i = 0; i < count; ++i) body(i);
  } else {
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, count), body);
  }
}

/// Sum of term(i), known to all of the team.
template <class A, class Execution, class Team, class Term>
KOKKOS_INLINE_FUNCTION A team_sum(const Team& team, index count, const Term& term) {
  if constexpr (on_cores<Execution>) {
    A part[partial_sums] = {};
    index i = 0;
    for (; i + partial_sums <= count; i += partial_sums) {
      for (int j = 0; j < partial_sums; ++j) part[j] += term(i + j);
    }
    for (int j = 0; i < count; ++i, ++j) part[j] += term(i);
    for (int width = partial_sums / 2; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) part[j] += part[j + width];
    }
    return part[0];
  } else {
    A sum{};
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(team, count), [&](index i, A& s) { s += term(i); }, sum);
    team.team_barrier();
    return sum;
  }
}

/// Largest of least and the values that are numbers, known to all of the team.
template <class A, class Execution, class Team, class Value>
KOKKOS_INLINE_FUNCTION A team_largest(const Team& team, index count, A least, const Value& value) {
  if constexpr (on_cores<Execution>) {
    A part[partial_sums];
    for (A& p : part) p = least;
    index i = 0;
    for (; i + partial_sums <= count; i += partial_sums) {
      for (int j = 0; j < partial_sums; ++j) part[j] = larger(part[j], value(i + j));
    }
    for (int j = 0; i < count; ++i, ++j) part[j] = larger(part[j], value(i));
    for (int j = 1; j < partial_sums; ++j) part[0] = larger(part[0], part[j]);
    return part[0];
  } else {
    A result = least;
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(team, count), [&](index i, A& r) { r = larger(r, value(i)); }, Kokkos::Max<A>(result));
    team.team_barrier();
    // Kokkos begins at the lowest finite number; where nothing is above it, only a value that is that number itself counts.
    constexpr A lowest = Kokkos::reduction_identity<A>::max();
    if (result > lowest) return larger(result, least);
    int some = 0;
    Kokkos::parallel_reduce(
        Kokkos::TeamVectorRange(team, count), [&](index i, int& s) { s = value(i) >= lowest ? 1 : s; }, Kokkos::Max<int>(some));
    team.team_barrier();
    return some == 1 ? larger(lowest, least) : least;
  }
}

/// One thread of a team shares its vector lanes: items of the team, each a sum over `width` terms, are stored by `store(item, sum)`.
template <class A, class Execution, class Team, class Term, class Store>
KOKKOS_INLINE_FUNCTION void team_sums(const Team& team, index items, index width, const Term& term, const Store& store) {
  if constexpr (on_cores<Execution>) {
    for (index item = 0; item < items; ++item) {
      store(item, team_sum<A, Execution>(team, width, [&](index i) { return term(item, i); }));
    }
  } else {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, items), [&](index item) {
      A sum{};
      Kokkos::parallel_reduce(
          Kokkos::ThreadVectorRange(team, width), [&](index i, A& s) { s += term(item, i); }, sum);
      Kokkos::single(Kokkos::PerThread(team), [&] { store(item, sum); });
    });
    team.team_barrier();
  }
}

}  // namespace esft::detail::kokkos
