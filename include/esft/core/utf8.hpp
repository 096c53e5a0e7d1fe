// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// UTF-8: length of one well-formed sequence, validation of a text, encoding of a code point.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace esft {

/// Bytes of the well-formed UTF-8 sequence at `at`; 0 if there is none (overlong, surrogate, above U+10FFFF, cut off).
/// @pre at < text.size()  @source Unicode 15, table 3-7
constexpr std::size_t utf8_sequence_length(std::string_view text, std::size_t at) noexcept {
  const auto byte = [&](std::size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U; };
  const auto in = [](unsigned value, unsigned low, unsigned high) { return value >= low && value <= high; };
  const unsigned first = byte(0);
  if (first < 0x80U) return 1;
  if (in(first, 0xc2, 0xdf)) return in(byte(1), 0x80, 0xbf) ? 2 : 0;
  if (in(first, 0xe0, 0xef)) {
    const unsigned low = first == 0xe0U ? 0xa0U : 0x80U;
    const unsigned high = first == 0xedU ? 0x9fU : 0xbfU;
    return in(byte(1), low, high) && in(byte(2), 0x80, 0xbf) ? 3 : 0;
  }
  if (in(first, 0xf0, 0xf4)) {
    const unsigned low = first == 0xf0U ? 0x90U : 0x80U;
    const unsigned high = first == 0xf4U ? 0x8fU : 0xbfU;
    return in(byte(1), low, high) && in(byte(2), 0x80, 0xbf) && in(byte(3), 0x80, 0xbf) ? 4 : 0;
  }
  return 0;
}

/// Position of the first byte that is not UTF-8, or `npos`.
constexpr std::size_t find_invalid_utf8(std::string_view text) noexcept {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_sequence_length(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

/// Appends a code point. @pre code is a Unicode scalar value
inline void append_utf8(std::string& out, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { out += static_cast<char>(static_cast<unsigned char>(byte)); };
  if (code < 0x80U) {
    put(code);
  } else if (code < 0x800U) {
    put(0xc0U | (code >> 6U));
    put(0x80U | (code & 63U));
  } else if (code < 0x10000U) {
    put(0xe0U | (code >> 12U));
    put(0x80U | ((code >> 6U) & 63U));
    put(0x80U | (code & 63U));
  } else {
    put(0xf0U | (code >> 18U));
    put(0x80U | ((code >> 12U) & 63U));
    put(0x80U | ((code >> 6U) & 63U));
    put(0x80U | (code & 63U));
  }
}

}  // namespace esft
