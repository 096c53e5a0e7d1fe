// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `top_p_groups`: `top_p` over groups of neighbouring experts, for models whose tokens take groups as a whole.

#include <esft/core/error.hpp>
#include <esft/selection/policies/top_p.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// A group scores the sum of its experts, and is selected with all of them. Where the size does not divide E the last group is smaller.
/// @source arXiv 2407.01906, appendix B: relevance is of groups there; the sum is ours (its mean gives the same order)
class top_p_groups {
 public:
  static constexpr std::string_view name = "top-p-groups";
  static constexpr bool compares_p = true;
  static constexpr std::array<std::string_view, 6> takes{"group", "p", "mode", "normalization", "min-experts", "max-experts"};

  /// @throws usage_error unless the size of a group is positive, and for options of top-p that mean nothing; those count groups here
  explicit top_p_groups(int size, top_p_options options = {}) : size_(static_cast<std::size_t>(std::max(size, 0))), groups_(options) {
    if (size < 1) throw usage_error("top-p-groups: group = " + std::to_string(size) + " is no number of experts that are bound together");
  }
  [[nodiscard]] static top_p_groups from(const policy_arguments& given) {
    const int size = required(given.group, name, "group", "how many neighbouring experts are bound together");
    return top_p_groups(size, top_p::from(given).options());
  }

  /// @throws error (bad_input) as `top_p` does
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    expert_set selected;
    for (const auto& [layer, chosen] : groups_.select(grouped(table)).layers) {
      const std::size_t experts = table.layers.at(layer).scores.size();
      for (const expert_index group : chosen) {
        const std::size_t first = static_cast<std::size_t>(group.value) * size_;
        for (std::size_t e = first; e < std::min(first + size_, experts); ++e)
          selected.layers[layer].emplace_back(static_cast<std::int32_t>(e));
      }
    }
    return selected;
  }

 private:
  [[nodiscard]] score_table grouped(const score_table& table) const {
    score_table result;
    result.tokens = table.tokens;
    for (const auto& [which, from] : table.layers) {
      layer_scores& to = result.layers[which];
      const std::size_t groups = (from.scores.size() + size_ - 1) / size_;
      to.scores.assign(groups, 0);
      to.counts.assign(from.counts.empty() ? 0 : groups, 0);
      to.total_count = from.total_count;
      for (std::size_t e = 0; e < from.scores.size(); ++e) to.scores[e / size_] += from.scores[e];
      for (std::size_t e = 0; e < from.counts.size(); ++e) to.counts[e / size_] += from.counts[e];
    }
    return result;
  }

  std::size_t size_;
  top_p groups_;
};

}  // namespace esft
