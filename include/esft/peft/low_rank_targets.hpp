// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Names of the matrices that low-rank factors can be put beside, for flags and messages.

#include <esft/core/error.hpp>
#include <esft/core/trainable_set.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// A name and the matrices that it stands for.
struct low_rank_target_name {
  std::string_view name;
  std::vector<parameter_role> roles;
  bool by_default = true;  ///< adapted where nothing is asked for: everything but routers, which stay as they are, and the head
};

/// Every matrix of a decoder but the embedding, which is a table of rows. Gate and up are one matrix.
[[nodiscard]] inline const std::vector<low_rank_target_name>& low_rank_target_names() {
  static const std::vector<low_rank_target_name> names{
      {"query", {parameter_role::query}},
      {"key", {parameter_role::key}},
      {"value", {parameter_role::value}},
      {"query_a", {parameter_role::query_a}},
      {"key_value_a", {parameter_role::key_value_a}},
      {"key_value_b", {parameter_role::key_value_b}},
      {"output", {parameter_role::attention_output}},
      {"dense", {parameter_role::dense_gate_up, parameter_role::dense_down}},
      {"shared", {parameter_role::shared_gate_up, parameter_role::shared_down}},
      {"experts", {parameter_role::expert_gate_up, parameter_role::expert_down}},
      {"experts_gate_up", {parameter_role::expert_gate_up}, false},
      {"experts_down", {parameter_role::expert_down}, false},
      {"shared_gate", {parameter_role::shared_gate}, false},
      {"router", {parameter_role::router}, false},
      {"head", {parameter_role::head}, false},
  };
  return names;
}

/// Whether a matrix gets factors where no targets are named.
[[nodiscard]] inline bool adapted_by_default(parameter_role role) {
  for (const low_rank_target_name& target : low_rank_target_names()) {
    for (const parameter_role one : target.roles) {
      if (one == role && target.by_default) return true;
    }
  }
  return false;
}

/// @throws usage_error when an option of factors is out of range
inline void expect_low_rank_options(const low_rank_options& how) {
  constexpr std::int64_t largest = 65536;  // wider than the matrices that factors stand beside
  if (how.rank < 1 || how.rank > largest) {
    throw usage_error("the rank of low-rank factors is at least 1 and at most " + std::to_string(largest));
  }
  if (!(how.dropout >= 0 && how.dropout < 1)) throw usage_error("dropout is a share: at least 0 and below 1");
  if (!(how.alpha > 0 && std::isfinite(how.alpha))) throw usage_error("alpha is a number above 0: at 0 the factors would add nothing");
}

/// The name by which a user would ask for a matrix.
[[nodiscard]] inline std::string low_rank_name_of(parameter_role role) {
  for (const low_rank_target_name& target : low_rank_target_names()) {
    for (const parameter_role one : target.roles) {
      if (one == role) return std::string(target.name);
    }
  }
  return "this parameter";
}

/// The matrices of attention, of whatever kind: a model has some of them.
[[nodiscard]] inline std::set<parameter_role> attention_roles() {
  return {parameter_role::query,   parameter_role::key,         parameter_role::value,       parameter_role::attention_output,
          parameter_role::query_a, parameter_role::key_value_a, parameter_role::key_value_b};
}

/// Roles of some names; "attention" stands for those that the model has of `attention_roles`.
/// @throws usage_error naming all names when one is unknown
[[nodiscard]] inline std::set<parameter_role> low_rank_roles(const std::vector<std::string>& names) {
  std::set<parameter_role> roles;
  const auto add = [&](std::string_view name) {
    for (const low_rank_target_name& target : low_rank_target_names()) {
      if (target.name != name) continue;
      roles.insert(target.roles.begin(), target.roles.end());
      return true;
    }
    return false;
  };
  for (const std::string& name : names) {
    if (name == "attention") {
      roles.merge(attention_roles());
    } else if (!add(name)) {
      std::string all = "attention";
      for (const low_rank_target_name& target : low_rank_target_names()) all += ", " + std::string(target.name);
      throw usage_error("no matrix is called '" + name + "': low-rank factors can be put beside " + all);
    }
  }
  return roles;
}

/// Targets that match nothing in the model unless a plan takes them out: all of them, but of all the matrices of attention, which the word
/// "attention" asks for, a model has only some.
[[nodiscard]] inline std::set<parameter_role> targets_to_match(std::set<parameter_role> targets) {
  const std::set<parameter_role> attention = attention_roles();
  if (std::includes(targets.begin(), targets.end(), attention.begin(), attention.end())) {
    for (const parameter_role role : attention) targets.erase(role);
  }
  return targets;
}
/// @throws usage_error when a target is left
inline void expect_matched(const std::set<parameter_role>& unmatched) {
  if (!unmatched.empty()) throw usage_error("the model has no matrix for the target '" + low_rank_name_of(*unmatched.begin()) + "'");
}

}  // namespace esft
