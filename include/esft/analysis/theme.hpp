// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The colours of charts and reports, for light and dark pages. Every chart uses these roles and no colour of its own.

#include <algorithm>
#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace esft {

/// A colour by role: the light value is written into the SVG, so that a chart stands alone; a page overrides it by class.
struct colour {
  std::string_view name;
  std::string_view light;
  std::string_view dark;
};

namespace theme {

inline constexpr colour surface{"surface", "#ffffff", "#15181d"};
inline constexpr colour ink{"ink", "#1b1f24", "#e8eaed"};
inline constexpr colour muted{"muted", "#5b6470", "#a3acb8"};
inline constexpr colour grid{"grid", "#e3e7ec", "#2c323a"};
inline constexpr colour axis{"axis", "#a9b1bb", "#59626e"};
inline constexpr colour mark{"mark", "#d1490c", "#ff8a4c"};            ///< outline of what was selected
inline constexpr colour on_strong{"on-strong", "#ffffff", "#0e1116"};  ///< text on the strong half of the ramp

/// Categorical palette, told apart with every common colour-vision deficiency; charts add marker shapes and dashes.
/// @source after M. Okabe and K. Ito, "Color Universal Design"; darkened or lightened for contrast on each surface
inline constexpr std::array<colour, 7> series{{
    {"series-0", "#0068a8", "#58b4ee"},
    {"series-1", "#c4500a", "#f58a48"},
    {"series-2", "#008560", "#2cc79a"},
    {"series-3", "#b04f86", "#e29ac5"},
    {"series-4", "#9a6b00", "#e9b730"},
    {"series-5", "#5f52b5", "#aea4f2"},
    {"series-6", "#5b6470", "#b6bec8"},
}};

/// Sequential ramp of one hue; more is darker on a light page and lighter on a dark one.
inline constexpr std::array<colour, 10> ramp{{
    {"ramp-0", "#f1f5fa", "#1b2129"},
    {"ramp-1", "#dde9f5", "#1b2d40"},
    {"ramp-2", "#c6dbef", "#1a3a59"},
    {"ramp-3", "#a8c9e6", "#1b4a75"},
    {"ramp-4", "#84b2da", "#215c92"},
    {"ramp-5", "#5e98cb", "#3071ad"},
    {"ramp-6", "#3d7db9", "#4b8bc6"},
    {"ramp-7", "#2462a2", "#72a8db"},
    {"ramp-8", "#134884", "#a2c8ed"},
    {"ramp-9", "#0a2f61", "#d8e9fa"},
}};

/// Ramp step of a value in [0, 1]; values outside are clamped. Only 0 gets the lowest step.
inline std::size_t ramp_step(double share) {
  if (!(share > 0)) return 0;
  return 1 + std::min<std::size_t>(ramp.size() - 2, static_cast<std::size_t>(std::min(share, 1.0) * static_cast<double>(ramp.size() - 1)));
}

/// Colour of text printed on a ramp step.
inline const colour& text_on_ramp(std::size_t step) { return step >= 5 ? on_strong : ink; }

/// Style rules of every role: light by default, dark where the reader's system asks for it, light again on paper.
inline std::string css() {
  std::string light;
  std::string dark;
  std::string classes;
  const auto add = [&](const colour& c) {
    const std::string name(c.name);
    light.append("--").append(name).append(":").append(c.light).append(";");
    dark.append("--").append(name).append(":").append(c.dark).append(";");
    classes.append(".f-").append(name).append("{fill:var(--").append(name).append(")}");
    classes.append(".s-").append(name).append("{stroke:var(--").append(name).append(")}\n");
  };
  for (const colour& c : {surface, ink, muted, grid, axis, mark, on_strong}) add(c);
  for (const colour& c : series) add(c);
  for (const colour& c : ramp) add(c);
  return ":root{color-scheme:light dark;" + light + "}\n@media (prefers-color-scheme:dark){:root{" + dark + "}}\n@media print{:root{" +
         light + "color-scheme:light}}\n" + classes;
}

}  // namespace theme
}  // namespace esft
