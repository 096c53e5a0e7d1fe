// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `fisher`: the mean squared gradient of an expert's weights, the diagonal of the empirical Fisher information.

#include <esft/relevance/expert_means.hpp>
#include <esft/relevance/scorer.hpp>

#include <string_view>

namespace esft {

/// How sharply the loss depends on an expert. It is the empirical Fisher information where a pass holds one sample; with more samples in a
/// pass it is the square of their mean gradient, which is smaller where they disagree.
/// @eq F_e = mean over passes of (1/|e|) sum_{w in e} (dL/dw)^2
/// @source J. Kirkpatrick et al. (arXiv 1612.00796) for the use of the diagonal
class fisher {
 public:
  static constexpr std::string_view name = "fisher";

  /// Every backward pass weighs the same, however many tokens it learned. @throws usage_error for the per-sample mean
  explicit fisher(scorer_options options = {}) { require_pooled(name, options); }

  /// @throws contract_violation, numerics_error; nothing was changed then
  void observe(const expert_gradient_record& record) {
    check_record(record);
    means_.add(record.weights, sum_over_weights(record, [](double, double g) { return g * g; }) / weight_count(record), record.tokens);
  }
  void merge(const fisher& other) { means_.merge(other.means_); }
  /// @throws error (bad_input) unless every expert was observed equally often
  [[nodiscard]] score_table scores() const { return means_.scores(); }

 private:
  expert_means means_;
};

}  // namespace esft
