// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `byte_tokenizer`: one id a byte, so any text in any language or encoding survives the round trip.

#include <esft/core/contract.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Ids 0..255 are the bytes, then the special ids. Not for models that come with their own vocabulary.
struct byte_tokenizer {
  static constexpr std::string_view name = "byte";
  static constexpr std::int32_t bos = 256;
  static constexpr std::int32_t eos = 257;
  static constexpr std::int32_t pad = 258;
  static constexpr std::size_t vocab_size = 264;  ///< the next multiple of 8 above the 259 ids in use

  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text) const {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }

  /// The bytes among `ids`; bytes that are not valid UTF-8 pass through unchanged.
  /// @pre every id is in [0, vocab_size)
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    std::string text;
    text.reserve(ids.size());
    for (const std::int32_t id : ids) {
      ESFT_EXPECTS(id >= 0 && id < static_cast<std::int32_t>(vocab_size), "a token id outside the byte vocabulary cannot be decoded");
      if (id < 256) text.push_back(static_cast<char>(static_cast<unsigned char>(id)));
    }
    return text;
  }
};

}  // namespace esft
