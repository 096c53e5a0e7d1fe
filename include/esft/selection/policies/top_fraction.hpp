// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `top_fraction`: the same share of highest-scoring experts in every layer.

#include <esft/core/error.hpp>
#include <esft/selection/normalization.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/score_check.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Takes the whole part of fraction x E experts per layer, and at least one; also such without evidence if fewer have any.
/// The fraction is read as the decimal number with 9 places that it was meant to be, so 0.3 of 10 is 3.
/// @eq |E_s| = max(1, floor(fraction E))
/// @source MoE-Sieve (arXiv 2603.24044): a quarter of each layer's experts
class top_fraction {
 public:
  static constexpr std::string_view name = "fraction";
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 1> takes{"fraction"};

  /// @throws usage_error unless the fraction is in (0, 1]
  explicit top_fraction(double fraction = 0.25) : billionths_(std::llround(fraction * 1e9)) {
    if (!(fraction > 0 && fraction <= 1)) {
      throw usage_error("fraction: fraction = " + std::to_string(fraction) + " is not in (0, 1]; 0.25 takes a quarter of each layer");
    }
  }
  [[nodiscard]] static top_fraction from(const policy_arguments& given) { return top_fraction(given.fraction.value_or(0.25)); }

  /// @throws error (bad_input) for a broken table
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    expert_set selected;
    for (const auto& [which, layer] : table.layers) {
      std::vector<expert_index> order = evidence_order(layer);
      const std::int64_t count = static_cast<std::int64_t>(order.size()) * billionths_ / 1'000'000'000;
      order.resize(static_cast<std::size_t>(std::max<std::int64_t>(1, count)));
      selected.layers[which] = std::move(order);
    }
    return selected;
  }

 private:
  std::int64_t billionths_;
};

}  // namespace esft
