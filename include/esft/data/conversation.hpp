// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Records to `training_sample`: conversations in the text form of the official ESFT trainer, prompt/completion pairs, plain text.

#include <esft/core/error.hpp>
#include <esft/data/token_source.hpp>
#include <esft/data/tokenizer.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// One turn. `masked` turns are shown to the model and carry no loss.
struct message {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
  bool masked = false;
};

using conversation = std::vector<message>;

struct render_options {
  bool train_on_prompt = false;      ///< loss on the prompt and the user's turns too (never on masked turns)
  std::string_view separator = "\n"; ///< between a prompt and its completion; part of the prompt
};

namespace detail {

template <tokenizer Tokenizer>
void append_text(training_sample& sample, const Tokenizer& words, std::string_view text, bool learned) {
  for (const std::int32_t id : words.encode(text)) {
    sample.tokens.push_back(id);
    sample.learned.push_back(learned ? 1 : 0);
  }
}

inline void append_special(training_sample& sample, std::int32_t id, bool learned) {
  sample.tokens.push_back(id);
  sample.learned.push_back(learned ? 1 : 0);
}

/// Everything of a conversation up to where the next turn begins.
template <tokenizer Tokenizer>
void append_turn(training_sample& sample, const Tokenizer& words, const message& turn, const render_options& options) {
  const bool prompt_learned = options.train_on_prompt && !turn.masked;
  if (turn.role == "user") {
    append_text(sample, words, "User: " + turn.content + "\n\n", prompt_learned);
  } else if (turn.role == "system") {
    append_text(sample, words, turn.content + "\n\n", prompt_learned);
  } else if (turn.role == "assistant") {
    append_text(sample, words, "Assistant:", prompt_learned);
    append_text(sample, words, " " + turn.content, !turn.masked);
    append_special(sample, words.eos, !turn.masked);
  } else {
    throw error(error_category::bad_input, "the role of a message is \"" + turn.role + "\"; it must be system, user or assistant");
  }
}

}  // namespace detail

/// Plain text: BOS text EOS, every token learned.
template <tokenizer Tokenizer>
[[nodiscard]] training_sample render_text(const Tokenizer& words, std::string_view text) {
  training_sample sample;
  detail::append_special(sample, words.bos, false);
  detail::append_text(sample, words, text, true);
  detail::append_special(sample, words.eos, true);
  return sample;
}

/// BOS prompt separator completion EOS; loss on the completion and EOS.
template <tokenizer Tokenizer>
[[nodiscard]] training_sample render_pair(const Tokenizer& words, std::string_view prompt, std::string_view completion,
                                          const render_options& options = {}) {
  training_sample sample;
  detail::append_special(sample, words.bos, false);
  detail::append_text(sample, words, prompt, options.train_on_prompt);
  detail::append_text(sample, words, options.separator, options.train_on_prompt);
  detail::append_text(sample, words, completion, true);
  detail::append_special(sample, words.eos, true);
  return sample;
}

/// BOS, then "User: {x}\n\n" and "Assistant:" + " {y}" EOS a turn; loss on " {y}" and EOS of the turns that are not masked.
/// @throws esft::error (bad_input) for an unknown role
/// @source the text form of the official ESFT trainer
/// @deviation BOS carries no loss here: official rows also learn to begin the next packed sample, ours do not see the one before
template <tokenizer Tokenizer>
[[nodiscard]] training_sample render_conversation(const Tokenizer& words, const conversation& turns, const render_options& options = {}) {
  training_sample sample;
  detail::append_special(sample, words.bos, false);
  for (const message& turn : turns) detail::append_turn(sample, words, turn, options);
  return sample;
}

/// What stands before the answer of a pair: BOS prompt separator. Greedy decoding starts here; the answer ends at EOS.
template <tokenizer Tokenizer>
[[nodiscard]] std::vector<std::int32_t> render_prompt(const Tokenizer& words, std::string_view prompt, const render_options& options = {}) {
  training_sample sample;
  detail::append_special(sample, words.bos, false);
  detail::append_text(sample, words, prompt, false);
  detail::append_text(sample, words, options.separator, false);
  return std::move(sample.tokens);
}

/// What stands before the next answer of a conversation, ending in "Assistant:". The answer begins with a space.
/// @throws esft::error (bad_input) for an unknown role
template <tokenizer Tokenizer>
[[nodiscard]] std::vector<std::int32_t> render_prompt(const Tokenizer& words, const conversation& turns) {
  training_sample sample = render_conversation(words, turns);
  detail::append_text(sample, words, "Assistant:", false);
  return std::move(sample.tokens);
}

}  // namespace esft
