// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Cumulative relevance of the experts in falling order, one curve per layer, with the cut at p.

#include <esft/analysis/charts/plot_frame.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/ranking.hpp>
#include <esft/core/score_table.hpp>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace esft {

/// @param p threshold to draw; none where the policy has no threshold
/// @param selected marks on each curve how many experts were taken
/// Up to seven layers are named one by one; more are drawn alike, as a band.
[[nodiscard]] inline std::string cumulative_share(const score_table& table, const expert_set& selected, std::optional<double> p,
                                                  std::string_view unit) {
  const bool named = table.layers.size() <= theme::series.size();
  std::vector<std::vector<double>> curves;
  std::vector<legend_entry> legend;
  std::size_t experts = 1;
  double highest = p.value_or(0);
  for (const auto& [index, layer] : table.layers) {
    std::vector<double> curve{0};
    for (const expert_index expert : descending_order(std::span<const double>(layer.scores))) {
      curve.push_back(curve.back() + layer.scores[static_cast<std::size_t>(expert.value)]);
    }
    experts = std::max(experts, layer.scores.size());
    highest = std::max(highest, curve.back());
    if (named) legend.push_back({"layer " + std::to_string(index.value), curves.size(), series_dash(curves.size()), true});
    curves.push_back(std::move(curve));
  }
  if (!named) legend.push_back({"each of " + std::to_string(curves.size()) + " layers, a mark where the selection ends", 0, {}, true});

  const plot_frame frame(720, 320, {"experts taken, highest score first", {0, static_cast<double>(experts)}, 8},
                         {"cumulative " + std::string(unit), {0, highest > 0 ? highest * 1.04 : 1}, 5}, std::move(legend));
  svg_writer svg(frame.width(), frame.height(), "Cumulative relevance by number of experts taken");
  frame.draw(svg);
  if (p) {
    svg.line(frame.at(0, *p), frame.at(static_cast<double>(experts), *p), {theme::mark, 1.5, "6 4"});
    svg.text({frame.x(static_cast<double>(experts)) - 4, frame.y(*p) + 15}, "p = " + exact_text(*p),
             {theme::mark, 12, anchor::end, true, 0, true});
  }
  for (std::size_t i = 0; i < curves.size(); ++i) {
    std::vector<point> points;
    for (std::size_t n = 0; n < curves[i].size(); ++n) points.push_back(frame.at(static_cast<double>(n), curves[i][n]));
    svg.polyline(points, {series_colour(named ? i : 0), named ? 2.0 : 1.0, named ? series_dash(i) : std::string_view()});
  }
  std::size_t i = 0;
  for (const auto& [index, layer] : table.layers) {
    if (const auto found = selected.layers.find(index); found != selected.layers.end()) {
      const std::size_t taken = std::min(found->second.size(), curves[i].size() - 1);
      svg.marker(named ? i : 0, frame.at(static_cast<double>(taken), curves[i][taken]), 4.5, series_colour(named ? i : 0),
                 "layer " + std::to_string(index.value) + ": " + std::to_string(taken) + " experts, " + fixed_text(curves[i][taken], 4));
    }
    ++i;
  }
  return svg.str();
}

}  // namespace esft
