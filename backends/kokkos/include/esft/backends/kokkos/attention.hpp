// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Attention over a key range per query with an online softmax, and its backward without atomics. Memory linear in the sequence.

#include <esft/backend/backend.hpp>
#include <esft/backends/kokkos/team.hpp>

#include <limits>

namespace esft::detail::kokkos {

/// Keys, or queries of the backward, that a team looks at together.
inline constexpr int attention_chunk = 64;

/// Extents and the ranges of keys; g = h / share.
struct attention_shape {
  const std::int32_t* key_begin;
  const std::int32_t* key_end;
  index queries;
  index heads;
  index keys;
  index groups;
  index width;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION index share() const { return heads / groups; }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index query(index t, index h) const { return (t * heads + h) * width; }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION index key(index s, index g) const { return (s * groups + g) * width; }
};

/// One query of one head. Team memory: scores of a chunk, then the output so far.
template <class Execution, class T>
struct attention_query {
  using sum_type = accumulate_t<T>;
  attention_shape shape;
  const T* q;
  const T* k;
  const T* v;
  T* o;
  sum_type* lse;
  sum_type scale;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION static constexpr std::size_t bytes(index width) {
    return sizeof(sum_type) * static_cast<std::size_t>(attention_chunk + width) + 128;
  }

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index t = team.league_rank() / shape.heads;
    const index h = team.league_rank() % shape.heads;
    const index g = h / shape.share();
    const index width = shape.width;
    auto* const scores = static_cast<sum_type*>(
        team.team_scratch(scratch_level<Execution>()).get_shmem_aligned(static_cast<std::ptrdiff_t>(bytes(width) - 64), 64));
    auto* const sums = scores + attention_chunk;
    const T* const query = q + shape.query(t, h);
    team_each<Execution>(team, width, [=](index f) { sums[f] = sum_type{}; });
    sum_type peak = -std::numeric_limits<sum_type>::infinity();
    sum_type total{};
    const index end = shape.key_end[t];
    for (index first = shape.key_begin[t]; first < end; first += attention_chunk) {
      const index count = smaller(index{attention_chunk}, end - first);
      const T* const keys = k + shape.key(first, g);
      const T* const values = v + shape.key(first, g);
      const index step = shape.groups * width;
      const sum_type by = scale;
      team_sums<sum_type, Execution>(
          team, count, width, [=](index s, index f) { return static_cast<sum_type>(query[f]) * static_cast<sum_type>(keys[s * step + f]); },
          [=](index s, sum_type sum) { scores[s] = by * sum; });
      const sum_type new_peak = team_largest<sum_type, Execution>(team, count, peak, [=](index s) { return scores[s]; });
      const sum_type shrink = first == shape.key_begin[t] ? sum_type(0) : exponential(peak - new_peak);
      team.team_barrier();
      team_each<Execution>(team, count, [=](index s) { scores[s] = exponential(scores[s] - new_peak); });
      team.team_barrier();
      total = total * shrink + team_sum<sum_type, Execution>(team, count, [=](index s) { return scores[s]; });
      if constexpr (on_cores<Execution>) {
        for (index f = 0; f < width; ++f) sums[f] *= shrink;
        for (index s = 0; s < count; ++s) {
          const sum_type p = scores[s];
          const T* const value = values + s * step;
          for (index f = 0; f < width; ++f) sums[f] += p * static_cast<sum_type>(value[f]);
        }
      } else {
        team_each<Execution>(team, width, [=](index f) {
          sum_type sum = sums[f] * shrink;
          for (index s = 0; s < count; ++s) sum += scores[s] * static_cast<sum_type>(values[s * step + f]);
          sums[f] = sum;
        });
      }
      peak = new_peak;
      team.team_barrier();
    }
    const bool sees = shape.key_begin[t] < end;
    T* const out = o + shape.query(t, h);
    team_each<Execution>(team, width, [=](index f) { out[f] = static_cast<T>(sees ? sums[f] / total : sum_type{}); });
    Kokkos::single(Kokkos::PerTeam(team), [=, *this] { lse[t * shape.heads + h] = sees ? peak + log(total) : peak; });
  }
};

