// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Scatter chart of named series, made for task loss against forgetting: one series per arm, one point per learning rate, with bars that
/// show the spread of the runs behind it.

#include <esft/analysis/charts/plot_frame.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace esft {

/// One measured point.
struct scatter_point {
  point at;           ///< data units
  std::string label;  ///< short, printed beside the point where there is room: "lr 3e-3"
  std::string title;  ///< long, shown when the pointer rests on it
  point spread{};     ///< half the length of the bars through the point, in data units; none along an axis where it is 0
  bool pale = false;  ///< one of the runs behind a mean: small, pale, without label or line
};

/// Points of one arm.
struct scatter_series {
  std::string name;
  std::vector<scatter_point> points;
  bool connected = false;               ///< a thin line through the points, in the order given
  std::optional<std::size_t> number{};  ///< decides colour and marker; without it, the place among the series
};

/// The part of the plane that a chart shows, so that several charts can show the same.
struct plot_area {
  value_range x, y;
};

namespace detail {
/// A rectangle that a label would cover.
struct label_box {
  double left, top, right, bottom;
  [[nodiscard]] bool meets(const label_box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

inline bool drawable(const scatter_point& p) { return std::isfinite(p.at.x) && std::isfinite(p.at.y); }
/// A spread that is not finite is no spread.
inline double bar_of(double spread) { return std::isfinite(spread) && spread > 0 ? spread : 0; }

/// Bars with caps through a point, as far as its spread.
inline void draw_spread(svg_writer& svg, const plot_frame& frame, const scatter_point& p, const colour& stroke) {
  constexpr double cap = 3;
  const line_style style{stroke, 1.3};
  if (const double x = bar_of(p.spread.x); x > 0) {
    const point low = frame.at(p.at.x - x, p.at.y);
    const point high = frame.at(p.at.x + x, p.at.y);
    svg.line(low, high, style);
    for (const point& end : {low, high}) svg.line({end.x, end.y - cap}, {end.x, end.y + cap}, style);
  }
  if (const double y = bar_of(p.spread.y); y > 0) {
    const point low = frame.at(p.at.x, p.at.y - y);
    const point high = frame.at(p.at.x, p.at.y + y);
    svg.line(low, high, style);
    for (const point& end : {low, high}) svg.line({end.x - cap, end.y}, {end.x + cap, end.y}, style);
  }
}
}  // namespace detail

/// What holds all points of some series with their bars, and a margin.
[[nodiscard]] inline plot_area area_of(const std::vector<scatter_series>& series) {
  std::vector<double> xs;
  std::vector<double> ys;
  for (const auto& arm : series) {
    for (const auto& p : arm.points) {
      if (!detail::drawable(p)) continue;
      for (const double sign : {-1.0, 1.0}) {
        xs.push_back(p.at.x + sign * detail::bar_of(p.spread.x));
        ys.push_back(p.at.y + sign * detail::bar_of(p.spread.y));
      }
    }
  }
  return {value_range::of(xs).padded(0.08), value_range::of(ys).padded(0.09)};
}

/// Points that are not finite are left out; the table beside the chart must say so. A label that would cover a point or another
/// label is left out as well.
/// @param shown what to show instead of just these points
[[nodiscard]] inline std::string scatter_chart(const std::vector<scatter_series>& series, std::string_view x_title,
                                               std::string_view y_title, const std::optional<plot_area>& shown = {}) {
  const plot_area area = shown ? *shown : area_of(series);
  const auto number = [&](std::size_t i) { return series[i].number.value_or(i); };
  std::vector<legend_entry> legend;
  for (std::size_t i = 0; i < series.size(); ++i) legend.push_back({series[i].name, number(i), {}, true});
  const plot_frame frame(760, 420, {std::string(x_title), area.x, 7}, {std::string(y_title), area.y, 7}, std::move(legend));
  svg_writer svg(frame.width(), frame.height(), std::string(y_title) + " against " + std::string(x_title));
  frame.draw(svg);

  std::vector<detail::label_box> taken;
  for (const auto& arm : series) {
    for (const auto& p : arm.points) {
      if (!detail::drawable(p)) continue;
      const point at = frame.at(p.at.x, p.at.y);
      const double half = p.pale ? 3 : 6;
      taken.push_back({at.x - half, at.y - half, at.x + half, at.y + half});
    }
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    std::vector<point> path;
    for (const auto& p : series[i].points) {
      if (!detail::drawable(p)) continue;
      const point at = frame.at(p.at.x, p.at.y);
      if (p.pale) {
        svg.marker(number(i), at, 3, series_colour(number(i)), p.title, true);
      } else {
        path.push_back(at);
      }
    }
    if (series[i].connected) svg.polyline(path, {series_colour(number(i)), 1, "3 3"});
  }
  for (std::size_t i = 0; i < series.size(); ++i) {  // below every marker: a bar through a neighbour must not hide it
    for (const auto& p : series[i].points) {
      if (detail::drawable(p) && !p.pale) detail::draw_spread(svg, frame, p, series_colour(number(i)));
    }
  }
  for (std::size_t i = 0; i < series.size(); ++i) {
    for (const auto& p : series[i].points) {
      if (!detail::drawable(p) || p.pale) continue;
      const point at = frame.at(p.at.x, p.at.y);
      svg.marker(number(i), at, 5.5, series_colour(number(i)), p.title);
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
