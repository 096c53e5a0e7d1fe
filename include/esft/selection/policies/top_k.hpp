// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `top_k`: the same number of highest-scoring experts in every layer.

#include <esft/core/error.hpp>
#include <esft/selection/normalization.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/score_check.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Takes exactly k experts per layer, also such without evidence if fewer have any. A control beside `top_p`, and the rule of MoE-Sieve.
/// @source MoE-Sieve (arXiv 2603.24044): the quarter of each layer's experts that most tokens are routed to
class top_k {
 public:
  static constexpr std::string_view name = "top-k";
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 1> takes{"k"};

  /// @throws usage_error unless k >= 1
  explicit top_k(int k = 1) : k_(k) {
    if (k < 1) throw usage_error("top-k: k = " + std::to_string(k) + " selects nothing; give at least 1");
  }
  [[nodiscard]] static top_k from(const policy_arguments& given) { return top_k(given.k.value_or(1)); }

  /// @throws error (bad_input) for a broken table; usage_error if a layer has fewer than k experts
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    expert_set selected;
    for (const auto& [which, layer] : table.layers) {
      if (static_cast<std::size_t>(k_) > layer.scores.size()) {
        throw usage_error("top-k: k = " + std::to_string(k_) + " but layer " + std::to_string(which.value) + " has only " +
                          std::to_string(layer.scores.size()) + " experts; give a smaller k");
      }
      std::vector<expert_index> order = evidence_order(layer);
      order.resize(static_cast<std::size_t>(k_));
      selected.layers[which] = std::move(order);
    }
    return selected;
  }

 private:
  int k_;
};

}  // namespace esft
