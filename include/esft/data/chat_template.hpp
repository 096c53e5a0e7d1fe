// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The built-in chat templates: how a conversation is written for a family of models. Code from a file is never run.

#include <esft/core/error.hpp>
#include <esft/core/type_list.hpp>
#include <esft/data/sample_writer.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
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

namespace detail {
[[noreturn]] inline void unknown_role(const std::string& role) {
  throw error(error_category::bad_input, "the role of a message is \"" + role + "\"; it must be system, user or assistant");
}
/// A system message only makes sense before all others where a template writes it into its first turn.
[[noreturn]] inline void late_system(std::string_view chat) {
  throw error(error_category::bad_input,
              "the chat template '" + std::string(chat) + "' has a place for one system message, before all others");
}
inline bool is_system(const message& turn) { return turn.role == "system"; }

/// Templates whose conversations begin with bos and whose answers end with eos.
struct between_bos_and_eos {
  template <class Writer, class Tokenizer>
  static void begin(Writer& out, const Tokenizer& words, std::span<const message>) {
    out.special(words.bos, false);
  }
  template <class Writer, class Tokenizer>
  static void close(Writer& out, const Tokenizer& words, bool, bool learned) {
    out.special(words.eos, learned);
  }
  template <class Tokenizer>
  static std::int32_t stop(const Tokenizer& words) {
    return words.eos;
  }
};
}  // namespace detail

/// What a template is: how a conversation begins, how a turn of system or user is written, what stands before an answer (`open`), the
/// text an answer begins with, and the token it ends with (`close`; the last answer of a conversation may end differently).
/// Turns are numbered, so that a template can join the system message with the first turn. Laws: `open` and everything before it carry
/// no loss; `stop` is the last token of an answer.
template <class T>
concept chat_template = requires { { T::name } -> std::convertible_to<std::string_view>; };

/// The text form of the official ESFT trainer and of DeepSeek-V2. @source official ESFT trainer
struct esft_chat : detail::between_bos_and_eos {
  static constexpr std::string_view name = "esft";
  static constexpr std::string_view answer_prefix = " ";

  template <class Writer>
  static void turn(Writer& out, std::span<const message> turns, std::size_t i, bool learned) {
    out.ordinary(detail::is_system(turns[i]) ? turns[i].content + "\n\n" : "User: " + turns[i].content + "\n\n", learned);
  }
  template <class Writer>
  static void open(Writer& out, bool learned) {
    out.ordinary("Assistant:", learned);
  }
};

/// ChatML, as Qwen writes it. @deviation no system message is made up where a conversation has none
struct chatml_chat {
  static constexpr std::string_view name = "chatml";
  static constexpr std::string_view answer_prefix = "";

  template <class Writer, class Tokenizer>
  static void begin(Writer&, const Tokenizer&, std::span<const message>) {}
  template <class Writer>
  static void turn(Writer& out, std::span<const message> turns, std::size_t i, bool learned) {
    out.mark("<|im_start|>", learned);
    out.ordinary(turns[i].role + "\n" + turns[i].content, learned);
    out.mark("<|im_end|>", learned);
    out.ordinary("\n", learned);
  }
  template <class Writer>
  static void open(Writer& out, bool learned) {
    out.mark("<|im_start|>", learned);
    out.ordinary("assistant\n", learned);
  }
  template <class Writer, class Tokenizer>
  static void close(Writer& out, const Tokenizer&, bool, bool learned) {
    out.mark("<|im_end|>", learned);
    out.ordinary("\n", false);
  }
  template <class Tokenizer>
  static std::int32_t stop(const Tokenizer& words) {
    return sample_writer<Tokenizer>::find_mark(words, "<|im_end|>");
  }
};

/// DeepSeek-V2.5, V3 and R1, whose speakers are tokens. DeepSeek-V2 and earlier speak the template "esft".
struct deepseek_chat : detail::between_bos_and_eos {
  static constexpr std::string_view name = "deepseek";
  static constexpr std::string_view answer_prefix = "";

  template <class Writer>
  static void turn(Writer& out, std::span<const message> turns, std::size_t i, bool learned) {
    if (detail::is_system(turns[i]) && i > 0) detail::late_system(name);
    if (!detail::is_system(turns[i])) out.mark("<｜User｜>", learned);
    out.ordinary(turns[i].content, learned);
  }
  template <class Writer>
  static void open(Writer& out, bool learned) {
    out.mark("<｜Assistant｜>", learned);
  }
};

/// Mixtral's instructions: the system message opens the first of them.
struct mistral_chat : detail::between_bos_and_eos {
  static constexpr std::string_view name = "mistral";
  static constexpr std::string_view answer_prefix = " ";

  template <class Writer>
  static void turn(Writer& out, std::span<const message> turns, std::size_t i, bool learned) {
    if (detail::is_system(turns[i])) {
      if (i > 0 || turns.size() < 2 || turns[1].role != "user") detail::late_system(name);
      return;  // written with the turn after it
    }
    const bool after_system = i == 1 && detail::is_system(turns[0]);
    out.ordinary(" [INST] " + (after_system ? turns[0].content + "\n\n" : std::string()) + turns[i].content + " [/INST]", learned);
  }
  template <class Writer>
  static void open(Writer&, bool) {}
};

/// GPT-OSS: channels and messages; answers are of the channel `final`.
/// @deviation the line with today's date is left out: rows would change from day to day
struct harmony_chat {
  static constexpr std::string_view name = "harmony";
  static constexpr std::string_view answer_prefix = "";

  template <class Writer, class Tokenizer>
  static void begin(Writer& out, const Tokenizer&, std::span<const message>) {
    section(out, "system",
            "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n\nReasoning: medium\n\n"
            "# Valid channels: analysis, commentary, final. Channel must be included for every message.",
            false);
  }
  template <class Writer>
  static void turn(Writer& out, std::span<const message> turns, std::size_t i, bool learned) {
    if (detail::is_system(turns[i])) {
      if (i > 0) detail::late_system(name);
      section(out, "developer", "# Instructions\n\n" + turns[i].content + "\n\n", learned);
    } else {
      section(out, "user", turns[i].content, learned);
    }
  }
  template <class Writer>
  static void open(Writer& out, bool learned) {
    out.mark("<|start|>", learned);
    out.ordinary("assistant", learned);
    out.mark("<|channel|>", learned);
    out.ordinary("final", learned);
    out.mark("<|message|>", learned);
  }
  /// The conversation's last answer returns; earlier ones end.
  template <class Writer, class Tokenizer>
  static void close(Writer& out, const Tokenizer&, bool last, bool learned) {
    out.mark(last ? "<|return|>" : "<|end|>", learned);
  }
  template <class Tokenizer>
  static std::int32_t stop(const Tokenizer& words) {
    return sample_writer<Tokenizer>::find_mark(words, "<|return|>");
  }

 private:
  template <class Writer>
  static void section(Writer& out, const std::string& role, const std::string& content, bool learned) {
    out.mark("<|start|>", learned);
    out.ordinary(role, learned);
    out.mark("<|message|>", learned);
    out.ordinary(content, learned);
    out.mark("<|end|>", learned);
  }
};

/// Every built-in template, under the name by which it is chosen.
using builtin_chat_templates = type_list<esft_chat, chatml_chat, deepseek_chat, mistral_chat, harmony_chat>;

}  // namespace esft
