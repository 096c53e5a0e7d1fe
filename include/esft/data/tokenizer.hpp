// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Concept `tokenizer`: text to token ids and back, with the special ids a training row needs.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// In place of a special id that a tokenizer does not have: rows of some families begin with no token at all.
inline constexpr std::int32_t no_token = -1;

/// Text <-> ids. Laws: `decode(encode(s)) == s` for every byte string the tokenizer claims to cover; `encode` puts nothing before or after
/// the text; every id is in [0, vocab_size); `decode` leaves special ids out; bos may be `no_token`, pad may be eos, and no two of them
/// are the same otherwise.
template <class T>
concept tokenizer = requires(const T t, std::string_view text, std::span<const std::int32_t> ids) {
  { t.encode(text) } -> std::same_as<std::vector<std::int32_t>>;
  { t.decode(ids) } -> std::same_as<std::string>;
  { t.bos } -> std::convertible_to<std::int32_t>;
  { t.eos } -> std::convertible_to<std::int32_t>;
  { t.pad } -> std::convertible_to<std::int32_t>;
  { t.vocab_size } -> std::convertible_to<std::size_t>;
};

/// Where a stretch of text stands: some tokenizers put a space before a text, and must not do so in the middle of one.
struct text_position {
  bool begins_text = true;  ///< nothing stands before it
  bool continues = false;   ///< other text stands before it, with no token in between
};

/// A tokenizer with tokens that have names, such as `<|im_start|>`. `encode` turns such a name in a text into its id;
/// `encode_ordinary` does not do so for special tokens: nobody who writes a message can forge the marks around it.
template <class T>
concept has_named_tokens = tokenizer<T> && requires(const T t, std::string_view text, text_position where) {
  { t.encode(text, where) } -> std::same_as<std::vector<std::int32_t>>;
  { t.encode_ordinary(text, where) } -> std::same_as<std::vector<std::int32_t>>;
  { t.find_token(text) } -> std::same_as<std::optional<std::int32_t>>;
};

}  // namespace esft
