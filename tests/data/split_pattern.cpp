// SPDX-License-Identifier: Apache-2.0
#include <esft/data/tokenizers/nfc.hpp>
#include <esft/data/tokenizers/split_pattern_parser.hpp>

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace split_pattern_tests {

/// Matches in angle brackets, gaps bare.
std::string split(const std::string& pattern, const std::string& text) {
  const esft::code_sequence codes(text);
  std::string result;
  esft::parse_split_pattern(pattern).split(codes.codes, [&](std::size_t begin, std::size_t end, bool is_match) {
    const std::string piece = text.substr(codes.starts[begin], codes.starts[end] - codes.starts[begin]);
    result += is_match ? "<" + piece + ">" : piece;
  });
  return result;
}

TEST(split_pattern, runs_are_greedy_and_give_back) {
  EXPECT_EQ(split("a+", "baab"), "b<aa>b");
  EXPECT_EQ(split(R"(\p{N}{1,3})", "12345x6"), "<123><45>x<6>");
  EXPECT_EQ(split(R"(\s*[\r\n]+)", "a  \n\n  b"), "a<  \n\n>  b");
  EXPECT_EQ(split(R"(\s+(?!\S))", "a   b  "), "a<  > b<  >");
  EXPECT_EQ(split("[^ab]?a", "ca ba xa"), "<ca> b<a> <xa>");
}

TEST(split_pattern, the_first_alternative_that_fits_wins) {
  EXPECT_EQ(split("a|ab", "ab"), "<a>b");
  EXPECT_EQ(split("ab|a", "ab"), "<ab>");
}

TEST(split_pattern, words_in_any_case_know_letters_in_disguise) {
  EXPECT_EQ(split("(?i:'s|'re)", "'S 'rE '\xc5\xbf 'x"), "<'S> <'rE> <'\xc5\xbf> 'x");
  EXPECT_EQ(split("x(?i:'s)?", "x's x"), "<x's> <x>");
}

TEST(split_pattern, the_end_of_a_line_is_an_end) {
  EXPECT_EQ(split(R"(\s+$)", "a  b  "), "a  b<  >");
  EXPECT_EQ(split(R"(\s+$)", "a  \nb"), "a<  >\nb");
}

TEST(split_pattern, bytes_that_are_no_text_are_of_no_class) {
  EXPECT_EQ(split(R"([^\s\p{L}\p{N}]+)", "a\xff\xfe 1"), "a<\xff\xfe> 1");
  EXPECT_EQ(split(R"(\p{L}+)", "a\xff"), "<a>\xff");
}

TEST(split_pattern, what_is_not_understood_is_refused) {
  for (const char* pattern : {"", "a|", "a*", "a??", "a++", "(a)", "(?:a)", "(?=a)", "[a", "[]", "a{2", "a{2,1}", "\\d", "\\P{L}",
                              "\\p{Han}", "^a", ".", "[a&&b]", "[[a]]", "(?i:ss)", "(?i:\xc3\xa9)", "a{0}", "*", "[b-a]", "\\"}) {
    EXPECT_THROW((void)esft::parse_split_pattern(pattern), esft::error) << pattern;
  }
  for (const char* pattern : {"a", "a?b", "a{2}", "[a\\]]", "[&]", "[a-]", "\\.", "[\\p{Lu}x-z]"}) {
    EXPECT_NO_THROW((void)esft::parse_split_pattern(pattern)) << pattern;
  }
}

TEST(nfc, composes_orders_and_leaves_alone) {
  EXPECT_EQ(esft::nfc("e\xcc\x81"), "\xc3\xa9");
  EXPECT_EQ(esft::nfc("\xe2\x84\xab"), "\xc3\x85") << "the sign of the unit becomes the letter";
  EXPECT_EQ(esft::nfc("q\xcc\x87\xcc\xa3"), "q\xcc\xa3\xcc\x87") << "the mark below comes first";
  EXPECT_EQ(esft::nfc("\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8"), "\xea\xb0\x81") << "Hangul is composed by rule";
  EXPECT_EQ(esft::nfc("\xe0\xa5\x98"), "\xe0\xa4\x95\xe0\xa4\xbc") << "never composed again";
  EXPECT_EQ(esft::nfc("a\xff" "e\xcc\x81\xcc"), "a\xff\xc3\xa9\xcc") << "bytes that are no text stay";
  EXPECT_EQ(esft::nfc("plain"), "plain");
}

}  // namespace split_pattern_tests
