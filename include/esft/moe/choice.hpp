// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Choosing the best of a row of scores, in all experts or in the best groups of them: without memory of its own, for any bit pattern.

#include <esft/core/config.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/core/shape.hpp>

#include <cmath>
#include <cstdint>

namespace esft {

/// By what a group of experts is ranked.
enum class group_rank : std::uint8_t {
  largest,         ///< its best expert @source DeepSeek-V2, arXiv 2405.04434, section 2.2.2
  sum_of_two_best  ///< its two best experts @source DeepSeek-V3, arXiv 2412.19437, section 2.1.2
};

/// Groups of neighbouring experts, of which a token may use the best ones. One group is no limit.
struct group_limit {
  index groups = 1;  ///< @pre divides the number of experts, at most 64
  index kept = 1;    ///< @pre 1 <= kept <= groups
  group_rank rank = group_rank::largest;
};

namespace detail {

/// s = softmax(z) of one row.
template <class A>
ESFT_HOST_DEVICE void softmax_row(const A* z, index count, A* s) {
  A peak = z[0];
  for (index e = 1; e < count; ++e) peak = z[e] > peak ? z[e] : peak;
  A total{};
  for (index e = 0; e < count; ++e) total += s[e] = std::exp(z[e] - peak);
  for (index e = 0; e < count; ++e) s[e] /= total;
}

/// Gate weights of the chosen experts of a row: scale s, or scale s / (tiny + the sum of the chosen s); 0 in empty slots.
/// @shape s [E], ids, weights [K]
template <class A>
ESFT_HOST_DEVICE void weigh_chosen(const A* s, const std::int32_t* ids, index active, bool normalise, A scale, A tiny, A* weights) {
  A sum = tiny;
  for (index k = 0; k < active; ++k) {
    if (ids[k] != no_expert) sum += s[ids[k]];
  }
  for (index k = 0; k < active; ++k) {
    weights[k] = ids[k] == no_expert ? A{} : scale * (normalise ? s[ids[k]] / sum : s[ids[k]]);
  }
}

/// Turns the gradient of s = softmax(z) into that of z. @eq dz_i = s_i (ds_i - sum_j s_j ds_j) @shape s, ds [E]
template <class A>
ESFT_HOST_DEVICE void softmax_gradient_row(const A* s, index count, A* ds) {
  A dot{};
  for (index e = 0; e < count; ++e) dot += s[e] * ds[e];
  for (index e = 0; e < count; ++e) ds[e] = s[e] * (ds[e] - dot);
}

/// Whether `score` goes before `best`: NaN goes last, ties stay.
template <class A>
ESFT_HOST_DEVICE constexpr bool goes_before(A score, A best) {
  return score > best || (best != best && score == score);
}

/// The K best of E by falling score, ties by rising id. @param score function of an expert @shape ids [K] @pre 1 <= K <= E
template <class Score>
ESFT_HOST_DEVICE void choose_top(const Score& score, index experts, std::int32_t* ids, index active) {
  for (index k = 0; k < active; ++k) {
    index best = -1;
    for (index e = 0; e < experts; ++e) {
      bool taken = false;
      for (index j = 0; j < k; ++j) taken = taken || ids[j] == e;
      if (!taken && (best < 0 || goes_before(score(e), score(best)))) best = e;
    }
    ids[k] = static_cast<std::int32_t>(best);
  }
}

/// The rank of a group of experts [begin, end).
template <class Score>
ESFT_HOST_DEVICE auto rank_of_group(const Score& score, index begin, index end, group_rank by) {
  auto first = score(begin);
  if (end - begin == 1) return first;
  auto second = score(begin + 1);
  if (goes_before(second, first)) {
    const auto swapped = first;
    first = second;
    second = swapped;
  }
  for (index e = begin + 2; e < end; ++e) {
    const auto here = score(e);
    if (goes_before(here, first)) {
      second = first;
      first = here;
    } else if (goes_before(here, second)) {
      second = here;
    }
  }
  return by == group_rank::largest ? first : first + second;
}

/// The best groups of a row, bit g for group g; ties go to the lower group.
template <class Score>
ESFT_HOST_DEVICE std::uint64_t best_groups(const Score& score, index experts, const group_limit& limit) {
  const index size = experts / limit.groups;
  std::uint64_t kept = 0;
  for (index k = 0; k < limit.kept; ++k) {
    index best = -1;
    decltype(score(0)) best_rank{};
    for (index g = 0; g < limit.groups; ++g) {
      if ((kept >> static_cast<unsigned>(g) & 1U) != 0) continue;
      const auto rank = rank_of_group(score, g * size, (g + 1) * size, limit.rank);
      if (best >= 0 && !goes_before(rank, best_rank)) continue;
      best = g;
      best_rank = rank;
    }
    kept |= std::uint64_t{1} << static_cast<unsigned>(best);
  }
  return kept;
}

/// The K best experts of a row when those outside the best groups score `excluded`.
template <class Score, class A>
ESFT_HOST_DEVICE void choose_in_groups(const Score& score, index experts, const group_limit& limit, A excluded, std::int32_t* ids,
                                       index active) {
  if (limit.groups == limit.kept) return choose_top(score, experts, ids, active);
  const std::uint64_t kept = best_groups(score, experts, limit);
  const index size = experts / limit.groups;
  const auto limited = [&](index e) { return (kept >> static_cast<unsigned>(e / size) & 1U) != 0 ? score(e) : excluded; };
  choose_top(limited, experts, ids, active);
}

}  // namespace detail
}  // namespace esft
