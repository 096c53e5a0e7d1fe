// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `gradient_magnitude`: the mean magnitude of the gradient of an expert's weights.

#include <esft/relevance/expert_means.hpp>
#include <esft/relevance/scorer.hpp>

#include <cmath>
#include <string_view>

namespace esft {

/// How much training would move an expert at first. Less dominated by a few large gradients than `fisher`.
/// @eq G_e = mean over passes of (1/|e|) sum_{w in e} |dL/dw|
/// @source the ranking in the code of "Less is MoE" (arXiv 2606.05538), here over whole experts
class gradient_magnitude {
 public:
  static constexpr std::string_view name = "gradient";

  /// Every backward pass weighs the same, however many tokens it learned. @throws usage_error for the per-sample mean
  explicit gradient_magnitude(scorer_options options = {}) { require_pooled(name, options); }

  /// @throws contract_violation, numerics_error; nothing was changed then
  void observe(const expert_gradient_record& record) {
    check_record(record);
    means_.add(record.weights, sum_over_weights(record, [](double, double g) { return std::abs(g); }) / weight_count(record),
               record.tokens);
  }
  void merge(const gradient_magnitude& other) { means_.merge(other.means_); }
  /// @throws error (bad_input) unless every expert was observed equally often
  [[nodiscard]] score_table scores() const { return means_.scores(); }

 private:
  expert_means means_;
};

}  // namespace esft
