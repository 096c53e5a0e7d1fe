// SPDX-License-Identifier: Apache-2.0
#include <esft/data/tokenizers/bpe_tokenizer.hpp>
#include <esft/data/tokenizer.hpp>
#include <esft/io/tokenizer_json.hpp>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace bpe_tokenizer_tests {

using ids_t = std::vector<std::int32_t>;

static_assert(esft::tokenizer<esft::bpe_tokenizer>);

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(ESFT_TEST_SOURCE_DIR) / "tests" / "golden" / "tokenizers" / name;
}

esft::bpe_tokenizer family(const std::string& name) { return esft::bpe_tokenizer(esft::read_tokenizer_json(golden(name + ".json"))); }

ids_t ids_of(const esft::json_reader& list) {
  ids_t ids;
  for (const auto& id : list.elements()) ids.push_back(static_cast<std::int32_t>(id.integer(0, 1 << 24)));
  return ids;
}

/// U+FFFD for every longest beginning of a character that does not end, and for every byte that begins none: as Rust and Python replace.
std::string with_replacements(std::string_view text) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t length = esft::utf8_sequence_length(text, at);
    if (length > 0) {
      result.append(text, at, length);
      at += length;
      continue;
    }
    // the longest prefix that some ending completes
    static constexpr const char* endings[] = {"\x80", "\xbf", "\x80\x80", "\xbf\x80", "\x80\x80\x80"};
    std::size_t bad = 1;
    for (std::size_t prefix = std::min<std::size_t>(3, text.size() - at); prefix > 1 && bad == 1; --prefix) {
      for (const char* ending : endings) {
        const std::string completed = std::string(text.substr(at, prefix)) + ending;
        if (esft::utf8_sequence_length(completed, 0) == completed.size()) bad = prefix;
      }
    }
    result += "\xef\xbf\xbd";
    at += bad;
  }
  return result;
}

class golden_tokenizers : public ::testing::TestWithParam<const char*> {
 protected:
  static const esft::json_value& file() {
    static const esft::json_value tree = esft::parse_json(esft::read_small_file(golden("golden.json"), 1U << 20U), "golden.json");
    return tree;
  }
  const esft::json_reader root{file(), "golden.json"};
  const esft::json_reader own = root.at("families").at(GetParam());
};

TEST_P(golden_tokenizers, ids_are_those_of_the_reference) {
  const esft::bpe_tokenizer words = family(GetParam());
  const auto texts = root.at("texts").elements();
  const auto ids = own.at("ids").elements();
  ASSERT_EQ(texts.size(), ids.size());
  ASSERT_GT(texts.size(), 100U);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(words.encode(texts[i].string()), ids_of(ids[i])) << i << ": " << texts[i].string();
  }
  EXPECT_EQ(words.encode_framed(texts[15].string()), ids_of(own.at("framed")));
}

TEST_P(golden_tokenizers, decoding_agrees_with_the_reference) {
  const esft::bpe_tokenizer words = family(GetParam());
  const auto ids = own.at("ids").elements();
  const auto decoded = own.at("decoded").elements();
  ASSERT_GT(decoded.size(), 10U);
  for (std::size_t i = 0; i < decoded.size(); ++i) EXPECT_EQ(words.decode(ids_of(ids[4 * i])), decoded[i].string());
  const auto parts = own.at("parts").elements();
  ASSERT_GT(parts.size(), 30U);
  std::size_t cut = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    ids_t part = ids_of(ids[3 * i]);
    if (!part.empty()) part.erase(part.begin());
    if (!part.empty()) part.pop_back();
    const std::string ours = words.decode(part);
    const bool is_cut = esft::find_invalid_utf8(ours) != std::string::npos;
    cut += is_cut ? 1U : 0U;
    // with byte fallback the reference replaces every byte of a run of bytes that is not a text; ours keeps them
    if (is_cut && std::string(GetParam()).starts_with("mixtral")) continue;
    EXPECT_EQ(with_replacements(ours), parts[i].string()) << i;
  }
  if (std::string(GetParam()) == "qwen") {
    EXPECT_GT(cut, 0U) << "no golden part begins or ends within a character";
  }
}

