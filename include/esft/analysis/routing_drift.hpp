// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `routing_drift`: how far training moved the decisions of routers, frozen ones included, since what they read moves.

#include <esft/core/contract.hpp>
#include <esft/core/routing_record.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace esft {

/// Drift of one layer over the tokens that were routed by both models.
struct layer_drift {
  std::int64_t tokens = 0;
  double kept = 0;          ///< share of the chosen experts that their tokens still choose; 1: none was given up
  double unchanged = 0;     ///< share of the tokens that choose the same set
  double weight_moved = 0;  ///< sum over experts of the change of a token's gate weight in magnitude, mean over tokens
  double load_moved = 0;    ///< share of all slots that would have to move for the loads to be the same: total variation
};

/// Streaming comparison of two models' routing of the same tokens, one pair of records per layer and batch. Padding and empty slots do not
/// count.
class routing_drift {
 public:
  /// @pre both records are of the same layer, E, K and samples, and ids of real tokens are in range
  void observe(const routing_record& before, const routing_record& after) {
    ESFT_EXPECTS(before.layer == after.layer && before.experts == after.experts && before.active == after.active,
                 "both records are of the same layer of one model");
    ESFT_EXPECTS(before.active > 0 && before.ids.size() == after.ids.size() && before.weights.size() == before.ids.size() &&
                     after.weights.size() == after.ids.size(),
                 "both records are of the same tokens");
    ESFT_EXPECTS(std::equal(before.sample.begin(), before.sample.end(), after.sample.begin(), after.sample.end()),
                 "both records have the same padding");
    sums& layer = layers_[before.layer];
    const auto experts = static_cast<std::size_t>(before.experts);
    const auto active = static_cast<std::size_t>(before.active);
    layer.active = active;
    layer.load_change.resize(std::max(layer.load_change.size(), experts));
    std::vector<double> weight(experts);
    std::vector<int> chosen(experts);
    for (std::size_t row = 0; row < before.ids.size() / active; ++row) {
      if (!before.sample.empty() && before.sample[row] < 0) continue;
      std::fill(weight.begin(), weight.end(), 0.0);
      std::fill(chosen.begin(), chosen.end(), 0);
      const auto add = [&](const routing_record& record, int sign) {
        for (std::size_t position = row * active; position < (row + 1) * active; ++position) {
          const std::int32_t id = record.ids[position];
          if (id == no_expert) continue;
          layer.filled += sign < 0 ? 1 : 0;
          ESFT_EXPECTS(id >= 0 && id < record.experts, "an expert id is in [0, E)");
          weight[static_cast<std::size_t>(id)] += sign * static_cast<double>(record.weights[position]);
          chosen[static_cast<std::size_t>(id)] += sign;
          layer.load_change[static_cast<std::size_t>(id)] += sign;
        }
      };
      add(before, -1);
      add(after, 1);
      bool same = true;
      for (std::size_t e = 0; e < experts; ++e) {
        layer.lost += chosen[e] < 0 ? 1 : 0;
        same = same && chosen[e] == 0;
        layer.weight_moved += std::abs(weight[e]);
      }
      layer.unchanged += same ? 1 : 0;
      ++layer.tokens;
    }
  }

  void merge(const routing_drift& other) {
    for (const auto& [index, from] : other.layers_) {
      sums& to = layers_[index];
      to.active = std::max(to.active, from.active);
      to.tokens += from.tokens;
      to.filled += from.filled;
      to.lost += from.lost;
      to.unchanged += from.unchanged;
      to.weight_moved += from.weight_moved;
      to.load_change.resize(std::max(to.load_change.size(), from.load_change.size()));
      for (std::size_t e = 0; e < from.load_change.size(); ++e) to.load_change[e] += from.load_change[e];
    }
  }

  /// Drift per layer; a layer that saw only padding has zero tokens and zeros.
  [[nodiscard]] std::map<layer_index, layer_drift> layers() const {
    std::map<layer_index, layer_drift> result;
    for (const auto& [index, layer] : layers_) {
      layer_drift& drift = result[index];
      if (layer.tokens == 0) continue;
      const auto tokens = static_cast<double>(layer.tokens);
      const double slots = tokens * static_cast<double>(layer.active);
      drift.tokens = layer.tokens;
      drift.kept = layer.filled == 0 ? 1 : 1 - static_cast<double>(layer.lost) / static_cast<double>(layer.filled);
      drift.unchanged = static_cast<double>(layer.unchanged) / tokens;
      drift.weight_moved = layer.weight_moved / tokens;
      for (const std::int64_t change : layer.load_change) drift.load_moved += std::abs(static_cast<double>(change)) / (2 * slots);
    }
    return result;
  }

 private:
  struct sums {
    std::size_t active = 0;
    std::int64_t tokens = 0;
    std::int64_t filled = 0;     ///< slots that had an expert before
    std::int64_t lost = 0;       ///< of these, whose expert the token no longer chooses
    std::int64_t unchanged = 0;  ///< tokens with the same set
    double weight_moved = 0;
    std::vector<std::int64_t> load_change;  ///< @shape [E]
  };
  std::map<layer_index, sums> layers_;
};

}  // namespace esft
