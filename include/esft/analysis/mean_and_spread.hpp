// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `mean_and_spread`: the mean of runs that differ by a seed or a draw only, and how far they lie apart.

#include <cmath>
#include <cstddef>
#include <span>

namespace esft {

/// Mean and standard deviation of the sample. @unit that of the values
struct mean_spread {
  double mean = 0;
  double deviation = 0;   ///< divided by n - 1; 0 for a single value, which has none
  std::size_t count = 0;  ///< how many values
};

/// Adds in the order given, so equal input gives equal bits. A value that is not finite makes the mean so; nothing has the mean 0.
[[nodiscard]] inline mean_spread mean_and_spread(std::span<const double> values) {
  mean_spread result{0, 0, values.size()};
  for (const double value : values) result.mean += value / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  if (values.size() > 1) result.deviation = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return result;
}

}  // namespace esft
