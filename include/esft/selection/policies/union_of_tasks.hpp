// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `union_of_tasks`: the experts that any of several selections names, usually one for each task.

#include <esft/selection/like_check.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>

#include <array>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// One adapter for several tasks: every expert that one of them needs.
/// The table's scores decide only the order in which the experts are listed.
class union_of_tasks {
 public:
  static constexpr std::string_view name = "union";
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 1> takes{"like"};

  explicit union_of_tasks(std::vector<expert_set> others = {}) : others_(std::move(others)) {}
  [[nodiscard]] static union_of_tasks from(const policy_arguments& given) { return union_of_tasks(given.like); }

  /// @throws error (bad_input) for a broken table; usage_error without any selection, or if one is of another model
  [[nodiscard]] expert_set select(const score_table& table) const { return named_by(name, others_, 1, table); }

 private:
  std::vector<expert_set> others_;
};

}  // namespace esft
