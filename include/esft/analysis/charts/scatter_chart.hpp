// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Scatter chart of named series, made for task loss against forgetting: one series per arm, one point per learning rate.

#include <esft/analysis/charts/plot_frame.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace esft {

/// One measured point.
struct scatter_point {
  point at;           ///< data units
  std::string label;  ///< short, printed beside the point where there is room: "lr 3e-3"
  std::string title;  ///< long, shown when the pointer rests on it
};

/// Points of one arm.
struct scatter_series {
  std::string name;
  std::vector<scatter_point> points;
  bool connected = false;  ///< a thin line through the points, in the order given
};

namespace detail {
/// A rectangle that a label would cover.
struct label_box {
  double left, top, right, bottom;
  [[nodiscard]] bool meets(const label_box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};
}  // namespace detail

/// Points that are not finite are left out; the table beside the chart must say so. A label that would cover a point or another
/// label is left out as well.
[[nodiscard]] inline std::string scatter_chart(const std::vector<scatter_series>& series, std::string_view x_title,
                                               std::string_view y_title) {
  const auto drawable = [](const scatter_point& p) { return std::isfinite(p.at.x) && std::isfinite(p.at.y); };
  std::vector<double> xs;
  std::vector<double> ys;
  std::vector<legend_entry> legend;
  for (std::size_t i = 0; i < series.size(); ++i) {
    for (const auto& p : series[i].points) {
      if (!drawable(p)) continue;
      xs.push_back(p.at.x);
      ys.push_back(p.at.y);
    }
    legend.push_back({series[i].name, i, {}, true});
  }
  const plot_frame frame(760, 420, {std::string(x_title), value_range::of(xs).padded(0.08), 7},
                         {std::string(y_title), value_range::of(ys).padded(0.09), 7}, std::move(legend));
  svg_writer svg(frame.width(), frame.height(), std::string(y_title) + " against " + std::string(x_title));
  frame.draw(svg);

  std::vector<detail::label_box> taken;
  for (const auto& arm : series) {
    for (const auto& p : arm.points) {
      if (!drawable(p)) continue;
      const point at = frame.at(p.at.x, p.at.y);
      taken.push_back({at.x - 6, at.y - 6, at.x + 6, at.y + 6});
    }
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    std::vector<point> path;
    for (const auto& p : series[i].points) {
      if (drawable(p)) path.push_back(frame.at(p.at.x, p.at.y));
    }
    if (series[i].connected) svg.polyline(path, {series_colour(i), 1, "3 3"});
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    for (const auto& p : series[i].points) {
      if (!drawable(p)) continue;
      const point at = frame.at(p.at.x, p.at.y);
      svg.marker(i, at, 5.5, series_colour(i), p.title);
      if (p.label.empty()) continue;
      const double width = text_width(p.label, 11);
      const std::array<point, 6> corners{{{at.x + 9, at.y - 5},
                                          {at.x - 9 - width, at.y - 5},
                                          {at.x - width / 2, at.y - 19},
                                          {at.x - width / 2, at.y + 9},
                                          {at.x + 7, at.y - 17},
                                          {at.x + 7, at.y + 5}}};
      for (const point& corner : corners) {
        const detail::label_box box{corner.x, corner.y, corner.x + width, corner.y + 11};
        const bool inside = box.left > plot_frame::left && box.right < frame.width() - 4 && box.top > frame.top() &&
                            box.bottom < frame.height() - plot_frame::bottom;
        if (!inside || std::any_of(taken.begin(), taken.end(), [&](const auto& other) { return box.meets(other); })) continue;
        taken.push_back(box);
        svg.text({corner.x, corner.y + 9}, p.label, {theme::muted, 11, anchor::start, false, 0, true});
        break;
      }
    }
  }
  return svg.str();
}

}  // namespace esft