TEST_P(golden_tokenizers, every_id_is_below_the_vocabulary_and_decodes_alone) {
  const esft::bpe_tokenizer words = family(GetParam());
  ASSERT_GT(words.vocab_size, 500U);
  for (std::size_t id = 0; id < words.vocab_size; ++id) EXPECT_NO_THROW((void)words.decode(ids_t{static_cast<std::int32_t>(id)}));
  EXPECT_EQ(words.decode(ids_t{static_cast<std::int32_t>(words.vocab_size)}), "") << "rows that pad an embedding mean nothing";
  EXPECT_THROW((void)words.decode(ids_t{-1}), esft::contract_violation);
}

INSTANTIATE_TEST_SUITE_P(families, golden_tokenizers,
                         ::testing::Values("qwen", "olmoe", "deepseek_v2", "deepseek_v3", "gpt_oss", "cl100k", "prefix_space", "mixtral",
                                           "mixtral_metaspace", "metaspace_split"),
                         [](const auto& info) { return std::string(info.param); });

TEST(bpe_tokenizer, bytes_that_are_no_text_survive_the_round_trip) {
  std::string all = "caf\xc3\xa9 \xc3";
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(static_cast<unsigned char>(byte));
  all += "\xed\xa0\x80 \xf4\x90\x80\x80 \xe4\xb8";
  for (const char* name : {"deepseek_v2", "deepseek_v3", "gpt_oss", "olmoe", "qwen"}) {
    const esft::bpe_tokenizer words = family(name);
    EXPECT_EQ(words.decode(words.encode(all)), all) << name;
  }
  const esft::bpe_tokenizer fallback = family("mixtral");
  EXPECT_EQ(fallback.decode(fallback.encode(all)), all);
}

TEST(bpe_tokenizer, one_letter_many_times_is_no_quadratic_work) {
  // heap and list: with a scan of all pairs a merge, these five texts would take minutes
  const std::string letters(100000, 'a');
  const std::string spaces = std::string(100000, ' ') + "x";
  for (const char* name : {"qwen", "deepseek_v2", "deepseek_v3", "gpt_oss", "mixtral"}) {
    const esft::bpe_tokenizer words = family(name);
    EXPECT_EQ(words.decode(words.encode(letters)), letters) << name;
    EXPECT_EQ(words.decode(words.encode(spaces)), spaces) << name;
  }
}

TEST(bpe_tokenizer, ordinary_text_cannot_say_special_tokens) {
  const esft::bpe_tokenizer words = family("qwen");
  const std::string forged = "a<|im_end|>b";
  const std::int32_t end = words.find_token("<|im_end|>").value();
  const auto count = [&](const ids_t& ids) { return std::count(ids.begin(), ids.end(), end); };
  EXPECT_EQ(count(words.encode(forged)), 1);
  EXPECT_EQ(words.decode(words.encode(forged)), "ab");
  EXPECT_EQ(count(words.encode_ordinary(forged)), 0);
  EXPECT_EQ(words.decode(words.encode_ordinary(forged)), forged);
  EXPECT_EQ(words.find_token("<|nothing|>"), std::nullopt);
}

TEST(bpe_tokenizer, text_that_continues_gets_no_second_prefix) {
  for (const char* name : {"mixtral", "mixtral_metaspace", "metaspace_split", "prefix_space"}) {
    const esft::bpe_tokenizer words = family(name);
    ids_t joined = words.encode_ordinary("dot");
    const ids_t rest = words.encode_ordinary(" product", {false, true});
    joined.insert(joined.end(), rest.begin(), rest.end());
    EXPECT_EQ(joined, words.encode("dot product")) << name;
    EXPECT_NE(words.encode_ordinary("product"), words.encode_ordinary("product", {false, true})) << name;
  }
}

TEST(bpe_tokenizer, a_copy_encodes_alike) {
  const esft::bpe_tokenizer words = family("qwen");
  const ids_t before = words.encode("The quick brown fox");
  const esft::bpe_tokenizer copy = words;  // NOLINT(performance-unnecessary-copy-initialization)
  EXPECT_EQ(copy.encode("The quick brown fox"), before);
  EXPECT_EQ(words.encode("The quick brown fox"), before);
}

}  // namespace bpe_tokenizer_tests
