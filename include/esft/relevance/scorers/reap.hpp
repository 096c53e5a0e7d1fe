// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `reap`: how much each expert adds to the layer, over the tokens that it was asked for.

#include <esft/relevance/routed_means.hpp>
#include <esft/relevance/scorer.hpp>

#include <cstddef>
#include <string_view>

namespace esft {

/// Mean over the routed tokens of gate weight times output norm: the length of what the layer would lose. The weights are made to sum to 1
/// over the chosen experts of a token first, so the score means the same for routers that renormalise and those that do not.
/// Made for pruning; as a selector it asks which experts the task cannot spare. 0 for an expert never chosen.
/// @eq S_e = (1/|T_e|) sum_{t in T_e} g'_{t,e} |E_e(x_t)|, g'_{t,e} = g_{t,e} / sum_{i in top-K(t)} g_{t,i}
/// @source REAP (arXiv 2510.13999), with the renormalisation that its code added later
class reap {
 public:
  static constexpr std::string_view name = "reap";

  /// @throws usage_error for the per-sample mean
  explicit reap(scorer_options options = {}) { require_pooled(name, options); }

  /// @throws whatever `check_record` throws; nothing was changed then
  void observe(const expert_output_record& record) {
    means_.observe(record, [&](std::size_t position) {
      return share_of_token(record.routing, position) * static_cast<double>(record.norms[position]);
    });
  }
  void merge(const reap& other) { means_.merge(other.means_); }
  /// @throws error (bad_input) if a layer observed no real token
  [[nodiscard]] score_table scores() const { return means_.scores(); }

 private:
  routed_means means_;
};

}  // namespace esft
