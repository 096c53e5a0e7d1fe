// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `svg_writer`: lines, boxes, markers and text as SVG, readable alone and recoloured by the page that embeds it.

#include <esft/analysis/text.hpp>
#include <esft/analysis/theme.hpp>
#include <esft/core/contract.hpp>

#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// A point of a drawing. @unit px, y downwards; or data units where a chart says so
struct point {
  double x = 0;
  double y = 0;
};

/// Where a text stands relative to its point.
enum class anchor : unsigned char { start, middle, end };

/// How a text looks.
struct text_style {
  colour fill = theme::ink;
  double size = 12;
  anchor at = anchor::start;
  bool bold = false;
  double turn = 0;    ///< @unit degrees, clockwise
  bool halo = false;  ///< a rim in the page's colour, for text that may lie on a line
};

/// How a line looks.
struct line_style {
  colour stroke = theme::ink;
  double width = 1;
  std::string_view dash = {};  ///< SVG dash pattern; empty is solid
};

/// Estimated width of a text in the page's sans-serif font; labels are placed with it, so it errs to the wide side.
[[nodiscard]] inline double text_width(std::string_view text, double size) {
  return 0.58 * size * static_cast<double>(character_count(text));
}

/// Builds one SVG image. Coordinates have two decimals, so equal input gives equal bytes.
class svg_writer {
 public:
  /// `label` is what a screen reader says.
  svg_writer(double width, double height, std::string_view label) {
    body_ = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + short_text(width) + " " + short_text(height) + "\" width=\"" +
            short_text(width) + "\" height=\"" + short_text(height) + "\" role=\"img\" aria-label=\"" + escape_markup(label) +
            "\" font-family=\"system-ui, 'Segoe UI', 'Liberation Sans', 'DejaVu Sans', sans-serif\">\n";
    box({0, 0}, width, height, theme::surface);
  }

  void line(point from, point to, const line_style& style) {
    body_ += "<line x1=\"" + number(from.x) + "\" y1=\"" + number(from.y) + "\" x2=\"" + number(to.x) + "\" y2=\"" + number(to.y) + "\"" +
             stroke(style) + "/>\n";
  }

  /// A connected line; nothing for fewer than two points.
  void polyline(const std::vector<point>& points, const line_style& style) {
    if (points.size() < 2) return;
    body_ += "<polyline points=\"";
    for (const point& p : points) body_ += number(p.x) + "," + number(p.y) + " ";
    body_.back() = '"';
    body_ += " fill=\"none\" stroke-linejoin=\"round\"" + stroke(style) + "/>\n";
  }

  /// A filled box; `title` appears when the pointer rests on it.
  void box(point corner, double width, double height, const colour& fill, std::string_view title = {}, double radius = 0) {
    body_ += "<rect" + geometry(corner, width, height, radius) + paint(fill) + closed("rect", title);
  }

  /// A box that is only an outline.
  void outline(point corner, double width, double height, const line_style& style, double radius = 0) {
    body_ += "<rect" + geometry(corner, width, height, radius) + " fill=\"none\"" + stroke(style) + "/>\n";
  }

  /// Marker number `shape` (circle, square, triangle, diamond, cross ... in turn) around a point; a pale one stands back behind others.
  void marker(std::size_t shape, point at, double radius, const colour& fill, std::string_view title = {}, bool pale = false) {
    static constexpr std::array<std::string_view, 6> outlines{
        "",
        "-.86,-.86 .86,-.86 .86,.86 -.86,.86",
        "0,-1.1 1,.75 -1,.75",
        "0,-1.2 1.2,0 0,1.2 -1.2,0",
        "0,1.1 1,-.75 -1,-.75",
        "-1,-.4 -.4,-.4 -.4,-1 .4,-1 .4,-.4 1,-.4 1,.4 .4,.4 .4,1 -.4,1 -.4,.4 -1,.4"};
    const std::string_view corners = outlines[shape % outlines.size()];
    const std::string edge = " stroke=\"" + std::string(theme::surface.light) + (pale ? "\" opacity=\"0.4\"" : "\"");
    if (corners.empty()) {
      body_ += "<circle cx=\"" + number(at.x) + "\" cy=\"" + number(at.y) + "\" r=\"" + number(radius) + "\" class=\"f-" +
               std::string(fill.name) + " s-surface\" fill=\"" + std::string(fill.light) + "\"" + edge + closed("circle", title);
    } else {
      body_ += "<polygon transform=\"translate(" + number(at.x) + " " + number(at.y) + ") scale(" + number(radius) + ")\" points=\"" +
               std::string(corners) + "\" vector-effect=\"non-scaling-stroke\" class=\"f-" + std::string(fill.name) +
               " s-surface\" fill=\"" + std::string(fill.light) + "\"" + edge + closed("polygon", title);
    }
  }

  void text(point at, std::string_view content, const text_style& style = {}) {
    static constexpr std::array<std::string_view, 3> anchors{"start", "middle", "end"};
    const std::string halo = " s-surface\" stroke=\"" + std::string(theme::surface.light) + "\" stroke-width=\"3.5\" paint-order=\"stroke";
    body_ += "<text x=\"" + number(at.x) + "\" y=\"" + number(at.y) + "\" class=\"f-" + std::string(style.fill.name) +
             (style.halo ? halo : std::string()) + "\" fill=\"" + std::string(style.fill.light) + "\" font-size=\"" + number(style.size) +
             "\" text-anchor=\"" + std::string(anchors[static_cast<std::size_t>(style.at)]) + "\"";
    if (style.bold) body_ += " font-weight=\"600\"";
    if (style.turn != 0) body_ += " transform=\"rotate(" + number(style.turn) + " " + number(at.x) + " " + number(at.y) + ")\"";
    body_ += ">" + escape_markup(content) + "</text>\n";
  }

  /// The finished image.
  [[nodiscard]] std::string str() const { return body_ + "</svg>\n"; }

 private:
  static std::string number(double value) {
    ESFT_EXPECTS(std::isfinite(value), "a coordinate is finite; leave non-finite data out of the drawing");
    return short_text(value, 2);
  }
  static std::string paint(const colour& fill) {
    return " class=\"f-" + std::string(fill.name) + "\" fill=\"" + std::string(fill.light) + "\"";
  }
  static std::string stroke(const line_style& style) {
    std::string out = " class=\"s-" + std::string(style.stroke.name) + "\" stroke=\"" + std::string(style.stroke.light) +
                      "\" stroke-width=\"" + number(style.width) + "\"";
    if (!style.dash.empty()) out += " stroke-dasharray=\"" + std::string(style.dash) + "\"";
    return out;
  }
  static std::string geometry(point corner, double width, double height, double radius) {
    std::string out =
        " x=\"" + number(corner.x) + "\" y=\"" + number(corner.y) + "\" width=\"" + number(width) + "\" height=\"" + number(height) + "\"";
    if (radius > 0) out += " rx=\"" + number(radius) + "\"";
    return out;
  }
  static std::string closed(std::string_view element, std::string_view title) {
    return title.empty() ? "/>\n" : "><title>" + escape_markup(title) + "</title></" + std::string(element) + ">\n";
  }

  std::string body_;
};

}  // namespace esft
