// SPDX-License-Identifier: Apache-2.0
#include <esft/data/conversation.hpp>
#include <esft/data/tokenizers/byte_tokenizer.hpp>

#include <string>

#include <gtest/gtest.h>

namespace conversation_tests {

const esft::byte_tokenizer words;

/// The text of the tokens that carry loss, with EOS shown as `$`.
std::string learned_text(const esft::training_sample& sample) {
  EXPECT_EQ(sample.tokens.size(), sample.learned.size());
  std::string text;
  for (std::size_t i = 0; i < sample.tokens.size(); ++i) {
    if (sample.learned[i] == 0) continue;
    text += sample.tokens[i] == words.eos ? '$' : static_cast<char>(sample.tokens[i]);
  }
  return text;
}

TEST(render, plain_text_is_learned_whole_and_framed_once) {
  const auto sample = esft::render_text(words, "a\r\nb");
  EXPECT_EQ(sample.tokens, (std::vector<std::int32_t>{words.bos, 'a', '\r', '\n', 'b', words.eos}));
  EXPECT_EQ(sample.learned, (std::vector<std::uint8_t>{0, 1, 1, 1, 1, 1}));
  EXPECT_EQ(esft::render_text(words, "").tokens, (std::vector<std::int32_t>{words.bos, words.eos}));
}

TEST(render, a_pair_learns_the_completion_and_its_end) {
  const auto sample = esft::render_pair(words, "(+ 1 2)", "3");
  EXPECT_EQ(words.decode(sample.tokens), "(+ 1 2)\n3");
  EXPECT_EQ(learned_text(sample), "3$");
  EXPECT_EQ(sample.tokens.front(), words.bos);
  EXPECT_EQ(sample.tokens.back(), words.eos);
}

TEST(render, a_pair_learns_the_prompt_too_when_asked_to) {
  EXPECT_EQ(learned_text(esft::render_pair(words, "p", "c", {.train_on_prompt = true, .separator = "=>"})), "p=>c$");
  EXPECT_EQ(learned_text(esft::render_pair(words, "p", "c", {.train_on_prompt = false, .separator = "=>"})), "c$");
}

TEST(render, a_conversation_has_the_official_text_and_learns_the_answers_only) {
  const esft::conversation turns{{"user", "Hi"}, {"assistant", "Yes?"}, {"user", "2+2"}, {"assistant", "4"}};
  const auto sample = esft::render_conversation(words, turns);
  EXPECT_EQ(words.decode(sample.tokens), "User: Hi\n\nAssistant: Yes?User: 2+2\n\nAssistant: 4");
  EXPECT_EQ(learned_text(sample), " Yes?$ 4$");
}

TEST(render, masked_answers_carry_no_loss_even_when_prompts_do) {
  const esft::conversation turns{{"system", "Be brief."}, {"user", "a"}, {"assistant", "b", true}, {"user", "c"}, {"assistant", "d"}};
  EXPECT_EQ(learned_text(esft::render_conversation(words, turns)), " d$");
  EXPECT_EQ(learned_text(esft::render_conversation(words, turns, {.train_on_prompt = true})),
            "Be brief.\n\nUser: a\n\nUser: c\n\nAssistant: d$");
}

TEST(render, an_unknown_role_is_bad_input_and_names_the_role) {
  try {
    (void)esft::render_conversation(words, {{"tool", "x"}});
    FAIL() << "the role was accepted";
  } catch (const esft::error& failure) {
    EXPECT_EQ(failure.category(), esft::error_category::bad_input);
    EXPECT_NE(std::string(failure.what()).find("\"tool\""), std::string::npos);
  }
  EXPECT_NO_THROW((void)esft::render_conversation(words, {{"user", "x"}}));
}

TEST(render, a_prompt_is_the_unlearned_beginning_of_its_sample) {
  const auto pair = esft::render_pair(words, "p", "c");
  const auto start = esft::render_prompt(words, "p");
  ASSERT_LT(start.size(), pair.tokens.size());
  EXPECT_TRUE(std::equal(start.begin(), start.end(), pair.tokens.begin()));
  EXPECT_EQ(pair.learned[start.size() - 1], 0);
  EXPECT_EQ(pair.learned[start.size()], 1);

  const auto talk = esft::render_conversation(words, {{"user", "q"}, {"assistant", "r"}});
  const auto asked = esft::render_prompt(words, esft::conversation{{"user", "q"}});
  EXPECT_EQ(words.decode(asked), "User: q\n\nAssistant:");
  EXPECT_TRUE(std::equal(asked.begin(), asked.end(), talk.tokens.begin()));
  EXPECT_EQ(talk.learned[asked.size() - 1], 0);
  EXPECT_EQ(talk.learned[asked.size()], 1);
}

}  // namespace conversation_tests
