// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `sample_writer`: builds a `training_sample` from text, marks and special ids, and says of each token whether it carries loss.

#include <esft/core/error.hpp>
#include <esft/data/token_source.hpp>
#include <esft/data/tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Writes one sample. What a message says is encoded as ordinary text where the tokenizer tells it apart: the marks of a conversation
/// come from its template alone.
/// @deviation text is encoded where the loss begins and ends anew, as in generation, where the prompt ends there; text encoded in one
///   go could have a token across that place
template <tokenizer Tokenizer>
class sample_writer {
 public:
  explicit sample_writer(const Tokenizer& words) : words_(words) {}

  /// Text as `encode` reads it: names of tokens in it become their ids.
  void text(std::string_view text, bool learned) {
    if (text.empty()) return;
    if constexpr (has_named_tokens<Tokenizer>) {
      append(words_.encode(text, position_), learned);
    } else {
      append(words_.encode(text), learned);
    }
    position_ = {false, true};
  }

  /// Text that names no special token.
  void ordinary(std::string_view text, bool learned) {
    if (text.empty()) return;
    if constexpr (has_named_tokens<Tokenizer>) {
      append(words_.encode_ordinary(text, position_), learned);
    } else {
      append(words_.encode(text), learned);
    }
    position_ = {false, true};
  }

  /// A special id; `no_token` writes nothing.
  void special(std::int32_t id, bool learned) {
    if (id == no_token) return;
    push(id, learned);
    position_ = {position_.begins_text && id == words_.bos, false};
  }

  /// A token by its name. @throws esft::error (bad_input) for a tokenizer that does not have it
  void mark(std::string_view name, bool learned) { special(find_mark(words_, name), learned); }

  /// The id of a mark. @throws as `mark`
  [[nodiscard]] static std::int32_t find_mark(const Tokenizer& words, std::string_view name) {
    std::optional<std::int32_t> id;
    if constexpr (has_named_tokens<Tokenizer>) id = words.find_token(name);
    if (id) return *id;
    throw error(error_category::bad_input, "the tokenizer of this model has no token '" + std::string(name) +
                                               "', which the chat template needs; choose the template that the model was trained with");
  }

  /// What is written next goes on after other text.
  void assume_text() { position_ = {false, true}; }

  [[nodiscard]] std::size_t size() const { return sample_.tokens.size(); }
  [[nodiscard]] training_sample take() { return std::move(sample_); }

 private:
  void push(std::int32_t id, bool learned) {
    sample_.tokens.push_back(id);
    sample_.learned.push_back(learned ? 1 : 0);
  }
  void append(const std::vector<std::int32_t>& ids, bool learned) {
    for (const std::int32_t id : ids) push(id, learned);
  }

  const Tokenizer& words_;
  training_sample sample_;
  text_position position_;
};

}  // namespace esft
