// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// For ratios of two things that are timed in turns, so that a machine that slows down meanwhile slows both.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace esft::bench {

/// @unit seconds
template <class Call>
double seconds_of(Call&& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// @pre values is not empty
inline double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace esft::bench
