// SPDX-License-Identifier: Apache-2.0
// Statistics, overlaps and the text of numbers.
#include <esft/analysis/overlap.hpp>
#include <esft/analysis/routing_stats.hpp>
#include <esft/analysis/text.hpp>

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace analysis_figures_tests {

using esft::expert_index;
using esft::layer_index;

esft::expert_set set_of(std::vector<std::vector<int>> layers) {
  esft::expert_set set;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    auto& experts = set.layers[layer_index(static_cast<std::int32_t>(l))];
    for (const int id : layers[l]) experts.emplace_back(id);
  }
  return set;
}

TEST(overlap, counts_shared_and_united_experts) {
  const auto result = esft::overlap(set_of({{0, 1, 2}, {5}, {}}), set_of({{2, 3, 1}, {6}, {}}));
  EXPECT_EQ(result.layers.at(layer_index(0)).shared, 2U);
  EXPECT_EQ(result.layers.at(layer_index(0)).united, 4U);
  EXPECT_DOUBLE_EQ(result.layers.at(layer_index(0)).jaccard(), .5);
  EXPECT_DOUBLE_EQ(result.layers.at(layer_index(1)).jaccard(), 0);
  EXPECT_DOUBLE_EQ(result.layers.at(layer_index(2)).jaccard(), 1);
  EXPECT_DOUBLE_EQ(result.mean_shared(), 2.0 / 3);
  EXPECT_DOUBLE_EQ(result.mean_jaccard(), .5);
  EXPECT_THROW(static_cast<void>(esft::overlap(set_of({{0}}), set_of({{0}, {1}}))), esft::contract_violation);
}

TEST(overlap, is_symmetric_and_full_with_itself) {
  EXPECT_TRUE(rc::check([](const std::set<std::uint8_t>& a, const std::set<std::uint8_t>& b) {
    const auto first = set_of({std::vector<int>(a.begin(), a.end())});
    const auto second = set_of({std::vector<int>(b.begin(), b.end())});
    RC_ASSERT(esft::overlap(first, second).mean_jaccard() == esft::overlap(second, first).mean_jaccard());
    RC_ASSERT(esft::overlap(first, first).mean_jaccard() == 1.0);
    RC_ASSERT(esft::overlap(first, first).mean_shared() == static_cast<double>(a.size()));
  }));
}

TEST(top_experts, of_two_tables) {
  std::vector<esft::score_table> tables(2);
  tables[0].layers[layer_index(1)].scores = {.1, .4, .3, .2};
  tables[1].layers[layer_index(1)].scores = {.25, .25, .25, .25};  // ties to the lower id
  EXPECT_EQ(esft::top_experts(tables[0], 2).layers.at(layer_index(1)), (std::vector{expert_index(1), expert_index(2)}));
  EXPECT_EQ(esft::top_experts(tables[0], 9).layers.at(layer_index(1)).size(), 4U);
  const auto matrix = esft::shared_top_experts(tables, 2);
  EXPECT_EQ(matrix, (std::vector<std::vector<double>>{{2, 1}, {1, 2}}));
  EXPECT_DOUBLE_EQ(esft::shared_by_chance(4, 32), .5);
}

TEST(statistics, of_even_skewed_and_missing_loads) {
  const std::vector<double> even{2, 2, 2, 2};
  const auto flat = esft::statistics_of(even);
  EXPECT_DOUBLE_EQ(flat.sum, 8);
  EXPECT_DOUBLE_EQ(flat.entropy, std::log(4.0));
  EXPECT_DOUBLE_EQ(flat.evenness, 1);
  EXPECT_DOUBLE_EQ(flat.imbalance, 1);
  EXPECT_TRUE(flat.dead.empty());
  const std::vector<double> skewed{0, 3, 1, 0};
  const auto steep = esft::statistics_of(skewed);
  EXPECT_DOUBLE_EQ(steep.largest_share, .75);
  EXPECT_DOUBLE_EQ(steep.imbalance, 3);
  EXPECT_DOUBLE_EQ(steep.entropy, -.75 * std::log(.75) - .25 * std::log(.25));
  EXPECT_EQ(steep.dead, (std::vector{expert_index(0), expert_index(3)}));
  const std::vector<double> nothing{0, 0};
  EXPECT_EQ(esft::statistics_of(nothing).dead.size(), 2U);
  EXPECT_EQ(esft::statistics_of(nothing).entropy, 0);
  const std::vector<double> bad{1, std::nan("")};
  EXPECT_THROW(static_cast<void>(esft::statistics_of(bad)), esft::contract_violation);
}

