// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `plot_frame`: the axes that line and point charts share: round ticks, grid, axis titles with units, legend.

#include <esft/analysis/svg.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Closed range of data values.
struct value_range {
  double low = 0;
  double high = 1;

  /// The smallest range that holds all finite values; [0, 1] if there is none.
  static value_range of(const std::vector<double>& values) {
    value_range range{0, 0};
    bool any = false;
    for (const double value : values) {
      if (!std::isfinite(value)) continue;
      range = any ? value_range{std::min(range.low, value), std::max(range.high, value)} : value_range{value, value};
      any = true;
    }
    return any ? range : value_range{};
  }
  /// Grown by a share of its extent on each side; a single value gets room around it.
  [[nodiscard]] value_range padded(double share) const {
    const double extent = high > low ? high - low : std::max(std::abs(high), 1.0) * 0.5;
    return {low - share * extent, high + share * extent};
  }
};

/// Round positions inside a range, about `wanted` of them, steps of 1, 2 or 5 times a power of ten.
struct tick_list {
  std::vector<double> values;
  int decimals = 0;  ///< that the labels need
};

[[nodiscard]] inline tick_list round_ticks(value_range range, int wanted) {
  const double rough = (range.high - range.low) / std::max(1, wanted);
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  const double step = power * (rough / power < 1.5 ? 1 : rough / power < 3 ? 2 : rough / power < 7 ? 5 : 10);
  tick_list ticks;
  ticks.decimals = std::clamp(-static_cast<int>(std::floor(std::log10(step) + 1e-9)), 0, 9);
  for (double n = std::ceil(range.low / step - 1e-9); n * step <= range.high + 1e-9 * step; ++n) ticks.values.push_back(n * step);
  return ticks;
}

/// What an axis shows.
struct axis_options {
  std::string title;  ///< with its unit: "task loss (nats per byte)"
  value_range range;
  int ticks = 6;
};

/// One entry of a legend: a line with the marker of the series on it.
struct legend_entry {
  std::string name;
  std::size_t series = 0;
  std::string_view dash = {};
  bool marker = false;
};

/// Colour of series number `i`; repeats after the palette, where shapes and dashes still differ.
[[nodiscard]] inline const colour& series_colour(std::size_t i) { return theme::series[i % theme::series.size()]; }

/// Dash pattern of series number `i`, so that lines can be told apart without colour.
[[nodiscard]] inline std::string_view series_dash(std::size_t i) {
  static constexpr std::array<std::string_view, 4> dashes{"", "7 3", "2 3", "9 3 2 3"};
  return dashes[i % dashes.size()];
}

/// Maps data to pixels inside a box and draws the axes around it.
class plot_frame {
 public:
  static constexpr double left = 64, right = 18, bottom = 48, legend_row = 20;

  /// Reserves rows for the legend above the plot. Beyond two of them the image grows, so that a long legend leaves the plot its size.
  plot_frame(double width, double height, axis_options x, axis_options y, std::vector<legend_entry> legend)
      : width_(width), height_(height), x_(std::move(x)), y_(std::move(y)), legend_(std::move(legend)) {
    place_legend();
    if (rows_ > 2) height_ += legend_row * static_cast<double>(rows_ - 2);
  }

  [[nodiscard]] double x(double value) const {
    return left + (value - x_.range.low) / (x_.range.high - x_.range.low) * (width_ - left - right);
  }
  [[nodiscard]] double y(double value) const {
    return height_ - bottom - (value - y_.range.low) / (y_.range.high - y_.range.low) * (height_ - bottom - top());
  }
  [[nodiscard]] point at(double x_value, double y_value) const { return {x(x_value), y(y_value)}; }
  [[nodiscard]] double top() const { return 12 + legend_row * static_cast<double>(rows_); }
  [[nodiscard]] double width() const { return width_; }
  [[nodiscard]] double height() const { return height_; }

  /// Grid, axis lines, tick labels, titles and legend; draw the data afterwards.
  void draw(svg_writer& svg) const {
    const tick_list x_ticks = round_ticks(x_.range, x_.ticks);
    const tick_list y_ticks = round_ticks(y_.range, y_.ticks);
    for (const double value : y_ticks.values) {
      svg.line({left, y(value)}, {width_ - right, y(value)}, {theme::grid, 1});
      svg.text({left - 8, y(value) + 4}, fixed_text(value, y_ticks.decimals), {theme::muted, 11, anchor::end});
    }
    for (const double value : x_ticks.values) {
      svg.line({x(value), top()}, {x(value), height_ - bottom}, {theme::grid, 1});
      svg.text({x(value), height_ - bottom + 17}, fixed_text(value, x_ticks.decimals), {theme::muted, 11, anchor::middle});
    }
    svg.line({left, height_ - bottom}, {width_ - right, height_ - bottom}, {theme::axis, 1});
    svg.line({left, top()}, {left, height_ - bottom}, {theme::axis, 1});
    svg.text({(left + width_ - right) / 2, height_ - 10}, x_.title, {theme::ink, 12, anchor::middle});
    svg.text({14, (top() + height_ - bottom) / 2}, y_.title, {theme::ink, 12, anchor::middle, false, -90});
    for (std::size_t i = 0; i < legend_.size(); ++i) {
      const point p = places_[i];
      svg.line({p.x, p.y - 4}, {p.x + 24, p.y - 4}, {series_colour(legend_[i].series), 2, legend_[i].dash});
      if (legend_[i].marker) svg.marker(legend_[i].series, {p.x + 12, p.y - 4}, 4.5, series_colour(legend_[i].series));
      svg.text({p.x + 30, p.y}, legend_[i].name, {theme::ink, 12});
    }
  }

 private:
  void place_legend() {
    double at = left;
    for (const legend_entry& entry : legend_) {
      const double needed = 30 + text_width(entry.name, 12) + 20;
      if (rows_ == 0 || (at + needed > width_ && at > left)) {
        ++rows_;
        at = left;
      }
      places_.push_back({at, 2 + legend_row * static_cast<double>(rows_) - 6});
      at += needed;
    }
  }

  double width_, height_;
  axis_options x_, y_;
  std::vector<legend_entry> legend_;
  std::vector<point> places_;
  std::size_t rows_ = 0;
};

}  // namespace esft
