// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `condition_number`: how evenly the weights of an expert stretch space, without any data.

#include <esft/relevance/expert_means.hpp>
#include <esft/relevance/scorer.hpp>
#include <esft/relevance/singular_values.hpp>

#include <cmath>
#include <cstddef>
#include <string_view>

namespace esft {

/// The reciprocal condition number of the gate, up and down matrices, geometric mean: 1 for weights that stretch all directions alike,
/// 0 for singular ones. KappaTune trains the best conditioned matrices, so the score is the reciprocal: the highest are its choice.
/// A property of the model, the same for every task: a control for scores that need data. Scaling a matrix does not change it.
/// @eq c_e = (c(W_gate) c(W_up) c(W_down))^(1/3), c = 1 / kappa = sigma_min / sigma_max, 0 for a matrix of zeros
/// @source the KappaTune helper of Hugging Face PEFT, which takes the lowest sigma_max / (sigma_min + 1e-8)
/// @deviation KappaTune ranks matrices; joining the three of an expert by their geometric mean is ours
/// @cost about 200 D I min(D, I) flops per expert: seconds for a hundred experts a hundred wide, a day for thousands of experts a thousand wide
class condition_number {
 public:
  static constexpr std::string_view name = "condition";

  /// @throws usage_error for the per-sample mean
  explicit condition_number(scorer_options options = {}) { require_pooled(name, options); }

  /// @throws contract_violation, numerics_error; nothing was changed then
  void observe(const expert_weights_record& record) {
    check_record(record);
    const auto inner = static_cast<std::size_t>(record.inner);
    const auto width = static_cast<std::size_t>(record.width);
    const double gate = reciprocal_condition(record.gate_up.first(inner * width), inner, width);
    const double up = reciprocal_condition(record.gate_up.last(inner * width), inner, width);
    const double down = reciprocal_condition(record.down, width, inner);
    means_.add(record, std::cbrt(gate * up * down), 0);
  }
  void merge(const condition_number& other) { means_.merge(other.means_); }
  /// @throws error (bad_input) unless every expert was observed equally often
  [[nodiscard]] score_table scores() const { return means_.scores(); }

 private:
  expert_means means_;
};

}  // namespace esft
