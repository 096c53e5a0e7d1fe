// SPDX-License-Identifier: Apache-2.0
#include <esft/analysis/comparison_report.hpp>

#include "markup.hpp"
#include "sample.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include <gtest/gtest.h>

namespace analysis_report_tests {

using esft_test::markup_fault;
using esft_test::occurrences;
using esft_test::sample_comparison;

const std::string& sample_page() {
  static const std::string page = esft::render_html(esft::comparison_report(sample_comparison()));
  return page;
}

TEST(markup_reader, sees_what_browsers_forgive) {
  EXPECT_EQ(markup_fault("<a b=\"1\"><c/>x &amp; y</a>"), "");
  for (const char* broken : {"<a>", "<a></b>", "</a>", "<a b=1></a>", "<a>x & y</a>", "<a b=\"1\" b=\"2\"></a>", "x<a/>", "<a b=\"<\"/>",
                             "<a onload=\"x\"/>", "<A/>"}) {
    EXPECT_NE(markup_fault(broken), "") << broken;
  }
}

TEST(report, is_well_formed_and_self_contained) {
  const auto& page = sample_page();
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(occurrences(page, "<script"), 0U);
  EXPECT_EQ(occurrences(page, "http://"), occurrences(page, "xmlns=\"http://www.w3.org/2000/svg\""));  // a name, not an address
  EXPECT_EQ(occurrences(page, "https:"), 0U);
  EXPECT_EQ(occurrences(page, "url("), 0U);
  EXPECT_EQ(occurrences(page, "@import"), 0U);
  EXPECT_EQ(occurrences(page, "prefers-color-scheme:dark"), 1U);
  EXPECT_GE(occurrences(page, "@media print"), 1U);
}

TEST(report, the_same_input_gives_the_same_bytes) {
  EXPECT_EQ(esft::render_html(esft::comparison_report(sample_comparison())), sample_page());
  auto other = sample_comparison();
  other.arms[0].task_loss += 0.001;
  EXPECT_NE(esft::render_html(esft::comparison_report(other)), sample_page());
}

TEST(report, stays_below_a_megabyte_for_a_large_model) {
  const auto page = esft::render_html(esft::comparison_report(sample_comparison(26, 64)));
  EXPECT_LT(page.size(), 1U << 20U);
  EXPECT_EQ(markup_fault(page), "");
}

TEST(report, shows_the_values) {
  const auto& page = sample_page();
  for (const char* value :
       {"0.9170", "46.0", "3e-3", "290 k", "4.64 MB", "8.08", "0.143", "584 kB", "draw 2", "2.2650", "diverged", "0.0590", "57440000"}) {
    EXPECT_GE(occurrences(page, std::string(">") + value + "</td>"), 1U) << value;
  }
  for (const char* part : {"is kept apart", "AdamW, betas 0.9 0.95", "One task, one seed", "Receipt", "20 000 rows"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  EXPECT_EQ(occurrences(page, "<li class=\"pass\">"), 2U);
  EXPECT_EQ(occurrences(page, "<li class=\"fail\">"), 1U);
  EXPECT_EQ(occurrences(page, "<svg "), 2U * 2 + 1 + 1 + 1 + 4);  // relevance and shares of two scores, trade-off, overlap, losses, costs
  EXPECT_EQ(occurrences(page, "<figure>"), occurrences(page, "<details"));  // raw values beside every chart
}

TEST(report, repeated_runs_are_shown_as_mean_and_spread) {
  const auto groups = esft::repeated_runs(sample_comparison());
  const auto random = std::find_if(groups.begin(), groups.end(), [](const auto& group) { return group.arm == "random"; });
  ASSERT_NE(random, groups.end());
  ASSERT_EQ(random->runs.size(), 3U);
  // 1.108, 1.190, 1.034: mean 1.110667, deviations -.002667, .079333, -.076667, squares .000007 + .006294 + .005878 = .012179, / 2, root
  EXPECT_NEAR(random->task_loss.mean, 1.110667, 1e-6);
  EXPECT_NEAR(random->task_loss.deviation, 0.078034, 1e-6);
  EXPECT_EQ(random->trained_parameters.deviation, 0);
  const auto& page = sample_page();
  for (const char* cell :
       {"1.1543 \xc2\xb1 0.0780", "33.3 \xc2\xb1 4.5", "290 k \xc2\xb1 0", "4.64 MB \xc2\xb1 0 B", "0.143 \xc2\xb1 0.001"}) {
    EXPECT_EQ(occurrences(page, std::string(">") + cell + "</td>"), 1U) << cell;
  }
  EXPECT_EQ(occurrences(page, ">Every run</h2>"), 1U);
  EXPECT_NE(page.find("<title>random, lr 3e-3, mean of 3 runs: task loss 1.1107 \xc2\xb1 0.0780"), std::string::npos);
  EXPECT_EQ(occurrences(page, "opacity=\"0.4\""), 3U);
}

TEST(report, a_mean_over_a_run_that_diverged_is_said_and_not_drawn) {
  auto c = sample_comparison();
  for (auto& run : c.arms) {
    if (run.variant == "draw 2") run.task_loss = std::nan("");
  }
  const auto page = esft::render_html(esft::comparison_report(c));
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(page.find("mean of 3 runs"), std::string::npos);
  EXPECT_EQ(occurrences(page, "opacity=\"0.4\""), 2U);  // the other two are still there
  const auto row = page.substr(page.find(">random</td><td>3e-3</td><td>3</td>"));
  EXPECT_EQ(row.find("<td>diverged</td>"), row.find("<td>3</td>") + 10) << row.substr(0, 200);
}

TEST(report, single_runs_have_no_spread) {
  auto c = sample_comparison();
  std::erase_if(c.arms, [](const auto& run) { return run.arm == "random"; });
  const auto page = esft::render_html(esft::comparison_report(c));
  EXPECT_EQ(page.find("\xc2\xb1"), std::string::npos);
  EXPECT_EQ(page.find("Every run"), std::string::npos);
  EXPECT_NE(page.find("Each point is one run."), std::string::npos);
}

TEST(report, panels_share_their_axes_and_keep_the_colours) {
  auto c = sample_comparison();
  c.panels = {{"tokens", {"esft-token", "full"}}, {"gates", {"esft-gate", "full"}}};
  const auto page = esft::render_html(esft::comparison_report(c));
  EXPECT_EQ(markup_fault(page), "");
  const auto chart = [&](const char* title) {
    const auto from = page.substr(page.find(std::string("other domains: ") + title));
    return from.substr(0, from.find("</svg>"));
  };
  const std::string tokens = chart("tokens");
  const std::string gates = chart("gates");
  EXPECT_EQ(tokens.find(">esft-gate</text>"), std::string::npos);
  EXPECT_NE(gates.find(">esft-gate</text>"), std::string::npos);
  EXPECT_NE(gates.find("f-series-1"), std::string::npos);
  EXPECT_EQ(gates.find("f-series-0"), std::string::npos);
  const auto full = [](const std::string& image) {  // the marker of one run, with its place
    const auto title = image.find("<title>full, lr 1e-3");
    return image.substr(image.rfind('<', title - 1), title - image.rfind('<', title - 1));
  };
  EXPECT_EQ(full(tokens), full(gates));
}

TEST(report, leaves_out_what_was_not_measured) {
  esft::comparison bare;
  bare.title = "nothing yet";
  const auto page = esft::render_html(esft::comparison_report(bare));
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(occurrences(page, "<svg "), 0U);
  EXPECT_EQ(occurrences(page, "<section>"), 0U);
  auto no_match = sample_comparison();
  no_match.base_exact_match.reset();
  for (auto& run : no_match.arms) {
    run.exact_match.reset();
    run.forgotten.clear();
  }
  EXPECT_EQ(markup_fault(esft::render_html(esft::comparison_report(no_match))), "");
}

TEST(report, hostile_names_stay_text) {
  const std::string hostile = "</title><script>alert('x')</script>\" onload=\"y & \x01\xff\xc0\xaf <b>";
  auto c = sample_comparison();
  c.title = c.subtitle = c.loss_unit = hostile;
  c.facts = {{hostile, hostile}};
  c.findings = c.limits = {hostile};
  c.config = {{hostile, hostile}};
  for (auto& run : c.arms) run.arm = run.variant = hostile;
  for (auto& run : c.arms) run.forgotten[hostile] = 1;
  for (auto& map : c.relevance) map.task = map.score = map.unit = hostile;
  for (auto& name : c.overlap.domains) name = hostile;
  for (auto& line : c.losses) line.name = hostile;
  for (auto& [passed, text] : c.receipt) text = hostile;
  const auto page = esft::render_html(esft::comparison_report(c));
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(occurrences(page, "<script"), 0U);
  EXPECT_EQ(occurrences(page, "<b>"), 3U);  // the marks of the three receipt lines
  EXPECT_GE(occurrences(page, "&lt;script&gt;alert(&#39;x&#39;)"), 20U);
  for (const char c8 : page) EXPECT_TRUE(static_cast<unsigned char>(c8) >= 0x20 || c8 == '\n');
}

TEST(report, numbers_that_are_not_finite_are_said_and_not_drawn) {
  auto c = sample_comparison();
  const double bad[] = {std::nan(""), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  for (std::size_t i = 0; i < c.arms.size(); ++i) {
    c.arms[i].task_loss = bad[i % 3];
    c.arms[i].seconds_per_step = bad[i % 3];
    c.arms[i].forgotten["python"] = bad[i % 3];
  }
  for (std::size_t i = 0; i < c.losses.size(); ++i) c.losses[i].points[7].y = c.losses[i].points[0].y = bad[i % 3];
  const auto page = esft::render_html(esft::comparison_report(c));
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_EQ(occurrences(page, "\"nan"), 0U);
  EXPECT_EQ(occurrences(page, "inf\""), 0U);
  EXPECT_GE(occurrences(page, "diverged"), c.arms.size());
}

TEST(loss_curves, take_the_colour_of_their_arm) {
  auto c = sample_comparison();
  c.arms.resize(1);
  c.arms[0].arm = "full";
  c.arms.push_back(c.arms[0]);
  c.arms[1].arm = "full-experts";
  c.losses.resize(1);
  c.losses[0].name = "full-experts, lr 1e-3";
  const auto page = esft::render_html(esft::comparison_report(c));
  const auto section = page.substr(page.find("Training loss</h2>"));
  const auto drawing = section.substr(0, section.find("</svg>"));
  EXPECT_EQ(occurrences(drawing, "<polyline"), 1U);
  EXPECT_EQ(occurrences(drawing.substr(drawing.find("<polyline")), "s-series-1"), 1U);
}

}  // namespace analysis_report_tests