/// pulls[t, h] = <d_o, o>
template <class Execution, class T>
struct attention_pull {
  using sum_type = accumulate_t<T>;
  const T* o;
  const T* d_o;
  sum_type* pulls;
  index width;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index at = team.league_rank();
    const T* const out = o + at * width;
    const T* const d_out = d_o + at * width;
    const sum_type sum = team_sum<sum_type, Execution>(
        team, width, [=](index f) { return static_cast<sum_type>(out[f]) * static_cast<sum_type>(d_out[f]); });
    Kokkos::single(Kokkos::PerTeam(team), [=, *this] { pulls[at] = sum; });
  }
};

/// What both halves of the backward read.
template <class T>
struct attention_saved {
  attention_shape shape;
  const T* q;
  const T* k;
  const T* v;
  const T* d_o;
  const accumulate_t<T>* lse;
  const accumulate_t<T>* pulls;
  accumulate_t<T> scale;
};

/// dq of one query of one head.
template <class Execution, class T>
struct attention_dq {
  using sum_type = accumulate_t<T>;
  attention_saved<T> in;
  T* dq;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION static constexpr std::size_t bytes(index width) {
    return sizeof(sum_type) * static_cast<std::size_t>(2 * attention_chunk + width) + 128;
  }

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const attention_shape& shape = in.shape;
    const index t = team.league_rank() / shape.heads;
    const index h = team.league_rank() % shape.heads;
    const index g = h / shape.share();
    const index width = shape.width;
    const index step = shape.groups * width;
    auto* const weights = static_cast<sum_type*>(
        team.team_scratch(scratch_level<Execution>()).get_shmem_aligned(static_cast<std::ptrdiff_t>(bytes(width) - 64), 64));
    auto* const slopes = weights + attention_chunk;
    auto* const sums = slopes + attention_chunk;
    const T* const query = in.q + shape.query(t, h);
    const T* const d_out = in.d_o + shape.query(t, h);
    const sum_type lse = in.lse[t * shape.heads + h];
    const sum_type pull = in.pulls[t * shape.heads + h];
    const sum_type scale = in.scale;
    team_each<Execution>(team, width, [=](index f) { sums[f] = sum_type{}; });
    team.team_barrier();
    const index end = shape.key_end[t];
    for (index first = shape.key_begin[t]; first < end; first += attention_chunk) {
      const index count = smaller(index{attention_chunk}, end - first);
      const T* const keys = in.k + shape.key(first, g);
      const T* const values = in.v + shape.key(first, g);
      team_sums<sum_type, Execution>(
          team, count, width, [=](index s, index f) { return static_cast<sum_type>(query[f]) * static_cast<sum_type>(keys[s * step + f]); },
          [=](index s, sum_type sum) { weights[s] = scale * sum; });
      team_sums<sum_type, Execution>(
          team, count, width,
          [=](index s, index f) { return static_cast<sum_type>(d_out[f]) * static_cast<sum_type>(values[s * step + f]); },
          [=](index s, sum_type sum) { slopes[s] = sum; });
      team_each<Execution>(team, count, [=](index s) { slopes[s] = scale * exponential(weights[s] - lse) * (slopes[s] - pull); });
      team.team_barrier();
      if constexpr (on_cores<Execution>) {
        for (index s = 0; s < count; ++s) {
          const sum_type slope = slopes[s];
          const T* const key = keys + s * step;
          for (index f = 0; f < width; ++f) sums[f] += slope * static_cast<sum_type>(key[f]);
        }
      } else {
        team_each<Execution>(team, width, [=](index f) {
          for (index s = 0; s < count; ++s) sums[f] += slopes[s] * static_cast<sum_type>(keys[s * step + f]);
        });
      }
      team.team_barrier();
    }
    T* const to = dq + shape.query(t, h);
    team_each<Execution>(team, width, [=](index f) { to[f] = static_cast<T>(sums[f]); });
  }
};

/// The queries among which those that see a key of a block are: [ranges[2b], ranges[2b + 1]).
struct attention_ranges {
  attention_shape shape;
  std::int32_t* ranges;
  KOKKOS_FUNCTION void operator()(index block) const {
    const index low = block * attention_chunk;
    const index high = smaller(low + attention_chunk, shape.keys);
    index first = shape.queries;
    index last = 0;
    for (index t = 0; t < shape.queries; ++t) {
      const bool sees = shape.key_begin[t] < high && shape.key_end[t] > low;
      first = sees && t < first ? t : first;
      last = sees ? t + 1 : last;
    }
    ranges[2 * block] = static_cast<std::int32_t>(first);
    ranges[2 * block + 1] = static_cast<std::int32_t>(last);
  }
};

