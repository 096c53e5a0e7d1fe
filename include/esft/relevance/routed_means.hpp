// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `routed_means`: the mean of a value over the tokens that were routed to an expert, streaming and merged by addition.

#include <esft/core/error.hpp>
#include <esft/core/expert_records.hpp>
#include <esft/relevance/layer_sums.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace esft {

/// Refuses a record whose norms no forward pass could have given. Padding rows, and what belongs to an empty slot, may hold anything.
/// @throws contract_violation if the norms are not [T, K]; numerics_error for one that is not finite and >= 0; what `check_record` throws
inline void check_record(const expert_output_record& record) {
  check_record(record.routing);
  ESFT_EXPECTS(record.norms.size() == record.routing.ids.size(), "norms is [T, K] like ids");
  const auto active = static_cast<std::size_t>(record.routing.active);
  for (std::size_t position = 0; position < record.norms.size(); ++position) {
    const float norm = record.norms[position];
    if (sample_of(record.routing, position / active) < 0 || record.routing.ids[position] == no_expert) continue;
    if (std::isfinite(norm) && norm >= 0.0F) continue;
    throw numerics_error(detail::record_place(record.routing, position / active) + "the output of expert " +
                         std::to_string(record.routing.ids[position]) + " has norm " + std::to_string(norm) +
                         ", not a finite number >= 0; the forward pass that made it is broken, scores from it would mislead");
  }
}

/// Sum and number of a value per expert.
class routed_means {
 public:
  /// Adds a checked record; `value_of(position)` is the value of slot `position` of ids [T, K].
  template <class ValueOf>
  void observe(const expert_output_record& record, ValueOf&& value_of) {
    check_record(record);
    sums_.observe(record.routing, false, std::forward<ValueOf>(value_of));
    counts_.observe(record.routing, false, [](std::size_t) { return std::int64_t{1}; });
  }
  void merge(const routed_means& other) {
    sums_.merge(other.sums_);  // both refuse the same, so nothing is half merged
    counts_.merge(other.counts_);
  }
  /// 0 for an expert that was never chosen. @throws error (bad_input) if a layer observed no real token
  [[nodiscard]] score_table scores() const {
    score_table table;
    const auto& counts = counts_.complete();
    for (const auto& [which, layer] : sums_.complete()) {
      layer_scores& out = table.layers[which];
      for (std::size_t e = 0; e < layer.sum.size(); ++e) {
        const std::int64_t count = counts.at(which).sum[e];
        out.scores.push_back(count > 0 ? layer.sum[e] / static_cast<double>(count) : 0.0);
      }
      table.tokens = layer.tokens;
    }
    return table;
  }

 private:
  layer_sums<double> sums_;
  layer_sums<std::int64_t> counts_;
};

}  // namespace esft
