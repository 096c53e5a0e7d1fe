// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `descending_order`: experts from the highest value to the lowest, equal values by ascending id.

#include <esft/core/strong_index.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace esft {

/// Expert ids sorted by falling `values`; a tie goes to the lower id, so the order is unique.
/// @pre no value is NaN
template <class T>
[[nodiscard]] std::vector<expert_index> descending_order(std::span<const T> values) {
  std::vector<std::int32_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  std::vector<expert_index> order;
  order.reserve(ids.size());
  for (const std::int32_t id : ids) order.emplace_back(id);
  return order;
}

}  // namespace esft
