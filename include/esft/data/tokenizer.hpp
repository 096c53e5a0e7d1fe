// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Concept `tokenizer`: text to token ids and back, with the special ids a training row needs.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Text <-> ids. Laws: `decode(encode(s)) == s` for every byte string the tokenizer claims to cover; `encode` adds no special id;
/// every id is in [0, vocab_size); `decode` leaves special ids out; bos, eos and pad are three different ids.
template <class T>
concept tokenizer = requires(const T t, std::string_view text, std::span<const std::int32_t> ids) {
  { t.encode(text) } -> std::same_as<std::vector<std::int32_t>>;
  { t.decode(ids) } -> std::same_as<std::string>;
  { t.bos } -> std::convertible_to<std::int32_t>;
  { t.eos } -> std::convertible_to<std::int32_t>;
  { t.pad } -> std::convertible_to<std::int32_t>;
  { t.vocab_size } -> std::convertible_to<std::size_t>;
};

}  // namespace esft
