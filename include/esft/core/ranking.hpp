// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `descending_order`, `ascending_order`: experts by value, equal values by ascending id.

#include <esft/core/strong_index.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace esft {

namespace detail {
template <class T, class Before>
std::vector<expert_index> ordered_by(std::span<const T> values, Before before) {
  std::vector<std::int32_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) {
    return before(values[static_cast<std::size_t>(a)], values[static_cast<std::size_t>(b)]);
  });
  std::vector<expert_index> order;
  order.reserve(ids.size());
  for (const std::int32_t id : ids) order.emplace_back(id);
  return order;
}
}  // namespace detail

/// Expert ids sorted by falling `values`; a tie goes to the lower id, so the order is unique.
/// @pre no value is NaN
template <class T>
[[nodiscard]] std::vector<expert_index> descending_order(std::span<const T> values) {
  return detail::ordered_by(values, [](const T& a, const T& b) { return a > b; });
}

/// Expert ids sorted by rising `values`; here too a tie goes to the lower id.
/// @pre no value is NaN
template <class T>
[[nodiscard]] std::vector<expert_index> ascending_order(std::span<const T> values) {
  return detail::ordered_by(values, [](const T& a, const T& b) { return a < b; });
}

}  // namespace esft
