// SPDX-License-Identifier: Apache-2.0
#include <esft/data/tokenizers/bpe_tokenizer.hpp>
#include <esft/io/tokenizer_json.hpp>

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace tokenizer_json_tests {

/// A small tokenizer in which one part is exchanged.
struct parts {
  std::string normalizer = "null";
  std::string pre_tokenizer = R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";
  std::string post_processor = "null";
  std::string decoder = R"({"type":"ByteLevel"})";
  std::string model = R"({"type":"BPE","vocab":{"a":0,"b":1,"ab":2,"c":5},"merges":[["a","b"]]})";
  std::string added = "[]";
  std::string more = "";

  [[nodiscard]] std::string text() const {
    return R"({"version":"1.0","truncation":null,"padding":{"length":8},"added_tokens":)" + added + R"(,"normalizer":)" + normalizer +
           R"(,"pre_tokenizer":)" + pre_tokenizer + R"(,"post_processor":)" + post_processor + R"(,"decoder":)" + decoder + R"(,"model":)" +
           model + more + "}";
  }
  [[nodiscard]] esft::bpe_tokenizer tokenizer() const { return esft::bpe_tokenizer(esft::parse_tokenizer_json(text(), "t.json")); }
};

/// The message of the refusal, which must come and must name the file.
std::string refusal(const parts& changed) {
  try {
    (void)changed.tokenizer();
  } catch (const esft::error& problem) {
    EXPECT_EQ(problem.category(), esft::error_category::bad_input);
    EXPECT_EQ(std::string(problem.what()).find("t.json: "), 0U) << problem.what();
    return problem.what();
  }
  return "accepted";
}

TEST(tokenizer_json, a_small_tokenizer_is_read_and_used) {
  const esft::bpe_tokenizer words = parts{}.tokenizer();
  EXPECT_EQ(words.encode("abcab"), (std::vector<std::int32_t>{2, 5, 2}));
  EXPECT_EQ(words.decode(std::vector<std::int32_t>{2, 5, 3}), "abc") << "an id without a piece is silent";
  EXPECT_EQ(words.vocab_size, 6U);
}

TEST(tokenizer_json, merges_have_two_forms) {
  const parts old{.model = R"({"vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]})"};
  EXPECT_EQ(old.tokenizer().encode("ab"), (std::vector<std::int32_t>{2}));
}

TEST(tokenizer_json, components_that_are_not_done_exactly_are_named) {
  using testing_case = std::pair<parts, const char*>;
  const std::vector<testing_case> cases{
      {{.normalizer = R"({"type":"NFKC"})"}, "'NFKC'"},
      {{.normalizer = R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Lowercase"}]})"}, "'Lowercase'"},
      {{.normalizer = R"({"type":"Replace","pattern":{"Regex":"a+"},"content":"b"})"}, "regular expression"},
      {{.pre_tokenizer = R"({"type":"Whitespace"})"}, "'Whitespace'"},
      {{.pre_tokenizer = R"({"type":"ByteLevel","new_option":1})"}, "'new_option'"},
      {{.pre_tokenizer = R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"MergedWithNext","invert":false})"}, "'MergedWithNext'"},
      {{.pre_tokenizer = R"({"type":"Split","pattern":{"String":"a"},"behavior":"Isolated","invert":false})"}, "plain string"},
      {{.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[{"type":"ByteLevel"},{"type":"Digits"}]})"}, "'Digits' after ByteLevel"},
      {{.pre_tokenizer = R"({"type":"Digits","individual_digits":true})"}, "without ByteLevel"},
      {{.post_processor = R"({"type":"BertProcessing","sep":["a",0],"cls":["a",0]})"}, "'BertProcessing'"},
      {{.decoder = R"({"type":"WordPiece"})"}, "'WordPiece'"},
      {{.decoder = "null"}, "without a decoder"},
      {{.model = R"({"type":"Unigram","vocab":[]})"}, "'Unigram'"},
      {{.model = R"({"type":"BPE","dropout":0.1,"vocab":{"a":0},"merges":[]})"}, "at random"},
      {{.model = R"({"type":"BPE","continuing_subword_prefix":"##","vocab":{"a":0},"merges":[]})"}, "affix"},
      {{.model = R"({"type":"BPE","byte_fallback":true,"vocab":{"a":0},"merges":[]})"}, "byte fallback"},
      {{.more = R"(,"surprise":1)"}, "'surprise'"},
  };
  for (const auto& [changed, word] : cases) EXPECT_NE(refusal(changed).find(word), std::string::npos) << word << ": " << refusal(changed);
}

TEST(tokenizer_json, an_unknown_regular_expression_is_quoted) {
  const auto split = [](const std::string& regex) {
    return parts{.pre_tokenizer = R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":")" + regex +
                                  R"("},"behavior":"Isolated","invert":false},)"
                                  R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})"};
  };
  EXPECT_EQ(split("a|b+").tokenizer().encode("ab"), (std::vector<std::int32_t>{0, 1}));
  EXPECT_NE(refusal(split("a(?=b)")).find("'a(?=b)' is not understood from character 2"), std::string::npos);
}

TEST(tokenizer_json, a_vocabulary_that_contradicts_itself_is_refused) {
  using testing_case = std::pair<parts, const char*>;
  const std::vector<testing_case> cases{
      {{.model = R"({"vocab":{"a":0,"a":1},"merges":[]})"}, "twice"},
      {{.model = R"({"vocab":{"a":0,"b":0},"merges":[]})"}, "has the id 0"},
      {{.model = R"({"vocab":{"a":-1},"merges":[]})"}, "must lie in"},
      {{.model = R"({"vocab":{"a":99999999},"merges":[]})"}, "must lie in"},
      {{.model = R"({"vocab":{"a":"0"},"merges":[]})"}, "integer"},
      {{.model = R"({"vocab":["a"],"merges":[]})"}, "has another type"},
      {{.model = R"({"vocab":{},"merges":[]})"}, "empty"},
      {{.model = R"({"vocab":{"a":0},"merges":["aa"]})"}, "two tokens"},
      {{.model = R"({"vocab":{"a":0,"b":1},"merges":["a b"]})"}, "'ab' is not in the vocabulary"},
      {{.model = R"({"vocab":{"a":0},"merges":[["a","a","a"]]})"}, "two tokens"},
      {{.model = R"({"vocab":{"a":0},"merges":[[["a"]]]})"}, "pairs of tokens"},
      {{.model = R"({"vocab":{"a":{}},"merges":[]})"}, "from tokens to ids"},
      {{.model = R"({"unk_token":"?","vocab":{"a":0},"merges":[]})"}, "not in the vocabulary"},
      {{.added = R"([{"id":7,"content":"a","special":true}])"}, "'a' has the id 0"},
  };
  for (const auto& [changed, word] : cases) EXPECT_NE(refusal(changed).find(word), std::string::npos) << word << ": " << refusal(changed);
}

}  // namespace tokenizer_json_tests
