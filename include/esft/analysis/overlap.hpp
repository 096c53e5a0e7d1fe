// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How much two selections, or the top experts of two score tables, have in common.

#include <esft/core/contract.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/ranking.hpp>
#include <esft/core/score_table.hpp>

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <span>
#include <vector>

namespace esft {

/// Overlap of two selections in one layer.
struct layer_overlap {
  std::size_t shared = 0;  ///< experts in both
  std::size_t united = 0;  ///< experts in at least one
  /// Shared over united; two empty selections are equal, hence 1.
  [[nodiscard]] double jaccard() const noexcept { return united == 0 ? 1.0 : static_cast<double>(shared) / static_cast<double>(united); }
};

/// Overlap of two selections, per layer.
struct selection_overlap {
  std::map<layer_index, layer_overlap> layers;

  /// Mean number of shared experts per layer.
  [[nodiscard]] double mean_shared() const noexcept {
    double sum = 0;
    for (const auto& [index, layer] : layers) sum += static_cast<double>(layer.shared);
    return layers.empty() ? 0.0 : sum / static_cast<double>(layers.size());
  }
  /// Mean Jaccard index over layers.
  [[nodiscard]] double mean_jaccard() const noexcept {
    double sum = 0;
    for (const auto& [index, layer] : layers) sum += layer.jaccard();
    return layers.empty() ? 0.0 : sum / static_cast<double>(layers.size());
  }
};

/// Overlap of two selections of the same model. The order of selection does not matter.
/// @pre both name the same layers
[[nodiscard]] inline selection_overlap overlap(const expert_set& a, const expert_set& b) {
  ESFT_EXPECTS(a.layers.size() == b.layers.size(), "both selections name the same layers");
  selection_overlap result;
  for (const auto& [index, experts] : a.layers) {
    const auto other = b.layers.find(index);
    ESFT_EXPECTS(other != b.layers.end(), "both selections name the same layers");
    const std::set<expert_index> first(experts.begin(), experts.end());
    std::set<expert_index> both = first;
    both.insert(other->second.begin(), other->second.end());
    const std::set<expert_index> second(other->second.begin(), other->second.end());
    result.layers[index] = {first.size() + second.size() - both.size(), both.size()};
  }
  return result;
}

/// The k highest experts per layer, ties to the lower id; all of them where a layer has fewer than k.
[[nodiscard]] inline expert_set top_experts(const score_table& table, std::size_t k) {
  expert_set top;
  for (const auto& [index, layer] : table.layers) {
    auto order = descending_order(std::span<const double>(layer.scores));
    order.resize(std::min(k, order.size()));
    top.layers[index] = std::move(order);
  }
  return top;
}

/// Mean number of shared top-k experts per layer, for every pair of tables. The diagonal is k.
/// @pre all tables have the same layers
[[nodiscard]] inline std::vector<std::vector<double>> shared_top_experts(std::span<const score_table> tables, std::size_t k) {
  std::vector<expert_set> tops;
  for (const auto& table : tables) tops.push_back(top_experts(table, k));
  std::vector<std::vector<double>> matrix(tops.size(), std::vector<double>(tops.size()));
  for (std::size_t i = 0; i < tops.size(); ++i) {
    for (std::size_t j = 0; j < tops.size(); ++j) matrix[i][j] = overlap(tops[i], tops[j]).mean_shared();
  }
  return matrix;
}

/// Shared experts that two independent random choices of k out of E have on average.
/// @eq k^2 / E
[[nodiscard]] inline double shared_by_chance(std::size_t k, std::size_t experts) noexcept {
  return experts == 0 ? 0.0 : static_cast<double>(k) * static_cast<double>(k) / static_cast<double>(experts);
}

}  // namespace esft