TEST(load_counter, counts_real_tokens_only) {
  esft::load_counter counter;
  const std::vector<std::int32_t> ids{0, 1, 2, 1, 99, 99};
  const std::vector<float> weights(6, .5F);
  const std::vector<std::int32_t> sample{0, 0, -1};
  const esft::routing_record record{layer_index(2), 4, 2, ids, weights, sample};
  counter.observe(record);
  counter.observe(record);
  EXPECT_EQ(counter.loads().at(layer_index(2)), (std::vector<double>{2, 4, 2, 0}));
  EXPECT_EQ(counter.statistics().at(layer_index(2)).dead, (std::vector{expert_index(3)}));
  const esft::routing_record unmarked{layer_index(2), 4, 2, ids, weights, {}};
  EXPECT_THROW(counter.observe(unmarked), esft::contract_violation);
}

TEST(number_text, is_what_people_read) {
  EXPECT_EQ(esft::fixed_text(-0.00001, 2), "0.00");
  EXPECT_EQ(esft::fixed_text(-0.01, 2), "-0.01");
  EXPECT_EQ(esft::fixed_text(std::nan(""), 2), "not finite");
  EXPECT_EQ(esft::short_text(12.0), "12");
  EXPECT_EQ(esft::short_text(100.0), "100");
  EXPECT_EQ(esft::short_text(.5), "0.5");
  EXPECT_EQ(esft::exact_text(.2), "0.2");
  EXPECT_EQ(esft::rate_text(3e-3), "3e-3");
  EXPECT_EQ(esft::rate_text(2.5e-5), "2.5e-5");
  EXPECT_EQ(esft::rate_text(1e-12), "1e-12");
  EXPECT_EQ(esft::rate_text(1), "1e0");
  EXPECT_EQ(esft::rate_text(0), "0e0");
  EXPECT_EQ(esft::count_text(0), "0");
  EXPECT_EQ(esft::count_text(999), "999");
  EXPECT_EQ(esft::count_text(999'999), "1 M");
  EXPECT_EQ(esft::count_text(3'590'000), "3.59 M");
  EXPECT_EQ(esft::count_text(15'706'484'224), "15.7 G");
  EXPECT_EQ(esft::bytes_text(7'184'096), "7.18 MB");
  EXPECT_EQ(esft::bytes_text(512), "512 B");
}

TEST(escape, leaves_text_and_removes_markup_and_broken_bytes) {
  EXPECT_EQ(esft::escape_markup("plain, \xc3\xa9 \xe2\x9c\x93 \xf0\x9f\x8e\x89"), "plain, \xc3\xa9 \xe2\x9c\x93 \xf0\x9f\x8e\x89");
  EXPECT_EQ(esft::escape_markup("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  const std::string replaced = "\xef\xbf\xbd";
  for (const std::string bad : {"\x01", "\x7f", "\xff", "\xc3", "\x80"}) EXPECT_EQ(esft::escape_markup(bad), replaced);
  for (const std::string bad :
       {"\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe0\x80\xaf", "\xef\xbf\xbf"}) {  // overlong, surrogate, too large
    EXPECT_EQ(esft::escape_markup(bad).find(bad), std::string::npos);
    EXPECT_EQ(esft::escape_markup(bad).find(replaced), 0U);
  }
  EXPECT_EQ(esft::character_count("a\xc3\xa9\xe2\x9c\x93"), 3U);
}

}  // namespace analysis_figures_tests
