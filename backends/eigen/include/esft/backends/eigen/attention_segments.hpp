// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Segments: queries and keys (documents) that have nothing to do with others, and the operands of the backward over them.

#include <esft/core/shape.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace esft::detail::eigen {

/// Queries [query_begin, query_end) that look at keys [key_begin, key_end) and at no others.
struct attention_segment {
  index query_begin, query_end, key_begin, key_end;
};

/// Splits the queries where their key ranges stop overlapping. If a later query returns to earlier keys, everything is one segment,
/// so the segments' key ranges are always disjoint.
inline std::vector<attention_segment> segments_of(const std::int32_t* key_begin, const std::int32_t* key_end, index queries) {
  std::vector<attention_segment> segments;
  for (index t = 0; t < queries; ++t) {
    const index begin = key_begin[t];
    const index end = std::max<index>(begin, key_end[t]);
    if (segments.empty()) {
      segments.push_back({0, 1, begin, end});
      continue;
    }
    attention_segment& last = segments.back();
    const bool last_empty = last.key_begin == last.key_end;
    if (begin == end || last_empty || (begin < last.key_end && last.key_begin < end)) {
      last.query_end = t + 1;
      if (begin == end) continue;
      last.key_begin = last_empty ? begin : std::min(last.key_begin, begin);
      last.key_end = last_empty ? end : std::max(last.key_end, end);
    } else {
      segments.push_back({t, t + 1, begin, end});
    }
  }
  std::vector<attention_segment> by_key = segments;
  std::sort(by_key.begin(), by_key.end(), [](const auto& a, const auto& b) { return a.key_begin < b.key_begin; });
  for (std::size_t i = 1; i < by_key.size(); ++i) {
    if (by_key[i].key_begin >= by_key[i - 1].key_end) continue;
    attention_segment all{0, queries, by_key.front().key_begin, 0};
    for (const attention_segment& s : by_key) all.key_end = std::max(all.key_end, s.key_end);
    return {all};
  }
  return segments;
}

/// Operands of the backward. @shape q, o, d_o, dq [T, H, F], k, v, dk, dv [S, G, F], lse [T, H]
template <class T>
struct attention_gradients {
  const T *q, *k, *v, *o;
  const float* lse;
  const T* d_o;
  const std::int32_t *key_begin, *key_end;
  T *dq, *dk, *dv;
};

}  // namespace esft::detail::eigen
