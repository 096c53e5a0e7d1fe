// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Horizontal bars with their values, made for costs: one bar per arm, from zero.

#include <esft/analysis/svg.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace esft {

/// One bar.
struct bar {
  std::string name;
  double value = 0;        ///< >= 0; a value that is not finite has no bar
  std::string printed;     ///< the value as people read it, with its unit
  std::size_t series = 0;  ///< colour, the same as this arm has in the other charts
};

[[nodiscard]] inline std::string bar_chart(const std::vector<bar>& bars, std::string_view title) {
  double highest = 0;
  double label = 40;
  double printed = 30;
  for (const bar& b : bars) {
    if (std::isfinite(b.value)) highest = std::max(highest, b.value);
    label = std::max(label, text_width(b.name, 12));
    printed = std::max(printed, text_width(b.printed, 12));
  }
  label = std::min(label, 200.0);
  const double width = 420;
  const double row = 24;
  const double left = label + 12;
  const double room = std::max(60.0, width - left - printed - 14);
  svg_writer svg(std::max(width, left + room + printed + 14), 30 + row * static_cast<double>(bars.size()) + 6, title);
  svg.text({0, 16}, title, {theme::ink, 13, anchor::start, true});
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const double y = 28 + row * static_cast<double>(i);
    const double length = highest > 0 && std::isfinite(bars[i].value) ? std::max(0.0, bars[i].value) / highest * room : 0;
    svg.text({left - 8, y + 15}, bars[i].name, {theme::ink, 12, anchor::end});
    if (length > 0) svg.box({left, y + 3}, std::max(length, 1.0), row - 7, theme::series[bars[i].series % theme::series.size()], {}, 2);
    svg.text({left + length + 6, y + 15}, bars[i].printed, {theme::muted, 12});
  }
  svg.line({left, 28}, {left, 28 + row * static_cast<double>(bars.size())}, {theme::axis, 1});
  return svg.str();
}

}  // namespace esft
