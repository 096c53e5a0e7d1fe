// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `output_norm`: how long the answers of each expert are, over the tokens that it was asked for.

#include <esft/relevance/routed_means.hpp>
#include <esft/relevance/scorer.hpp>

#include <cstddef>
#include <string_view>

namespace esft {

/// Mean L2 norm of the expert's output before its gate weight, over the tokens routed to it. It knows nothing of how often that happens:
/// an expert asked once may lead. 0 for one never asked.
/// @eq n_e = (1/|T_e|) sum_{t in T_e} |E_e(x_t)|
/// @source the EAN baseline of REAP (arXiv 2510.13999)
class output_norm {
 public:
  static constexpr std::string_view name = "output-norm";

  /// @throws usage_error for the per-sample mean
  explicit output_norm(scorer_options options = {}) { require_pooled(name, options); }

  /// @throws whatever `check_record` throws; nothing was changed then
  void observe(const expert_output_record& record) {
    means_.observe(record, [&](std::size_t position) { return static_cast<double>(record.norms[position]); });
  }
  void merge(const output_norm& other) { means_.merge(other.means_); }
  /// @throws error (bad_input) if a layer observed no real token
  [[nodiscard]] score_table scores() const { return means_.scores(); }

 private:
  routed_means means_;
};

}  // namespace esft
