// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Where low-rank experts are put: more of them (or of their rank) the higher the layer, or the worse its weights are trained.

#include <esft/peft/low_rank_layers.hpp>

#include <cmath>
#include <limits>
#include <numeric>
#include <span>

namespace esft {

/// Numbers from `least` to `most`, never falling from bottom to top, as close to proportional to the depth as a budget allows: each round
/// raises the layer that lies furthest below n ~ l + 1, the upper one of two, while neither order nor budget is broken.
/// Laws: monotone; the costs add up to at most the budget; no single number could be one higher.
/// @param cost elements of layer l for the number n, rising in n
/// @throws usage_error when the budget does not pay for `least` everywhere
/// @source ours: HiLo (arXiv 2502.03884) says that numbers and ranks rise with depth and gives 2468, not how others are found
template <class Cost>
[[nodiscard]] layer_pattern grow_with_depth(std::size_t layers, std::int64_t least, std::int64_t most, std::int64_t budget,
                                            const Cost& cost) {
  layer_pattern n(layers, least);
  std::int64_t spent = 0;
  for (std::size_t l = 0; l < layers; ++l) spent += cost(l, least);
  if (spent > budget) {
    throw usage_error("a budget of " + std::to_string(budget) + " parameters is too small: " + std::to_string(least) +
                      " in every layer cost " + std::to_string(spent));
  }
  while (true) {
    std::size_t best = layers;
    for (std::size_t l = 0; l < layers; ++l) {
      const bool may_rise = n[l] < most && (l + 1 == layers || n[l] < n[l + 1]);
      if (!may_rise || spent + cost(l, n[l] + 1) - cost(l, n[l]) > budget) continue;
      const bool further = best == layers || n[l] * static_cast<std::int64_t>(best + 1) <= n[best] * static_cast<std::int64_t>(l + 1);
      if (further) best = l;
    }
    if (best == layers) return n;
    spent += cost(best, n[best] + 1) - cost(best, n[best]);
    ++n[best];
  }
}

/// Exponent of the tail of a spectrum: small where a few directions carry the matrix, as training makes them.
/// @eq 1 + k / sum of ln(lambda_{n-i+1} / lambda_{n-k}) over i = 1 .. k
/// @param ascending eigenvalues of W^T W in ascending order, the positive ones @param k 0: half of them
/// @return infinity where the k largest are equal, or there are fewer than two @source AlphaLoRA, arXiv 2410.10054; Hill's estimator
[[nodiscard]] inline double pl_alpha_hill(std::span<const double> ascending, std::size_t k = 0) {
  const std::size_t n = ascending.size();
  if (n < 2) return std::numeric_limits<double>::infinity();
  if (k == 0) k = n / 2;
  double sum = 0;
  for (std::size_t i = 1; i <= k; ++i) sum += std::log(ascending[n - i] / ascending[n - k - 1]);
  return 1 + static_cast<double>(k) / sum;
}

/// `total` low-rank experts over the layers, the more the larger a layer's metric: shares T phi^beta / sum phi^beta, rounded by largest
/// remainder (ties to the lower layer). A layer whose share rounds to none takes one from the layer that has most.
/// @throws usage_error for a metric that is not a positive number, or fewer experts than layers @source AlphaLoRA, arXiv 2410.10054
[[nodiscard]] inline layer_pattern allocate_by_quality(std::span<const double> metrics, double beta, std::int64_t total) {
  if (total < static_cast<std::int64_t>(metrics.size())) {
    throw usage_error("a total of " + std::to_string(total) + " low-rank experts leaves layers without any: there are " +
                      std::to_string(metrics.size()));
  }
  std::vector<double> powers;
  for (const double metric : metrics) {
    if (!(metric > 0) || !std::isfinite(metric))
      throw usage_error("the quality of a layer's weights is no positive number: choose other targets");
    powers.push_back(std::pow(metric, beta));
  }
  const double sum = std::accumulate(powers.begin(), powers.end(), 0.0);
  layer_pattern result;
  std::vector<double> remainders;
  for (const double power : powers) {
    const double share = static_cast<double>(total) * power / sum;
    result.push_back(static_cast<std::int64_t>(std::floor(share)));
    remainders.push_back(share - std::floor(share));
  }
  for (std::int64_t left = total - std::accumulate(result.begin(), result.end(), std::int64_t{0}); left > 0; --left) {
    const auto largest = std::max_element(remainders.begin(), remainders.end());
    ++result[static_cast<std::size_t>(largest - remainders.begin())];
    *largest = -1;
  }
  for (std::int64_t& number : result) {
    if (number > 0) continue;
    --*std::max_element(result.begin(), result.end());
    number = 1;
  }
  return result;
}

}  // namespace esft
