// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `taylor`: how much the loss would change, to first order, if an expert were gone.

#include <esft/relevance/expert_means.hpp>
#include <esft/relevance/scorer.hpp>

#include <cmath>
#include <string_view>

namespace esft {

/// The absolute first-order change of the loss when all weights of an expert go to 0, averaged over backward passes.
/// Small passes say more: inside one pass contributions of opposite sign cancel.
/// @eq S_e = mean over passes of |sum_{w in e} w dL/dw|
/// @source P. Molchanov et al., "Importance Estimation for Neural Network Pruning" (arXiv 1906.10771), first order, over a group of weights
class taylor {
 public:
  static constexpr std::string_view name = "taylor";

  /// Every backward pass weighs the same, however many tokens it learned. @throws usage_error for the per-sample mean
  explicit taylor(scorer_options options = {}) { require_pooled(name, options); }

  /// @throws contract_violation, numerics_error; nothing was changed then
  void observe(const expert_gradient_record& record) {
    check_record(record);
    means_.add(record.weights, std::abs(sum_over_weights(record, [](double w, double g) { return w * g; })), record.tokens);
  }
  void merge(const taylor& other) { means_.merge(other.means_); }
  /// @throws error (bad_input) unless every expert was observed equally often
  [[nodiscard]] score_table scores() const { return means_.scores(); }

 private:
  expert_means means_;
};

}  // namespace esft
