// SPDX-License-Identifier: Apache-2.0
#include <esft/data/tokenizers.hpp>

#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace tokenizer_tests {

static_assert(esft::tokenizer<esft::byte_tokenizer>);
static_assert(!esft::tokenizer<int>);

template <class Tokenizer>
void expect_tokenizer_laws(const Tokenizer& words) {
  EXPECT_EQ((std::set<std::int32_t>{words.bos, words.eos, words.pad}.size()), 3U) << Tokenizer::name;
  EXPECT_TRUE(rc::check(std::string(Tokenizer::name) + ": decoding what was encoded gives the same bytes", [&](const std::string& text) {
    const auto ids = words.encode(text);
    for (const auto id : ids) {
      RC_ASSERT(id >= 0 && static_cast<std::size_t>(id) < words.vocab_size);
      RC_ASSERT(id != words.bos && id != words.eos && id != words.pad);
    }
    RC_ASSERT(words.decode(ids) == text);
    std::vector<std::int32_t> framed{words.bos};
    framed.insert(framed.end(), ids.begin(), ids.end());
    framed.push_back(words.eos);
    framed.push_back(words.pad);
    RC_ASSERT(words.decode(framed) == text);
  }));
}

TEST(tokenizer, laws_hold_for_every_built_in) {
  esft::builtin_tokenizers::for_each([]<class Tokenizer>() {
    if constexpr (std::is_default_constructible_v<Tokenizer>) expect_tokenizer_laws(Tokenizer{});
  });
}

TEST(byte_tokenizer, every_byte_is_its_own_id_also_outside_utf8) {
  std::string all;
  for (int b = 0; b < 256; ++b) all.push_back(static_cast<char>(static_cast<unsigned char>(b)));
  const auto ids = esft::byte_tokenizer{}.encode(all);
  for (std::size_t b = 0; b < 256; ++b) EXPECT_EQ(ids[b], static_cast<std::int32_t>(b));
  EXPECT_EQ(esft::byte_tokenizer{}.decode(ids), all);
}

TEST(byte_tokenizer, ids_outside_the_vocabulary_are_refused_and_unused_ones_inside_are_silent) {
  const esft::byte_tokenizer words;
  const std::vector<std::int32_t> spare{263, 'a'};
  const std::vector<std::int32_t> above{264};
  const std::vector<std::int32_t> below{-1};
  EXPECT_EQ(words.decode(spare), "a");
  EXPECT_THROW((void)words.decode(above), esft::contract_violation);
  EXPECT_THROW((void)words.decode(below), esft::contract_violation);
}

}  // namespace tokenizer_tests
