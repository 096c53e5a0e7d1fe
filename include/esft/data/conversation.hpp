// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Records to `training_sample`: conversations in the text form of a chat template, prompt/completion pairs, plain text.

#include <esft/core/error.hpp>
#include <esft/data/chat_template.hpp>
#include <esft/data/sample_writer.hpp>
#include <esft/data/token_source.hpp>
#include <esft/data/tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

struct render_options {
  bool train_on_prompt = false;             ///< loss on the prompt and the user's turns too (never on masked turns)
  std::string_view separator = "\n";        ///< between a prompt and its completion; part of the prompt
  std::string_view chat = esft_chat::name;  ///< how conversations are written: a name of `builtin_chat_templates`
};

namespace detail {

/// Calls `use.operator()<Template>()` for the template that `options` name. @throws usage_error for a name that there is not
template <class Use>
void with_chat_template(const render_options& options, Use&& use) {
  if (visit_by_name(builtin_chat_templates{}, options.chat, use)) return;
  std::string known;
  builtin_chat_templates::for_each([&]<class Template>() { known += " " + std::string(Template::name); });
  throw usage_error("no chat template is called '" + std::string(options.chat) + "'; there are:" + known);
}

/// Every turn of a conversation.
template <class Template, tokenizer Tokenizer>
void write_conversation(sample_writer<Tokenizer>& out, const Tokenizer& words, const conversation& turns, const render_options& options) {
  Template::begin(out, words, turns);
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const message& turn = turns[i];
    const bool prompt_learned = options.train_on_prompt && !turn.masked;
    if (turn.role == "user" || turn.role == "system") {
      Template::turn(out, turns, i, prompt_learned);
    } else if (turn.role == "assistant") {
      Template::open(out, prompt_learned);
      out.ordinary(std::string(Template::answer_prefix) + turn.content, !turn.masked);
      Template::close(out, words, i + 1 == turns.size(), !turn.masked);
    } else {
      unknown_role(turn.role);
    }
  }
}

}  // namespace detail

/// Plain text: BOS text EOS, every token learned.
template <tokenizer Tokenizer>
[[nodiscard]] training_sample render_text(const Tokenizer& words, std::string_view text) {
  sample_writer out(words);
  out.special(words.bos, false);
  out.text(text, true);
  out.special(words.eos, true);
  return out.take();
}

/// BOS prompt separator completion EOS; loss on the completion and EOS.
template <tokenizer Tokenizer>
[[nodiscard]] training_sample render_pair(const Tokenizer& words, std::string_view prompt, std::string_view completion,
                                          const render_options& options = {}) {
  sample_writer out(words);
  out.special(words.bos, false);
  out.text(prompt, options.train_on_prompt);
  out.text(options.separator, options.train_on_prompt);
  out.text(completion, true);
  out.special(words.eos, true);
  return out.take();
}

/// A conversation as its template writes it; loss on the answers of the turns that are not masked, and on the token that ends each.
/// With the template "esft": BOS, then "User: {x}\n\n" and "Assistant:" + " {y}" EOS a turn.
/// @throws esft::error (bad_input) for an unknown role, a system message where the template has no place for one, or a tokenizer without
///   the template's marks; usage_error for an unknown template
/// @deviation BOS carries no loss here: official rows also learn to begin the next packed sample, ours do not see the one before
template <tokenizer Tokenizer>
[[nodiscard]] training_sample render_conversation(const Tokenizer& words, const conversation& turns, const render_options& options = {}) {
  sample_writer out(words);
  detail::with_chat_template(options, [&]<class Template>() { detail::write_conversation<Template>(out, words, turns, options); });
  return out.take();
}

/// What stands before the answer of a pair: BOS prompt separator. Greedy decoding starts here; the answer ends at EOS.
template <tokenizer Tokenizer>
[[nodiscard]] std::vector<std::int32_t> render_prompt(const Tokenizer& words, std::string_view prompt, const render_options& options = {}) {
  sample_writer out(words);
  out.special(words.bos, false);
  out.text(prompt, false);
  out.text(options.separator, false);
  return out.take().tokens;
}

/// What stands before the next answer of a conversation. The answer begins as `render_answer` says and ends at `stop_token`.
/// @throws as `render_conversation`
template <tokenizer Tokenizer>
[[nodiscard]] std::vector<std::int32_t> render_prompt(const Tokenizer& words, const conversation& turns,
                                                      const render_options& options = {}) {
  sample_writer out(words);
  detail::with_chat_template(options, [&]<class Template>() {
    detail::write_conversation<Template>(out, words, turns, options);
    Template::open(out, false);
  });
  return out.take().tokens;
}

/// The ids of an answer after `render_prompt` of the turns before it, without the token that ends it.
template <tokenizer Tokenizer>
[[nodiscard]] std::vector<std::int32_t> render_answer(const Tokenizer& words, std::string_view content,
                                                      const render_options& options = {}) {
  std::vector<std::int32_t> ids;
  detail::with_chat_template(options, [&]<class Template>() {
    const std::string text = std::string(Template::answer_prefix) + std::string(content);
    sample_writer out(words);
    out.assume_text();
    Template::open(out, false);
    const std::size_t before = out.size();
    out.ordinary(text, true);
    ids = out.take().tokens;
    ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(before));
  });
  return ids;
}

/// The token at which the answer to a conversation ends. @throws esft::error (bad_input) for a tokenizer that does not have it
template <tokenizer Tokenizer>
[[nodiscard]] std::int32_t stop_token(const Tokenizer& words, const render_options& options = {}) {
  std::int32_t id = no_token;
  detail::with_chat_template(options, [&]<class Template>() { id = Template::stop(words); });
  return id;
}

}  // namespace esft
