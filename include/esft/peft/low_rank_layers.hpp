// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Numbers that differ from layer to layer: how a short pattern covers the layers, its named shapes, and what low-rank experts cost there.

#include <esft/core/error.hpp>
#include <esft/peft/low_rank_targets.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// One number for each of some equal stretches of layers, bottom to top; one for each layer where there are as many as layers.
using layer_pattern = std::vector<std::int64_t>;

/// A shape under the name that its source gives it.
struct named_layer_pattern {
  std::string_view name;
  std::array<std::int64_t, 4> numbers;
};
/// Numbers of low-rank experts in four quarters of the layers, 20 together. @source MoLA, arXiv 2402.08562, which finds the second best
[[nodiscard]] inline const std::array<named_layer_pattern, 4>& mola_patterns() {
  static constexpr std::array<named_layer_pattern, 4> shapes{{{"triangle", {8, 6, 4, 2}},
                                                              {"inverted-triangle", {2, 4, 6, 8}},
                                                              {"hourglass", {8, 2, 2, 8}},
                                                              {"rectangle", {5, 5, 5, 5}}}};
  return shapes;
}

/// "8,8,4,4" -> {8, 8, 4, 4}; "2468" and any other text of four digits and more are read digit by digit; "hourglass" is MoLA's.
/// @throws usage_error for anything else, and for a number below 1
[[nodiscard]] inline layer_pattern parse_layer_pattern(std::string_view text) {
  for (const named_layer_pattern& shape : mola_patterns()) {
    if (shape.name == text) return {shape.numbers.begin(), shape.numbers.end()};
  }
  layer_pattern result;
  const auto refuse = [&] {
    return usage_error("'" + std::string(text) +
                       "' is no pattern over the layers: give numbers from 1 on, bottom to top, such as 2,4,6,8 or 2468, or triangle, "
                       "inverted-triangle, hourglass, rectangle");
  };
  const auto add = [&](std::string_view part) {
    std::int64_t value = 0;
    const auto [end, problem] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (problem != std::errc{} || end != part.data() + part.size() || value < 1 || value > 1'000'000) throw refuse();
    result.push_back(value);
  };
  if (text.find(',') == std::string_view::npos && text.size() >= 4) {
    for (std::size_t i = 0; i < text.size(); ++i) add(text.substr(i, 1));
    return result;
  }
  while (true) {
    const std::size_t comma = text.find(',');
    add(text.substr(0, comma));
    if (comma == std::string_view::npos) return result;
    text.remove_prefix(comma + 1);
  }
}

/// The number of each of L layers: layer l has entry floor(l n / L) of n.
/// @throws usage_error for a pattern without numbers, or with more of them than there are layers
[[nodiscard]] inline layer_pattern spread(const layer_pattern& pattern, std::size_t layers) {
  if (pattern.empty()) throw usage_error("a pattern over the layers has at least one number");
  if (pattern.size() > layers) {
    throw usage_error("a pattern of " + std::to_string(pattern.size()) + " numbers is too fine for a model of " + std::to_string(layers) +
                      " layers: some of them would belong to no layer");
  }
  layer_pattern result;
  for (std::size_t l = 0; l < layers; ++l) result.push_back(pattern[l * pattern.size() / layers]);
  return result;
}

/// The matrices of one layer that low-rank experts stand beside, as far as their cost goes.
struct low_rank_extent {
  std::int64_t both = 0;     ///< sum of rows + columns
  std::int64_t columns = 0;  ///< sum of columns

  /// @eq n r (rows + columns), and (n + nulls) columns for the router where there is a choice
  [[nodiscard]] std::int64_t elements(std::int64_t experts, std::int64_t rank, std::int64_t null_experts = 0) const {
    return experts * rank * both + (experts > 1 ? (experts + null_experts) * columns : 0);
  }
};

/// Number of layers of a model.
[[nodiscard]] inline std::size_t layer_count(const parameter_inventory& model) {
  std::int32_t highest = -1;
  for (const parameter_entry& entry : model) highest = std::max(highest, entry.key.layer.value);
  return static_cast<std::size_t>(highest + 1);
}

/// Whether low-rank experts may stand beside a matrix, and do where no targets are named. Routed experts are a mixture themselves.
[[nodiscard]] inline bool takes_low_rank_experts(parameter_role role) {
  const bool routed = role == parameter_role::expert_gate_up || role == parameter_role::expert_down;
  return !routed && adapted_by_default(role);
}

/// What the target matrices of each layer add up to. @param targets empty: all that can have low-rank experts
[[nodiscard]] inline std::vector<low_rank_extent> low_rank_extents(const parameter_inventory& model,
                                                                   const std::set<parameter_role>& targets) {
  std::vector<low_rank_extent> result(layer_count(model));
  for (const parameter_entry& entry : model) {
    const bool wanted = targets.empty() ? takes_low_rank_experts(entry.key.role) : targets.contains(entry.key.role);
    if (!wanted || entry.key.layer.value < 0 || entry.experts > 0) continue;
    low_rank_extent& here = result[static_cast<std::size_t>(entry.key.layer.value)];
    here.both += entry.rows + entry.columns;
    here.columns += entry.columns;
  }
  return result;
}

}  // namespace esft
