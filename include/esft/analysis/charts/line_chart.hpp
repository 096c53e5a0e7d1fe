// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Line chart of several series, made for loss curves.

#include <esft/analysis/charts/plot_frame.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace esft {

/// A named curve in data units. Points that are not finite interrupt the line.
struct curve {
  std::string name;
  std::vector<point> points;
  std::optional<std::size_t> series;  ///< colour; curves of one series differ in their dashes. Without it, every curve has its own
};

/// At most this many points of a curve are drawn; a longer one is thinned evenly, its last point kept.
inline constexpr std::size_t drawn_points = 400;

/// Each point replaced by the mean of itself and the `window - 1` before it, as far as they are finite. A non-finite point stays.
[[nodiscard]] inline curve trailing_mean(const curve& raw, std::size_t window) {
  curve smooth = raw;
  for (std::size_t n = 0; n < raw.points.size(); ++n) {
    if (!std::isfinite(raw.points[n].y)) continue;
    double sum = 0;
    double count = 0;
    for (std::size_t back = 0; back < window && back <= n && std::isfinite(raw.points[n - back].y); ++back) {
      sum += raw.points[n - back].y;
      ++count;
    }
    smooth.points[n].y = sum / count;
  }
  return smooth;
}

[[nodiscard]] inline std::string line_chart(const std::vector<curve>& curves, std::string_view x_title, std::string_view y_title) {
  std::vector<double> xs;
  std::vector<double> ys;
  std::vector<legend_entry> legend;
  std::map<std::size_t, std::size_t> curves_of;
  for (std::size_t i = 0; i < curves.size(); ++i) {
    for (const point& p : curves[i].points) {
      xs.push_back(p.x);
      ys.push_back(p.y);
    }
    const std::size_t series = curves[i].series.value_or(i);
    const std::size_t number = curves[i].series ? curves_of[series]++ : i;
    legend.push_back({curves[i].name, series, series_dash(number)});
  }
  value_range x_range = value_range::of(xs);
  if (!(x_range.high > x_range.low)) x_range = x_range.padded(0.5);
  const plot_frame frame(760, 360, {std::string(x_title), x_range, 8}, {std::string(y_title), value_range::of(ys).padded(0.06), 6}, legend);
  svg_writer svg(frame.width(), frame.height(), std::string(y_title) + " against " + std::string(x_title));
  frame.draw(svg);
  for (std::size_t i = 0; i < curves.size(); ++i) {
    const auto& all = curves[i].points;
    const std::size_t every = std::max<std::size_t>(1, (all.size() + drawn_points - 1) / drawn_points);
    std::vector<point> run;
    const auto flush = [&] {
      svg.polyline(run, {series_colour(legend[i].series), 1.8, legend[i].dash});
      if (run.size() == 1) svg.marker(i, run[0], 3, series_colour(legend[i].series));
      run.clear();
    };
    for (std::size_t n = 0; n < all.size(); ++n) {
      if (!std::isfinite(all[n].x) || !std::isfinite(all[n].y)) {
        flush();
      } else if (n % every == 0 || n + 1 == all.size()) {
        run.push_back(frame.at(all[n].x, all[n].y));
      }
    }
    flush();
  }
  return svg.str();
}

}  // namespace esft
