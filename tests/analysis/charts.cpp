// SPDX-License-Identifier: Apache-2.0
#include <esft/analysis/charts/bar_chart.hpp>
#include <esft/analysis/charts/cumulative_share.hpp>
#include <esft/analysis/charts/line_chart.hpp>
#include <esft/analysis/charts/overlap_matrix.hpp>
#include <esft/analysis/charts/relevance_heat_map.hpp>
#include <esft/analysis/charts/scatter_chart.hpp>

#include "markup.hpp"

#include <cmath>
#include <string>

#include <gtest/gtest.h>

namespace analysis_charts_tests {

using esft::expert_index;
using esft::layer_index;
using esft_test::markup_fault;
using esft_test::occurrences;

esft::score_table two_layers() {
  esft::score_table table;
  table.layers[layer_index(1)].scores = {.5, .25, .25, 0};
  table.layers[layer_index(3)].scores = {.1, .2, .3, .4};
  return table;
}

esft::expert_set two_selected() {
  esft::expert_set selected;
  selected.layers[layer_index(1)] = {expert_index(0)};
  selected.layers[layer_index(3)] = {expert_index(3), expert_index(2)};
  return selected;
}

TEST(ticks, are_round_and_inside_the_range) {
  const auto unit = esft::round_ticks({0, 1}, 5);
  ASSERT_EQ(unit.values.size(), 6U);
  EXPECT_NEAR(unit.values[1], .2, 1e-12);
  EXPECT_EQ(unit.decimals, 1);
  const auto wide = esft::round_ticks({-30, 1000}, 5);
  EXPECT_EQ(wide.values.front(), 0);
  EXPECT_EQ(wide.values.back(), 1000);
  EXPECT_EQ(wide.decimals, 0);
  for (const double high : {1e-6, 3e-3, .7, 12.0, 4.4e5}) {
    const auto ticks = esft::round_ticks({high / 3, high}, 6);
    EXPECT_GE(ticks.values.size(), 3U) << high;
    EXPECT_LE(ticks.values.size(), 12U) << high;
    for (const double tick : ticks.values) EXPECT_TRUE(tick >= high / 3 * .999 && tick <= high * 1.001) << high;
  }
}

TEST(range, survives_single_and_missing_values) {
  const auto one = esft::value_range::of({2.0}).padded(.1);
  EXPECT_LT(one.low, 2);
  EXPECT_GT(one.high, 2);
  const auto none = esft::value_range::of({std::nan("")});
  EXPECT_EQ(none.low, 0);
  EXPECT_EQ(none.high, 1);
}

TEST(ramp, only_nothing_gets_the_lowest_step) {
  EXPECT_EQ(esft::theme::ramp_step(0), 0U);
  EXPECT_EQ(esft::theme::ramp_step(1e-9), 1U);
  EXPECT_EQ(esft::theme::ramp_step(1), esft::theme::ramp.size() - 1);
  EXPECT_EQ(esft::theme::ramp_step(7), esft::theme::ramp.size() - 1);
  EXPECT_EQ(esft::theme::ramp_step(std::nan("")), 0U);
}

TEST(heat_map, has_one_cell_per_expert_and_outlines_the_selected_ones) {
  const auto svg = esft::relevance_heat_map(two_layers(), two_selected(), "share");
  EXPECT_EQ(markup_fault(svg), "");
  EXPECT_EQ(occurrences(svg, "<title>"), 8U);
  EXPECT_EQ(occurrences(svg, "<title>layer 3, expert 2: 0.3000</title>"), 1U);
  EXPECT_EQ(occurrences(svg, "class=\"s-mark\""), 3U + 1U);  // and the one of the legend
  EXPECT_EQ(occurrences(esft::relevance_heat_map(two_layers(), {}, "share"), "s-mark"), 0U);
}

TEST(heat_map, of_nothing_is_still_an_image) {
  EXPECT_EQ(markup_fault(esft::relevance_heat_map({}, {}, "share")), "");
  esft::score_table zero;
  zero.layers[layer_index(0)].scores = {0, 0};
  EXPECT_EQ(markup_fault(esft::relevance_heat_map(zero, {}, "share")), "");
}

TEST(cumulative_share, marks_where_the_selection_ends) {
  const auto svg = esft::cumulative_share(two_layers(), two_selected(), .5, "share");
  EXPECT_EQ(markup_fault(svg), "");
  EXPECT_EQ(occurrences(svg, "<title>layer 1: 1 experts, 0.5000</title>"), 1U);
  EXPECT_EQ(occurrences(svg, "<title>layer 3: 2 experts, 0.7000</title>"), 1U);
  EXPECT_EQ(occurrences(svg, ">p = 0.5</text>"), 1U);
  EXPECT_EQ(occurrences(svg, "<polyline"), 2U);
  EXPECT_EQ(occurrences(esft::cumulative_share(two_layers(), {}, {}, "share"), ">p = "), 0U);
  EXPECT_EQ(markup_fault(esft::cumulative_share({}, {}, .2, "share")), "");
}

TEST(overlap_matrix, prints_every_value) {
  const auto svg = esft::overlap_matrix({"a", "b"}, {{4, .25}, {.25, 4}}, "shared");
  EXPECT_EQ(markup_fault(svg), "");
  EXPECT_EQ(occurrences(svg, ">0.25</text>"), 2U);
  EXPECT_EQ(occurrences(svg, ">4.00</text>"), 2U);
  EXPECT_THROW(static_cast<void>(esft::overlap_matrix({"a", "b"}, {{1, 2}}, "shared")), esft::contract_violation);
  EXPECT_THROW(static_cast<void>(esft::overlap_matrix({"a"}, {{1, 2}}, "shared")), esft::contract_violation);
}

TEST(line_chart, breaks_at_numbers_that_are_not_finite) {
  esft::curve whole{"whole", {{0, 1}, {1, 2}, {2, 3}, {3, 4}}, {}};
  esft::curve broken{"broken", {{0, 1}, {1, 2}, {2, std::nan("")}, {3, 4}, {4, 5}}, {}};
  const auto svg = esft::line_chart({whole, broken}, "step", "loss");
  EXPECT_EQ(markup_fault(svg), "");
  EXPECT_EQ(occurrences(svg, "<polyline"), 3U);
  EXPECT_EQ(markup_fault(esft::line_chart({}, "step", "loss")), "");
}

TEST(line_chart, thins_long_curves_and_keeps_their_end) {
  esft::curve line{"long", {}, {}};
  for (int n = 0; n <= 100000; ++n) line.points.push_back({static_cast<double>(n), 1.0});
  EXPECT_LT(esft::line_chart({line}, "step", "loss").size(), 12000U);
  const auto svg = esft::line_chart({line}, "step", "loss");
  const auto drawn = svg.substr(svg.find("<polyline"));
  const auto count = occurrences(drawn.substr(0, drawn.find("/>")), ",");
  EXPECT_LE(count, esft::drawn_points + 1);
  EXPECT_GT(count, esft::drawn_points / 2);
  EXPECT_NE(drawn.find(esft::short_text(760 - esft::plot_frame::right) + ","), std::string::npos);
}

TEST(trailing_mean, averages_backwards_and_not_across_a_gap) {
  const esft::curve raw{"", {{0, 2}, {1, 4}, {2, 6}, {3, std::nan("")}, {4, 10}, {5, 20}}, {}};
  const auto smooth = esft::trailing_mean(raw, 2);
  EXPECT_EQ(smooth.points[0].y, 2);
  EXPECT_EQ(smooth.points[1].y, 3);
  EXPECT_EQ(smooth.points[2].y, 5);
  EXPECT_TRUE(std::isnan(smooth.points[3].y));
  EXPECT_EQ(smooth.points[4].y, 10);
  EXPECT_EQ(smooth.points[5].y, 15);
}

TEST(scatter_chart, labels_do_not_cover_each_other) {
  esft::scatter_series crowd{"crowd", {}, true};
  for (int n = 0; n < 30; ++n) crowd.points.push_back({{1.0 + n * 1e-4, 1.0}, "label", "point " + std::to_string(n)});
  crowd.points.push_back({{2, 2}, "alone", ""});
  const auto svg = esft::scatter_chart({crowd}, "x", "y");
  EXPECT_EQ(markup_fault(svg), "");
  EXPECT_LT(occurrences(svg, ">label</text>"), 8U);
  EXPECT_EQ(occurrences(svg, ">alone</text>"), 1U);
  EXPECT_EQ(occurrences(svg, "<title>point "), 30U);
  crowd.points = {{{std::nan(""), 1}, "nowhere", "nowhere"}};
  EXPECT_EQ(occurrences(esft::scatter_chart({crowd}, "x", "y"), "nowhere"), 0U);
}

TEST(scatter_chart, draws_bars_as_long_as_the_spread_and_single_runs_pale) {
  esft::scatter_series arm{"arm", {}, true, {}};
  for (const double x : {1.0, 3.0}) arm.points.push_back({{x, x}, "run", "one run", {}, true});
  arm.points.push_back({{2, 2}, "mean", "the mean", {0.5, 0.25}});
  const esft::plot_area area{{0, 4}, {0, 4}};
  const auto svg = esft::scatter_chart({arm}, "x", "y", area);
  EXPECT_EQ(markup_fault(svg), "");
  EXPECT_EQ(occurrences(svg, "opacity=\"0.4\""), 2U);
  EXPECT_EQ(occurrences(svg, "<title>one run</title>"), 2U);
  EXPECT_EQ(occurrences(svg, ">run</text>"), 0U);  // only the mean has a label
  EXPECT_EQ(occurrences(svg, ">mean</text>"), 1U);
  EXPECT_EQ(occurrences(svg, "<polyline"), 0U);  // one mean is no line
  const auto bars = [](const std::string& image) { return occurrences(image, "stroke-width=\"1.3\""); };
  EXPECT_EQ(bars(svg), 6U);  // two bars, two caps each
  const esft::plot_frame frame(760, 420, {"x", area.x, 7}, {"y", area.y, 7}, {{"arm", 0, {}, true}});
  const auto number = [](double value) { return esft::short_text(value, 2); };
  EXPECT_EQ(occurrences(svg, "<line x1=\"" + number(frame.x(1.5)) + "\" y1=\"" + number(frame.y(2)) + "\" x2=\"" + number(frame.x(2.5)) +
                                 "\" y2=\"" + number(frame.y(2)) + "\""),
            1U);
  EXPECT_EQ(occurrences(svg, "<line x1=\"" + number(frame.x(2)) + "\" y1=\"" + number(frame.y(1.75)) + "\" x2=\"" + number(frame.x(2)) +
                                 "\" y2=\"" + number(frame.y(2.25)) + "\""),
            1U);
  arm.points.back().spread = {0, std::nan("")};
  EXPECT_EQ(bars(esft::scatter_chart({arm}, "x", "y", area)), 0U);
}

TEST(scatter_chart, holds_every_bar_and_keeps_the_number_of_a_series) {
  esft::scatter_series far{"far", {{{5, 5}, "", "", {4, 2}}}, false, 9};
  const esft::plot_area area = esft::area_of({far});
  EXPECT_LT(area.x.low, 1);
  EXPECT_GT(area.x.high, 9);
  EXPECT_LT(area.y.low, 3);
  EXPECT_GT(area.y.high, 7);
  const auto svg = esft::scatter_chart({far}, "x", "y");
  EXPECT_NE(svg.find("f-" + std::string(esft::series_colour(9).name)), std::string::npos);
  EXPECT_EQ(svg.find("f-series-0"), std::string::npos);
}

TEST(scatter_chart, a_long_legend_leaves_the_plot_its_size) {
  std::vector<esft::legend_entry> many;
  for (std::size_t i = 0; i < 40; ++i) many.push_back({"a way to fine-tune, number " + std::to_string(i), i, {}, true});
  const esft::axis_options axis{"x", {0, 1}, 5};
  const esft::plot_frame few(760, 420, axis, axis, {many[0], many[1]});
  const esft::plot_frame all(760, 420, axis, axis, many);
  const auto plot_height = [](const esft::plot_frame& frame) { return frame.y(0) - frame.y(1); };
  EXPECT_EQ(few.height(), 420);
  EXPECT_GT(all.height(), 500);
  EXPECT_GE(plot_height(all), plot_height(few) - 2 * esft::plot_frame::legend_row);
}

TEST(bar_chart, lengths_are_proportional_and_begin_at_zero) {
  const auto svg = esft::bar_chart({{"a", 10, "10", 0}, {"b", 5, "5", 1}, {"c", 0, "0", 2}, {"d", std::nan(""), "?", 3}}, "cost");
  EXPECT_EQ(markup_fault(svg), "");
  const auto width_of = [&](const std::string& colour) {
    const auto end = svg.find("class=\"f-" + colour);
    if (end == std::string::npos) return 0.0;
    const auto begin = svg.rfind("width=\"", end) + 7;
    return std::stod(svg.substr(begin));
  };
  EXPECT_NEAR(width_of("series-0"), 2 * width_of("series-1"), .02);
  EXPECT_GT(width_of("series-1"), 20);
  EXPECT_EQ(width_of("series-2"), 0);
  EXPECT_EQ(width_of("series-3"), 0);
}

TEST(svg, refuses_coordinates_that_are_not_finite) {
  esft::svg_writer svg(10, 10, "x");
  EXPECT_THROW(svg.line({0, 0}, {std::nan(""), 1}, {}), esft::contract_violation);
  EXPECT_NO_THROW(svg.line({0, 0}, {1, 1}, {}));
  EXPECT_EQ(markup_fault(svg.str()), "");
}

}  // namespace analysis_charts_tests
