// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The two ways in which vocabularies write bytes: one visible character each, or `<0x0A>`.

#include <esft/data/tokenizers/unicode.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace esft {

/// The character that stands for each byte in a byte-level vocabulary: printable Latin-1 characters stand for themselves, all other
/// bytes, in order, for the characters from U+0100 on.
inline const std::array<std::uint32_t, 256>& byte_alphabet() {
  static const std::array<std::uint32_t, 256> alphabet = [] {
    std::array<std::uint32_t, 256> codes{};
    std::uint32_t moved = 256;
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21U && byte <= 0x7eU) || (byte >= 0xa1U && byte != 0xadU);
      codes[byte] = printable ? byte : moved++;
    }
    return codes;
  }();
  return alphabet;
}

/// The bytes that a piece of a byte-level vocabulary writes; nothing if it has a character outside the alphabet.
inline std::optional<std::string> bytes_of_alphabet(std::string_view piece) {
  static const std::array<std::int16_t, 512> bytes = [] {
    std::array<std::int16_t, 512> inverse{};
    inverse.fill(-1);
    for (std::size_t byte = 0; byte < 256; ++byte) inverse[byte_alphabet()[byte]] = static_cast<std::int16_t>(byte);
    return inverse;
  }();
  std::string result;
  for (std::size_t at = 0; at < piece.size();) {
    const auto [code, length] = detail::next_code(piece, at);
    if (code >= bytes.size() || bytes[code] < 0) return std::nullopt;
    result += static_cast<char>(static_cast<unsigned char>(bytes[code]));
    at += length;
  }
  return result;
}

/// `<0x0A>` for the byte 10.
inline std::string byte_piece(std::uint8_t byte) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  return {'<', '0', 'x', digits[byte >> 4U], digits[byte & 15U], '>'};
}

/// The byte that a piece such as `<0x0A>` writes.
inline std::optional<char> byte_of_piece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (const char digit : piece.substr(3, 2)) {
    const bool upper = digit >= 'A' && digit <= 'F';
    const bool lower = digit >= 'a' && digit <= 'f';
    if (!upper && !lower && (digit < '0' || digit > '9')) return std::nullopt;
    value = 16 * value + static_cast<unsigned>(upper ? digit - 'A' + 10 : lower ? digit - 'a' + 10 : digit - '0');
  }
  return static_cast<char>(static_cast<unsigned char>(value));
}

}  // namespace esft
