// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Load statistics of a layer's experts: how even the routing is, and which experts are dead.

#include <esft/core/contract.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/core/score_table.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace esft {

/// How the evidence of one layer spreads over its experts.
struct load_statistics {
  double sum = 0;                  ///< sum of the scores; 1 for token scores
  double entropy = 0;              ///< of scores / sum @unit nats; ln E when perfectly even
  double evenness = 0;             ///< entropy / ln E, in [0, 1]; 1 for a single expert
  double largest_share = 0;        ///< share of the busiest expert
  double imbalance = 0;            ///< busiest over mean load; 1 when perfectly even
  std::vector<expert_index> dead;  ///< experts without any evidence, ascending
};

/// Statistics of non-negative loads or scores. All zero: everything is dead and every figure is 0.
[[nodiscard]] inline load_statistics statistics_of(std::span<const double> loads) {
  load_statistics result;
  double largest = 0;
  for (std::size_t e = 0; e < loads.size(); ++e) {
    ESFT_EXPECTS(loads[e] >= 0 && std::isfinite(loads[e]), "a load is finite and not negative");
    result.sum += loads[e];
    largest = std::max(largest, loads[e]);
    if (loads[e] == 0) result.dead.emplace_back(static_cast<std::int32_t>(e));
  }
  if (result.sum == 0) return result;
  for (const double load : loads) {
    if (load > 0) result.entropy -= load / result.sum * std::log(load / result.sum);
  }
  result.evenness = loads.size() < 2 ? 1.0 : result.entropy / std::log(static_cast<double>(loads.size()));
  result.largest_share = largest / result.sum;
  result.imbalance = result.largest_share * static_cast<double>(loads.size());
  return result;
}

/// Statistics of every layer of a score table.
[[nodiscard]] inline std::map<layer_index, load_statistics> statistics_of(const score_table& table) {
  std::map<layer_index, load_statistics> result;
  for (const auto& [index, layer] : table.layers) result[index] = statistics_of(std::span<const double>(layer.scores));
  return result;
}

/// Streaming count of routed slots per expert, for the load lines of a training log. Padding and empty slots do not count.
class load_counter {
 public:
  /// @pre ids of real tokens are in range
  void observe(const routing_record& record) {
    ESFT_EXPECTS(record.active > 0 && record.experts >= record.active, "K is between 1 and E");
    auto& loads = loads_[record.layer];
    loads.resize(std::max(loads.size(), static_cast<std::size_t>(record.experts)));
    const auto active = static_cast<std::size_t>(record.active);
    for (std::size_t position = 0; position < record.ids.size(); ++position) {
      if (!record.sample.empty() && record.sample[position / active] < 0) continue;
      const std::int32_t id = record.ids[position];
      if (id == no_expert) continue;
      ESFT_EXPECTS(id >= 0 && id < record.experts, "an expert id is in [0, E)");
      loads[static_cast<std::size_t>(id)] += 1.0;  // exact below 2^53
    }
  }
  /// @shape per layer [E]
  [[nodiscard]] const std::map<layer_index, std::vector<double>>& loads() const noexcept { return loads_; }
  [[nodiscard]] std::map<layer_index, load_statistics> statistics() const {
    std::map<layer_index, load_statistics> result;
    for (const auto& [index, loads] : loads_) result[index] = statistics_of(std::span<const double>(loads));
    return result;
  }

 private:
  std::map<layer_index, std::vector<double>> loads_;
};

}  // namespace esft
