// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `repeated_runs`: the runs of a comparison that differ by seed or draw only, as means with their spread.

#include <esft/analysis/comparison.hpp>
#include <esft/analysis/mean_and_spread.hpp>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace esft {

/// One arm at one learning rate. Means over a run that diverged are not finite.
struct repeated_run {
  std::string arm;
  double learning_rate = 0;
  std::vector<const arm_result*> runs;       ///< in their order; they belong to the comparison
  mean_spread task_loss, forgotten;          ///< @unit comparison::loss_unit
  std::optional<mean_spread> exact_match{};  ///< absent unless every run has it
  mean_spread trained_parameters, state_bytes, seconds_per_step;
};

/// Groups runs by arm and learning rate, in the order of their first runs.
/// @pre the comparison outlives the result
[[nodiscard]] inline std::vector<repeated_run> repeated_runs(const comparison& input) {
  std::vector<repeated_run> groups;
  std::map<std::pair<std::string, double>, std::size_t> place;
  for (const arm_result& run : input.arms) {
    const auto [found, fresh] = place.try_emplace({run.arm, run.learning_rate}, groups.size());
    if (fresh) groups.push_back({run.arm, run.learning_rate, {}, {}, {}, {}, {}, {}, {}});
    groups[found->second].runs.push_back(&run);
  }
  for (repeated_run& group : groups) {
    const auto over = [&](auto&& value) {
      std::vector<double> values;
      for (const arm_result* run : group.runs) values.push_back(value(*run));
      return mean_and_spread(values);
    };
    group.task_loss = over([](const arm_result& r) { return r.task_loss; });
    group.forgotten = over([](const arm_result& r) { return r.mean_forgotten(); });
    const mean_spread exact = over([](const arm_result& r) { return r.exact_match.value_or(std::numeric_limits<double>::quiet_NaN()); });
    if (!std::isnan(exact.mean)) group.exact_match = exact;
    group.trained_parameters = over([](const arm_result& r) { return static_cast<double>(r.trained_parameters); });
    group.state_bytes = over([](const arm_result& r) { return static_cast<double>(r.state_bytes); });
    group.seconds_per_step = over([](const arm_result& r) { return r.seconds_per_step; });
  }
  return groups;
}

}  // namespace esft
