// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `intersection_of_tasks`: the experts that all of several selections name, usually one for each task.

#include <esft/selection/like_check.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>

#include <array>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// What several tasks have in common. A layer may end up empty, which a plan accepts.
/// The table's scores decide only the order in which the experts are listed.
class intersection_of_tasks {
 public:
  static constexpr std::string_view name = "intersection";
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 1> takes{"like"};

  explicit intersection_of_tasks(std::vector<expert_set> others = {}) : others_(std::move(others)) {}
  [[nodiscard]] static intersection_of_tasks from(const policy_arguments& given) { return intersection_of_tasks(given.like); }

  /// @throws error (bad_input) for a broken table; usage_error without any selection, or if one is of another model
  [[nodiscard]] expert_set select(const score_table& table) const { return named_by(name, others_, others_.size(), table); }

 private:
  std::vector<expert_set> others_;
};

}  // namespace esft