/// dk and dv of one key of one group: sums over its heads and over the queries that see it, in their order.
template <class Execution, class T>
struct attention_dkv {
  using sum_type = accumulate_t<T>;
  attention_saved<T> in;
  const std::int32_t* ranges;
  T* dk;
  T* dv;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION static constexpr std::size_t bytes(index width) {
    return sizeof(sum_type) * static_cast<std::size_t>(2 * attention_chunk + 2 * width) + 128;
  }

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const attention_shape shape = in.shape;
    const index s = team.league_rank() / shape.groups;
    const index g = team.league_rank() % shape.groups;
    const index width = shape.width;
    const index step = shape.heads * width;
    auto* const weights = static_cast<sum_type*>(
        team.team_scratch(scratch_level<Execution>()).get_shmem_aligned(static_cast<std::ptrdiff_t>(bytes(width) - 64), 64));
    auto* const slopes = weights + attention_chunk;
    auto* const sums_k = slopes + attention_chunk;
    auto* const sums_v = sums_k + width;
    const T* const key = in.k + shape.key(s, g);
    const T* const value = in.v + shape.key(s, g);
    const sum_type scale = in.scale;
    team_each<Execution>(team, 2 * width, [=](index f) { sums_k[f] = sum_type{}; });
    team.team_barrier();
    const index last = ranges[2 * (s / attention_chunk) + 1];
    for (index h = g * shape.share(); h < (g + 1) * shape.share(); ++h) {
      for (index first = ranges[2 * (s / attention_chunk)]; first < last; first += attention_chunk) {
        const index count = smaller(index{attention_chunk}, last - first);
        const T* const queries = in.q + shape.query(first, h);
        const T* const d_outs = in.d_o + shape.query(first, h);
        const accumulate_t<T>* const lse = in.lse + first * shape.heads + h;
        const accumulate_t<T>* const pulls = in.pulls + first * shape.heads + h;
        team_sums<sum_type, Execution>(
            team, count, width,
            [=](index t, index f) { return static_cast<sum_type>(queries[t * step + f]) * static_cast<sum_type>(key[f]); },
            [=](index t, sum_type sum) { weights[t] = scale * sum; });
        team_sums<sum_type, Execution>(
            team, count, width,
            [=](index t, index f) { return static_cast<sum_type>(d_outs[t * step + f]) * static_cast<sum_type>(value[f]); },
            [=](index t, sum_type sum) { slopes[t] = sum; });
        team_each<Execution>(team, count, [=](index t) {
          const bool sees = shape.key_begin[first + t] <= s && s < shape.key_end[first + t];
          const sum_type p = sees ? exponential(weights[t] - lse[t * shape.heads]) : sum_type{};
          weights[t] = p;
          slopes[t] = sees ? scale * p * (slopes[t] - pulls[t * shape.heads]) : sum_type{};
        });
        team.team_barrier();
        if constexpr (on_cores<Execution>) {
          for (index t = 0; t < count; ++t) {
            const sum_type slope = slopes[t];
            const sum_type p = weights[t];
            if (p == sum_type{}) continue;
            for (index f = 0; f < width; ++f) sums_k[f] += slope * static_cast<sum_type>(queries[t * step + f]);
            for (index f = 0; f < width; ++f) sums_v[f] += p * static_cast<sum_type>(d_outs[t * step + f]);
          }
        } else {
          team_each<Execution>(team, width, [=](index f) {
            for (index t = 0; t < count; ++t) {
              if (weights[t] == sum_type{}) continue;  // of a query that does not see the key: whatever it holds
              sums_k[f] += slopes[t] * static_cast<sum_type>(queries[t * step + f]);
              sums_v[f] += weights[t] * static_cast<sum_type>(d_outs[t * step + f]);
            }
          });
        }
        team.team_barrier();
      }
    }
    T* const to_k = dk + shape.key(s, g);
    T* const to_v = dv + shape.key(s, g);
    team_each<Execution>(team, width, [=](index f) {
      to_k[f] = static_cast<T>(sums_k[f]);
      to_v[f] = static_cast<T>(sums_v[f]);
    });
  }
};

}  // namespace esft::detail::kokkos
