// SPDX-License-Identifier: Apache-2.0
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "io_test.hpp"

namespace json_tests {

using esft::input_error_code;
using esft::json_reader;
using esft::json_value;
using esft::parse_json;
using esft::test::expect_input_error;

json_value parse(std::string_view text) { return parse_json(text, "f.json"); }
void expect_parse_error(input_error_code code, std::string_view text) {
  SCOPED_TRACE(text.substr(0, 60));
  expect_input_error(code, [&] { parse(text); }, "f.json");
}

TEST(json, reads_every_kind_of_value) {
  const json_value tree =
      parse(R"( {"a":[1,-2,18446744073709551615,0.5,1e3,true,false,null],"b":{"c":"x\u00e9\ud83d\ude00\n\/"}, "":{} } )");
  const json_reader root(tree, "f.json");
  const auto list = root.at("a").elements();
  ASSERT_EQ(list.size(), 8U);
  EXPECT_EQ(list[0].integer(0, 1), 1);
  EXPECT_EQ(list[1].integer(-2, 1), -2);
  EXPECT_EQ(*list[2].value().get_if<std::uint64_t>(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(list[3].number(0, 1), 0.5);
  EXPECT_EQ(list[4].number(0, 1e4), 1000.0);
  EXPECT_TRUE(list[5].boolean());
  EXPECT_FALSE(list[6].boolean());
  EXPECT_TRUE(list[7].is_null());
  EXPECT_EQ(root.at("b").at("c").string(), "x\xc3\xa9\xf0\x9f\x98\x80\n/");
  EXPECT_TRUE(root.at("").members().empty());
}

TEST(json, refuses_what_is_not_json) {
  for (const char* text : {"",      " ",    "{",        "[",      "[1",   "[1,]",    "{\"a\"}",     "{\"a\":}",      "{\"a\":1,}",
                           "{a:1}", "01",   "-",        "+1",     ".5",   "1.",      "1e",          "1e+",           "tru",
                           "nul",   "NaN",  "Infinity", "'a'",    "\"a",  "\"\\x\"", "\"\\u12g4\"", "\"\\u12",       "1 2",
                           "{} x",  "[1]]", "// c\n1",  "\"\n\"", "\"\\", "[1 2]",   "{\"a\" 1}",   "\xef\xbb\xbf{}"}) {
    expect_parse_error(input_error_code::bad_json, text);
  }
  expect_parse_error(input_error_code::bad_json, std::string_view("1\0", 2));
  for (const char* text : {"0", "-0", "1.5E-2", "[]", "{}", "\"\"", " [ 1 , 2 ] \n"}) EXPECT_NO_THROW(parse(text)) << text;
}

TEST(json, refuses_bad_unicode) {
  for (const char* text : {"\"\xff\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf5\x80\x80\x80\"", "\"\xe2\x82\"", "\"\\ud800\"",
                           "\"\\udc00\"", "\"\\ud800\\u0041\"", "\"\xf0\x80\x80\x80\""}) {
    expect_parse_error(input_error_code::bad_utf8, text);
  }
  EXPECT_NO_THROW(parse("\"\xe2\x82\xac\xf4\x8f\xbf\xbf\""));
}

TEST(json, refuses_duplicate_keys_and_escaped_twins) {
  expect_parse_error(input_error_code::duplicate_key, R"({"a":1,"a":2})");
  expect_parse_error(input_error_code::duplicate_key, R"({"a":1,"\u0061":2})");
  expect_parse_error(input_error_code::duplicate_key, R"({"x":{"a":1,"b":0,"a":1}})");
  EXPECT_NO_THROW(parse(R"({"a":{"a":1},"b":{"a":2}})"));
}

TEST(json, bounds_the_depth) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_NO_THROW(parse(nested(esft::json_depth_limit)));
  expect_parse_error(input_error_code::too_deep, nested(esft::json_depth_limit + 1));
  expect_parse_error(input_error_code::too_deep, std::string(200'000, '['));
}

TEST(json, numbers_are_exact_or_refused) {
  expect_parse_error(input_error_code::out_of_range, "1e400");
  expect_parse_error(input_error_code::out_of_range, "-1e400");
  EXPECT_EQ(*parse("9223372036854775807").get_if<std::int64_t>(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(*parse("-9223372036854775808").get_if<std::int64_t>(), std::numeric_limits<std::int64_t>::min());
  EXPECT_NE(parse("18446744073709551616").get_if<double>(), nullptr);
  const bool holds = rc::check("decimal text of a double reads back as the double", [](double value) {
    RC_PRE(std::isfinite(value));
    const json_value back = parse(esft::write_json(value));
    RC_ASSERT(back.get_if<double>() != nullptr && *back.get_if<double>() == value);
  });
  EXPECT_TRUE(holds);
}

TEST(json_reader, nothing_converts_in_silence) {
  for (const char* text : {"8.0", "8.9", "1e1", "\"8\"", "true", "null", "[8]", "18446744073709551616"}) {
    const json_value tree = parse(text);
    expect_input_error(
        input_error_code::wrong_type, [&] { static_cast<void>(json_reader(tree, "f").integer(0, 10)); }, "must be an integer");
  }
  for (const char* text : {"-1", "11", "4294967298", "18446744073709551615"}) {
    const json_value tree = parse(text);
    expect_input_error(input_error_code::out_of_range, [&] { static_cast<void>(json_reader(tree, "f").integer(0, 10)); }, "[0, 10]");
  }
  const json_value tree = parse(R"({"a":{"b":1}})");
  const json_reader root(tree, "f");
  expect_input_error(input_error_code::missing_key, [&] { static_cast<void>(root.at("a").at("c")); }, "'/a'");
  expect_input_error(input_error_code::wrong_type, [&] { static_cast<void>(root.at("a").at("b").string()); }, "'/a/b'");
  expect_input_error(input_error_code::wrong_type, [&] { static_cast<void>(root.at("a").boolean()); });
  expect_input_error(input_error_code::wrong_type, [&] { static_cast<void>(root.at("a").elements()); });
  expect_input_error(input_error_code::wrong_type, [&] { static_cast<void>(root.at("a").at("b").members()); });
  expect_input_error(input_error_code::wrong_type, [&] { static_cast<void>(root.at("a").number(0, 1)); });
  EXPECT_EQ(root.at("a").at("b").integer(1, 1), 1);
  EXPECT_FALSE(root.find("z").has_value());
}

TEST(json_writer, keeps_order_and_reads_back) {
  json_value tree = esft::json_object();
  tree.add("z", 1)
      .add("a", json_value::array{1.5, "q\"\\\n\x01", nullptr, true})
      .add("e", esft::json_object())
      .add("n", esft::json_array().push(esft::json_array()));
  tree.add("one", 1.0);
  EXPECT_EQ(esft::write_json(tree, esft::json_layout::compact), R"({"z":1,"a":[1.5,"q\"\\\n\u0001",null,true],"e":{},"n":[[]],"one":1.0})");
  EXPECT_EQ(parse(esft::write_json(tree)), tree);
  EXPECT_EQ(parse(esft::write_json(tree, esft::json_layout::compact)), tree);
  EXPECT_EQ(esft::write_json(std::nan(""), esft::json_layout::compact), "null");
}

TEST(json_writer, any_text_reads_back) {
  const bool holds = rc::check("strings of any bytes that are UTF-8", [](const std::string& bytes) {
    std::string text;
    for (const char byte : bytes) esft::append_utf8(text, static_cast<unsigned char>(byte) * 0xc0U + 1U);
    RC_ASSERT(*parse(esft::write_json(text)).get_if<std::string>() == text);
  });
  EXPECT_TRUE(holds);
}

}  // namespace json_tests
