// SPDX-License-Identifier: Apache-2.0
#include <esft/io/routing_log.hpp>
#include <esft/io/score_summary.hpp>

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io_test.hpp"

namespace routing_log_tests {

using esft::input_error_code;
using esft::layer_index;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::spill;

TEST(routing_log, visits_every_line_of_every_layer_in_order) {
  const scratch_directory scratch;
  spill(scratch / "expert_weights_10.txt", "3\t1\t\t0.5\t0.25\n");
  spill(scratch / "expert_weights_2.txt", "0\t1\t2\t3\t\t0.5\t0.25\t1e-4\t0.0\n1\t0\t\t0.75\t0.25\r\n");
  spill(scratch / "readme.md", "x");
  std::vector<std::string> seen;
  esft::read_routing_logs(scratch.path(), {4, 2}, [&](const esft::routing_record& record) {
    std::string text = std::to_string(record.layer.value) + ":";
    for (const auto id : record.ids) text += std::to_string(id) + ",";
    seen.push_back(text + std::to_string(record.weights.size()));
    EXPECT_EQ(record.experts, 4);
    EXPECT_EQ(record.active, 2);
    EXPECT_TRUE(record.sample.empty());
    EXPECT_EQ(record.weights[1], 0.25F);
  });
  EXPECT_EQ(seen, (std::vector<std::string>{"2:0,1,2,3,4", "2:1,0,2", "10:3,1,2"}));
}

TEST(routing_log, malformed_lines_name_file_and_line) {
  const scratch_directory scratch;
  const auto path = scratch / "expert_weights_1.txt";
  const auto expect_refused = [&](input_error_code code, const std::string& line) {
    SCOPED_TRACE(line);
    spill(path, "0\t1\t\t0.5\t0.5\n" + line + "\n");
    int visited = 0;
    expect_input_error(
        code,
        [&] {
          esft::read_routing_logs(scratch.path(), {4, 2}, [&](const auto&) { ++visited; });
        },
        "expert_weights_1.txt:2");
    EXPECT_EQ(visited, 1);
  };
  expect_refused(input_error_code::bad_record, "0\t1");
  expect_refused(input_error_code::bad_record, "0\t1\t\t0.5");
  expect_refused(input_error_code::bad_record, "0\t1\t2\t\t0.5\t0.5\t0.5");
  expect_refused(input_error_code::bad_record, "\t\t");
  expect_refused(input_error_code::bad_record, "0\tx\t\t0.5\t0.5");
  expect_refused(input_error_code::bad_record, "0 1\t\t0.5\t0.5");
  expect_refused(input_error_code::bad_record, "0\t1\t\t0.5\t0.5\t");
  expect_refused(input_error_code::bad_record, "1\t1\t\t0.5\t0.5");
  expect_refused(input_error_code::bad_record, "0\t99999999999\t\t0.5\t0.5");
  expect_refused(input_error_code::out_of_range, "0\t4\t\t0.5\t0.5");
  expect_refused(input_error_code::out_of_range, "0\t-1\t\t0.5\t0.5");
  expect_refused(input_error_code::out_of_range, "0\t1\t\t0.5\tnan");
  expect_refused(input_error_code::out_of_range, "0\t1\t\t0.5\t-0.5");
}

TEST(routing_log, directories_without_logs_are_refused) {
  const scratch_directory scratch;
  expect_input_error(input_error_code::nothing_to_load, [&] { esft::find_routing_logs(scratch.path()); });
  expect_input_error(input_error_code::nothing_to_load, [&] { esft::find_routing_logs(scratch / "absent"); });
  spill(scratch / "expert_weights_x.txt", "");
  expect_input_error(input_error_code::bad_record, [&] { esft::find_routing_logs(scratch.path()); }, "expert_weights_x");
}

TEST(score_summary, reads_back_with_four_decimals) {
  esft::score_summary summary;
  summary.token_scores.layers[layer_index(10)].scores = {0.123449, 0.87655};
  summary.token_scores.layers[layer_index(2)].scores = {0, 1};
  summary.gate_scores.layers[layer_index(2)].scores = {0.5, 0.00004};
  const auto back = esft::parse_score_summary(esft::write_score_summary(summary), "summary.json");
  EXPECT_EQ(back.token_scores.layers.at(layer_index(10)).scores, (std::vector<double>{0.1234, 0.8766}));
  EXPECT_EQ(back.token_scores.layers.at(layer_index(2)).scores, (std::vector<double>{0, 1}));
  EXPECT_EQ(back.gate_scores.layers.at(layer_index(2)).scores, (std::vector<double>{0.5, 0}));
}

TEST(score_summary, scores_of_other_scorers_keep_every_digit) {
  esft::score_summary summary;
  summary.token_scores.layers[layer_index(2)].scores = {0.25, 0.75};
  summary.others["fisher"].layers[layer_index(2)].scores = {1.0 / 3 * 1e-12, 0};
  summary.others["reap"].layers[layer_index(2)].scores = {123456.789012345, 0.1};
  const std::string text = esft::write_score_summary(summary);
  const auto back = esft::parse_score_summary(text, "summary.json");
  EXPECT_EQ(back.names(), (std::vector<std::string>{"token", "fisher", "reap"}));  // no gate scores were given
  for (const char* name : {"fisher", "reap"}) {
    ASSERT_NE(back.find(name), nullptr);
    EXPECT_EQ(back.find(name)->layers.at(layer_index(2)).scores, summary.others[name].layers[layer_index(2)].scores);
  }
  EXPECT_EQ(back.find("gate"), nullptr);
  EXPECT_EQ(back.find("taylor"), nullptr);
  EXPECT_EQ(esft::write_score_summary(back), text);
  summary.others.clear();
  EXPECT_EQ(esft::write_score_summary(summary).find("other_scores"), std::string::npos);  // the official file has no such key
  expect_input_error(
      input_error_code::out_of_range, [] { esft::parse_score_summary(R"({"other_scores":{"reap":{"1":{"0":-1}}}})", "s.json"); }, "reap");
}

TEST(score_summary, refuses_what_is_not_a_table) {
  const auto expect_refused = [](input_error_code code, const std::string& token_scores) {
    expect_input_error(
        code, [&] { esft::parse_score_summary(R"({"gate_scores":{},"token_scores":)" + token_scores + "}", "s.json"); }, "s.json");
  };
  expect_refused(input_error_code::bad_record, R"({"1":{}})");
  expect_refused(input_error_code::out_of_range, R"({"1":{"0":0.5,"2":0.5}})");
  expect_refused(input_error_code::out_of_range, R"({"1":{"0":-0.5}})");
  expect_refused(input_error_code::out_of_range, R"({"x":{"0":0.5}})");
  expect_refused(input_error_code::wrong_type, R"({"1":{"0":"0.5"}})");
  expect_input_error(input_error_code::missing_key, [] { esft::parse_score_summary("{}", "s.json"); }, "token_scores");
}

}  // namespace routing_log_tests
