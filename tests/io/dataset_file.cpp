// SPDX-License-Identifier: Apache-2.0
#include <esft/io/dataset_file.hpp>

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "io_test.hpp"

namespace dataset_file_tests {

using esft::bad_record_policy;
using esft::dataset_kind;
using esft::input_error_code;
using esft::read_dataset;
using esft::test::expect_input_error;
using esft::test::scratch_directory;
using esft::test::slurp;
using esft::test::spill;

TEST(line_reader, any_text_comes_back_line_by_line) {
  const scratch_directory scratch;
  const bool holds = rc::check("lines", [&](const std::vector<std::string>& texts, bool crlf, bool mark, bool final_end) {
    std::vector<std::string> lines;
    for (std::string text : texts) {
      std::erase_if(text, [](char c) { return c == '\n' || c == '\r' || c == '\xef'; });
      lines.push_back(text + "x");
    }
    std::string bytes = mark ? "\xef\xbb\xbf" : "";
    for (std::size_t i = 0; i < lines.size(); ++i) bytes += lines[i] + (i + 1 < lines.size() || final_end ? (crlf ? "\r\n" : "\n") : "");
    spill(scratch / "a", bytes);
    esft::line_reader reader(scratch / "a");
    for (const std::string& line : lines) {
      RC_ASSERT(reader.next());
      RC_ASSERT(reader.line() == line);
    }
    RC_ASSERT(reader.next() == (lines.empty() && mark));  // a file of nothing but a mark has one empty line
  });
  EXPECT_TRUE(holds);
}

TEST(line_reader, long_files_and_long_lines) {
  const scratch_directory scratch;
  std::string bytes;
  for (int i = 0; i < 200'000; ++i) bytes += std::to_string(i) + "\n";
  spill(scratch / "a", bytes);
  esft::line_reader reader(scratch / "a");
  for (int i = 0; i < 200'000; ++i) {
    ASSERT_TRUE(reader.next());
    ASSERT_EQ(reader.line(), std::to_string(i));
  }
  EXPECT_FALSE(reader.next());
  EXPECT_EQ(bytes.size(), reader.file_size());
  spill(scratch / "b", "ok\n" + std::string(101, 'x') + "\n");
  esft::line_reader capped(scratch / "b", 100);
  EXPECT_TRUE(capped.next());
  expect_input_error(input_error_code::line_too_long, [&] { capped.next(); }, "line 2");
  spill(scratch / "b", std::string(100, 'x'));
  EXPECT_TRUE(esft::line_reader(scratch / "b", 100).next());
}

TEST(dataset_file, tells_the_three_kinds_apart) {
  const scratch_directory scratch;
  const auto path = scratch / "d.jsonl";
  spill(path, "\xef\xbb\xbf{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\",\"mask\":1},"
              "{\"role\":\"assistant\",\"content\":\"b\"}],\"id\":7}\r\n\n");
  const auto chat = read_dataset(path);
  EXPECT_EQ(chat.kind, dataset_kind::messages);
  ASSERT_EQ(chat.records.size(), 1U);
  EXPECT_EQ(chat.records[0].messages[1], (esft::dataset_message{"assistant", "a", true}));
  EXPECT_FALSE(chat.records[0].messages[2].masked);
  spill(path, R"({"prompt":"p","completion":"c","label":"l"})" "\n" R"({"prompt":"","completion":"d"})");
  const auto pairs = read_dataset(path);
  EXPECT_EQ(pairs.kind, dataset_kind::prompt_completion);
  ASSERT_EQ(pairs.records.size(), 2U);
  EXPECT_EQ(pairs.records[0].prompt, "p");
  EXPECT_EQ(pairs.records[0].label, "l");
  EXPECT_EQ(pairs.records[1].completion, "d");
  EXPECT_FALSE(pairs.records[1].label.has_value());
  EXPECT_EQ(pairs.records[1].line, 2U);
  spill(path, R"({"text":"\u00e9"})");
  EXPECT_EQ(read_dataset(path).kind, dataset_kind::text);
  EXPECT_EQ(read_dataset(path).records[0].text, "\xc3\xa9");
}

TEST(dataset_file, malformed_records_are_errors_or_counted) {
  const scratch_directory scratch;
  const auto path = scratch / "d.jsonl";
  const auto expect_bad = [&](input_error_code code, const std::string& line) {
    SCOPED_TRACE(line);
    spill(path, "{\"text\":\"good\"}\n" + line + "\n{\"text\":\"good too\"}\n");
    expect_input_error(code, [&] { read_dataset(path); }, "d.jsonl:2");
    const auto rest = read_dataset(path, bad_record_policy::skip);
    EXPECT_EQ(rest.records.size(), 2U);
    EXPECT_EQ(rest.skipped, 1U);
    EXPECT_NE(rest.first_problem.find("d.jsonl:2"), std::string::npos);
  };
  expect_bad(input_error_code::bad_json, "{\"text\":");
  expect_bad(input_error_code::bad_utf8, "{\"text\":\"\xff\"}");
  expect_bad(input_error_code::bad_utf8, R"({"text":"\ud800"})");
  expect_bad(input_error_code::duplicate_key, R"({"text":"a","text":"b"})");
  expect_bad(input_error_code::missing_key, R"({"body":"a"})");
  expect_bad(input_error_code::missing_key, R"({"prompt":"a"})");
  expect_bad(input_error_code::wrong_type, R"({"text":5})");
  expect_bad(input_error_code::wrong_type, R"(["a"])");
  expect_bad(input_error_code::bad_record, R"({"text":""})");
  expect_bad(input_error_code::bad_record, R"({"prompt":"p","completion":"c"})");
}

TEST(dataset_file, conversations_need_a_target_and_known_roles) {
  const scratch_directory scratch;
  const auto path = scratch / "d.jsonl";
  const auto expect_bad = [&](input_error_code code, const std::string& turns) {
    spill(path, R"({"messages":[)" + turns + "]}");
    expect_input_error(code, [&] { read_dataset(path); }, "d.jsonl:1");
    expect_input_error(input_error_code::nothing_to_load, [&] { read_dataset(path, bad_record_policy::skip); }, "d.jsonl:1");
  };
  expect_bad(input_error_code::bad_record, R"({"role":"user","content":"q"})");
  expect_bad(input_error_code::bad_record, R"({"role":"assistant","content":"q","mask":1})");
  expect_bad(input_error_code::bad_record, R"({"role":"narrator","content":"q"},{"role":"assistant","content":"a"})");
  expect_bad(input_error_code::bad_record, R"({"role":"tool","content":"q"},{"role":"assistant","content":"a"})");  // no template writes it
  expect_bad(input_error_code::missing_key, R"({"role":"assistant"})");
  expect_bad(input_error_code::out_of_range, R"({"role":"assistant","content":"q","mask":2})");
  expect_bad(input_error_code::bad_record, "");
  for (const char* nothing : {"", "\n \n\t\n"}) {
    spill(path, nothing);
    expect_input_error(input_error_code::nothing_to_load, [&] { read_dataset(path); });
  }
}

TEST(jsonl_writer, appends_and_repairs_an_unfinished_line) {
  const scratch_directory scratch;
  const auto path = scratch / "metrics.jsonl";
  esft::jsonl_writer(path).write(esft::json_object().add("step", 1));
  spill(path, slurp(path) + "{\"st");
  esft::jsonl_writer writer(path);
  writer.write(esft::json_object().add("step", 2));
  EXPECT_EQ(slurp(path), "{\"step\":1}\n{\"step\":2}\n");
  std::vector<std::int64_t> steps;
  esft::read_jsonl(path, [&](const esft::json_reader& line) { steps.push_back(line.at("step").integer(0, 9)); });
  EXPECT_EQ(steps, (std::vector<std::int64_t>{1, 2}));
  EXPECT_THROW(esft::jsonl_writer{scratch / "no" / "m.jsonl"}, esft::storage_error);
}

}  // namespace dataset_file_tests
