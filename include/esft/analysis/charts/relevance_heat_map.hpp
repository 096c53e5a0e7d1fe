// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Heat map of relevance: one row per layer, one cell per expert, selected cells outlined.

#include <esft/analysis/svg.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/score_table.hpp>

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>

namespace esft {

namespace detail {
/// Colour bar of the sequential ramp from 0 to `highest`, right-aligned at `right`.
inline void draw_ramp_legend(svg_writer& svg, double right, double y, double highest, int decimals, std::string_view unit) {
  const double step = 16;
  const double begin = right - step * static_cast<double>(theme::ramp.size());
  for (std::size_t i = 0; i < theme::ramp.size(); ++i) svg.box({begin + step * static_cast<double>(i), y}, step, 10, theme::ramp[i]);
  svg.outline({begin, y}, right - begin, 10, {theme::axis, 0.75});
  svg.text({begin - 6, y + 9}, std::string(unit) + "  0", {theme::muted, 11, anchor::end});
  svg.text({right + 6, y + 9}, fixed_text(highest, decimals), {theme::muted, 11});
}
}  // namespace detail

/// @param selected experts to outline; empty for none
/// @param unit what a score is, for the legend: "share of routing slots"
/// Each cell tells its value when the pointer rests on it, unless there are more than 2048 cells.
[[nodiscard]] inline std::string relevance_heat_map(const score_table& table, const expert_set& selected, std::string_view unit) {
  std::size_t experts = 0;
  double highest = 0;
  for (const auto& [index, layer] : table.layers) {
    experts = std::max(experts, layer.scores.size());
    for (const double score : layer.scores) highest = std::max(highest, score);
  }
  const double left = 52;
  const double cell = std::clamp(800.0 / static_cast<double>(std::max<std::size_t>(experts, 1)), 5.0, 24.0);
  const double row = std::clamp(cell, 14.0, 24.0);
  const double grid_width = cell * static_cast<double>(experts);
  const double width = left + std::max(grid_width, 360.0) + 50;
  const double grid_height = row * static_cast<double>(table.layers.size());
  const bool titles = experts * table.layers.size() <= 2048;

  svg_writer svg(width, 8 + grid_height + 66, "Relevance of every expert, by layer; the selected experts are outlined");
  double y = 8;
  for (const auto& [index, layer] : table.layers) {
    svg.text({left - 8, y + row / 2 + 4}, std::to_string(index.value), {theme::muted, 11, anchor::end});
    for (std::size_t e = 0; e < layer.scores.size(); ++e) {
      const std::size_t step = theme::ramp_step(highest > 0 ? layer.scores[e] / highest : 0);
      const std::string title =
          titles ? "layer " + std::to_string(index.value) + ", expert " + std::to_string(e) + ": " + fixed_text(layer.scores[e], 4) : "";
      svg.box({left + cell * static_cast<double>(e) + 0.5, y + 0.5}, cell - 1, row - 1, theme::ramp[step], title);
    }
    y += row;
  }
  y = 8;
  for (const auto& [index, layer] : table.layers) {  // outlines last, so that no neighbour covers them
    if (const auto found = selected.layers.find(index); found != selected.layers.end()) {
      for (const expert_index expert : found->second) {
        svg.outline({left + cell * static_cast<double>(expert.value), y}, cell, row, {theme::mark, 2}, 1.5);
      }
    }
    y += row;
  }
  const std::size_t every = cell * 1.0 >= 18 ? 1 : cell >= 10 ? 4 : 8;
  for (std::size_t e = 0; e < experts; e += every) {
    svg.text({left + cell * (static_cast<double>(e) + 0.5), y + 14}, std::to_string(e), {theme::muted, 10, anchor::middle});
  }
  svg.text({left, y + 36}, "expert", {theme::ink, 12});
  svg.text({14, 8 + grid_height / 2}, "layer", {theme::ink, 12, anchor::middle, false, -90});
  if (selected.size() > 0) {
    svg.outline({left + 1, y + 46}, 14, 12, {theme::mark, 2}, 1.5);
    svg.text({left + 22, y + 56}, "selected", {theme::ink, 12});
  }
  detail::draw_ramp_legend(svg, width - 52, y + 46, highest, 3, unit);
  return svg.str();
}

}  // namespace esft
