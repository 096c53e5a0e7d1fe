// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Square matrix of overlaps between domains or tasks, the value printed in each cell.

#include <esft/analysis/svg.hpp>
#include <esft/core/contract.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

namespace esft {

/// The diagonal (a domain with itself) is printed without colour, so that the ramp serves the differences.
/// @pre `values` is [N, N] for N names, finite, >= 0
[[nodiscard]] inline std::string overlap_matrix(const std::vector<std::string>& names, const std::vector<std::vector<double>>& values,
                                                std::string_view unit) {
  ESFT_EXPECTS(values.size() == names.size(), "one row per name");
  double highest = 0;
  double label = 40;
  for (std::size_t i = 0; i < names.size(); ++i) {
    ESFT_EXPECTS(values[i].size() == names.size(), "one column per name");
    for (std::size_t j = 0; j < names.size(); ++j) highest = std::max(highest, i == j ? 0.0 : values[i][j]);
    label = std::max(label, text_width(names[i], 12));
  }
  label = std::min(label, 220.0);
  const double cell = 54;
  const double row = 34;
  const double left = label + 16;
  const double top = 12 + label * 0.72;
  const double grid_width = cell * static_cast<double>(names.size());
  const double width = left + std::max(grid_width + label * 0.72, 330.0) + 40;
  svg_writer svg(width, top + row * static_cast<double>(names.size()) + 40, "Overlap of the most relevant experts between domains");
  for (std::size_t i = 0; i < names.size(); ++i) {
    const double y = top + row * static_cast<double>(i);
    svg.text({left - 8, y + row / 2 + 4}, names[i], {theme::ink, 12, anchor::end});
    svg.text({left + cell * (static_cast<double>(i) + 0.5) + 2, top - 7}, names[i], {theme::ink, 12, anchor::start, false, -42});
    for (std::size_t j = 0; j < names.size(); ++j) {
      const point corner{left + cell * static_cast<double>(j), y};
      const std::string value = fixed_text(values[i][j], 2);
      const std::size_t step = i == j ? 0 : theme::ramp_step(highest > 0 ? values[i][j] / highest : 0);
      svg.box({corner.x + 1, corner.y + 1}, cell - 2, row - 2, theme::ramp[step], names[i] + " and " + names[j] + ": " + value, 2);
      svg.text({corner.x + cell / 2, corner.y + row / 2 + 4}, value,
               {i == j ? theme::muted : theme::text_on_ramp(step), 12, anchor::middle});
    }
  }
  svg.text({left, top + row * static_cast<double>(names.size()) + 24}, unit, {theme::muted, 12});
  return svg.str();
}

}  // namespace esft
