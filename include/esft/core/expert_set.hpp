// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `expert_set`: the selected experts of every MoE layer, in the order in which they were selected.

#include <esft/core/strong_index.hpp>

#include <cstddef>
#include <map>
#include <vector>

namespace esft {

/// Selected routed experts per layer. Every MoE layer has a key; an empty list is legal.
struct expert_set {
  std::map<layer_index, std::vector<expert_index>> layers;

  /// Selected experts over all layers.
  [[nodiscard]] std::size_t size() const noexcept {
    std::size_t count = 0;
    for (const auto& [layer, experts] : layers) count += experts.size();
    return count;
  }
  friend bool operator==(const expert_set&, const expert_set&) = default;
};

}  // namespace esft
