// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which dimensions of a trained tensor moved further than clean data explain, and which of them to set back.
/// After Fine-purifying (Zhang et al., Findings of ACL 2023, arXiv 2305.04547), not the exact method: the indicator is a reconstruction.

#include <esft/core/contract.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

namespace esft {

/// Squared drift of each dimension over its empirical Fisher information on clean data. Noise of training on such data moves a dimension in
/// proportion to the information it carries, so the quotient is alike for all; one that something else moved stands out.
/// @shape all [n] @param epsilon added to the information; with 0, a dimension that moved and carries none is infinitely suspicious
/// @eq r_i = (now_i - base_i)^2 / (fisher_i + epsilon), 0 where nothing moved
[[nodiscard]] inline std::vector<double> drift_indicator(std::span<const float> base, std::span<const float> now,
                                                         std::span<const double> fisher, double epsilon) {
  ESFT_EXPECTS(base.size() == now.size() && base.size() == fisher.size(), "drift and information are of the same dimensions");
  ESFT_EXPECTS(epsilon >= 0, "epsilon is not negative");
  std::vector<double> result(base.size());
  for (std::size_t i = 0; i < base.size(); ++i) {
    const double moved = static_cast<double>(now[i]) - static_cast<double>(base[i]);
    const double information = fisher[i] + epsilon;
    if (moved != 0) result[i] = information > 0 ? moved * moved / information : std::numeric_limits<double>::infinity();
  }
  return result;
}

/// The floor(share * n) dimensions with the highest indicator, of equals the first; those that did not move are never among them.
/// @return indices, ascending
[[nodiscard]] inline std::vector<std::size_t> worst_dimensions(std::span<const double> indicator, double share) {
  ESFT_EXPECTS(share >= 0 && share <= 1, "a share is between 0 and 1");
  const auto count = static_cast<std::size_t>(std::floor(share * static_cast<double>(indicator.size())));
  std::vector<std::size_t> order(indicator.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto worse = [&](std::size_t a, std::size_t b) { return indicator[a] != indicator[b] ? indicator[a] > indicator[b] : a < b; };
  std::nth_element(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), worse);
  order.resize(count);
  std::erase_if(order, [&](std::size_t i) { return indicator[i] == 0; });
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace esft
