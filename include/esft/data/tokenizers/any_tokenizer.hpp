// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `any_tokenizer`: whichever built-in tokenizer a model directory asks for, chosen at run time.

#include <esft/data/tokenizer.hpp>
#include <esft/data/tokenizers/bpe_tokenizer.hpp>
#include <esft/data/tokenizers/byte_tokenizer.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace esft {

/// One of the built-in tokenizers. Copies share it. For programs that read the tokenizer's kind from a file; a program that knows its
/// tokenizer names the type.
class any_tokenizer {
 public:
  template <tokenizer Tokenizer>
    requires(!std::same_as<Tokenizer, any_tokenizer>)
  explicit any_tokenizer(Tokenizer words)
      : bos(words.bos), eos(words.eos), pad(words.pad), vocab_size(words.vocab_size), name(Tokenizer::name),
        held_(std::make_shared<const std::variant<byte_tokenizer, bpe_tokenizer>>(std::move(words))) {}

  std::int32_t bos, eos, pad;
  std::size_t vocab_size;
  std::string_view name;

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, text_position where = {}) const {
    const auto* words = std::get_if<bpe_tokenizer>(held_.get());
    return words == nullptr ? byte_tokenizer{}.encode(text) : words->encode(text, where);
  }
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    return std::visit([&](const auto& words) { return words.decode(ids); }, *held_);
  }
  [[nodiscard]] std::vector<std::int32_t> encode_ordinary(std::string_view text, text_position where = {}) const {
    const auto* words = std::get_if<bpe_tokenizer>(held_.get());
    return words == nullptr ? byte_tokenizer{}.encode(text) : words->encode_ordinary(text, where);
  }
  [[nodiscard]] std::optional<std::int32_t> find_token(std::string_view content) const {
    const auto* words = std::get_if<bpe_tokenizer>(held_.get());
    return words == nullptr ? std::nullopt : words->find_token(content);
  }

 private:
  std::shared_ptr<const std::variant<byte_tokenizer, bpe_tokenizer>> held_;
};

static_assert(has_named_tokens<bpe_tokenizer> && has_named_tokens<any_tokenizer>);

}  // namespace esft
