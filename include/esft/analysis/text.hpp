// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Text of reports: escaping for markup, and numbers as people read them, without any locale.

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace esft {

namespace detail {
/// Bytes of the well-formed UTF-8 character at the front, 0 if there is none.
inline std::size_t utf8_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const std::size_t length = lead < 0x80                   ? 1
                             : lead >= 0xc2 && lead < 0xe0 ? 2
                             : lead >= 0xe0 && lead < 0xf0 ? 3
                             : lead >= 0xf0 && lead < 0xf5 ? 4
                                                           : 0;
  if (length == 0 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80U) return 0;
  }
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;                      // overlong
  if (lead == 0xed && byte(1) >= 0xa0) return 0;                     // surrogate
  if (lead == 0xef && byte(1) == 0xbf && byte(2) >= 0xbe) return 0;  // U+FFFE, U+FFFF
  if ((lead == 0xf0 && byte(1) < 0x90) || (lead == 0xf4 && byte(1) >= 0x90)) return 0;
  return length;
}
}  // namespace detail

/// Text made safe for element content and for quoted attributes, whatever bytes it holds: markup is escaped, bytes that are not
/// UTF-8 and control characters become U+FFFD.
[[nodiscard]] inline std::string escape_markup(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = detail::utf8_length(text);
    const char c = text[0];
    if (length == 0 || (length == 1 && (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) && c != '\n' && c != '\t')) {
      out += "\xef\xbf\xbd";
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else {
      out += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return out;
}

/// Characters (code points) of UTF-8 text; what a label's width is estimated from.
[[nodiscard]] inline std::size_t character_count(std::string_view text) {
  std::size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xc0U) != 0x80U ? 1U : 0U;
  return count;
}

/// A number with a fixed count of decimals: "0.0350". Not finite: "not finite". Never "-0".
[[nodiscard]] inline std::string fixed_text(double value, int decimals) {
  if (!std::isfinite(value)) return "not finite";
  std::array<char, 400> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::fixed, decimals);
  std::string text(buffer.data(), end.ptr);
  if (text.find_first_not_of("-0.") == std::string::npos && text.front() == '-') text.erase(0, 1);
  return text;
}

/// The shortest form with at most `decimals` decimals: "12", "0.5". For coordinates and axis ticks.
[[nodiscard]] inline std::string short_text(double value, int decimals = 2) {
  std::string text = fixed_text(value, decimals);
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text;
}

/// The shortest text that reads back as the same number: "0.003".
[[nodiscard]] inline std::string exact_text(double value) {
  if (!std::isfinite(value)) return "not finite";
  std::array<char, 400> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  return std::string(buffer.data(), end.ptr);
}

/// A learning rate: "3e-3". Always in this form, so that rates line up and compare at a glance.
[[nodiscard]] inline std::string rate_text(double value) {
  if (!std::isfinite(value)) return "not finite";
  std::array<char, 64> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, std::chars_format::scientific);
  std::string text(buffer.data(), end.ptr);
  for (std::size_t digit = text.find('e') + 2; text[digit] == '0' && digit + 1 < text.size();) text.erase(digit, 1);
  if (text.find("e+") != std::string::npos) text.erase(text.find('+'), 1);
  return text;
}

namespace detail {
inline std::string scaled_text(double value, double step, const std::array<const char*, 5>& units) {
  std::size_t unit = 0;
  while (std::abs(value) >= step * 0.9995 && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  const double size = std::abs(value);
  return short_text(value, unit == 0 ? 0 : size < 10 ? 2 : size < 100 ? 1 : 0) + units[unit];
}
}  // namespace detail

/// A count with a decimal prefix: "3.59 M".
[[nodiscard]] inline std::string count_text(std::int64_t value) {
  return detail::scaled_text(static_cast<double>(value), 1000, {"", " k", " M", " G", " T"});
}

/// A size in bytes with a decimal prefix: "7.18 MB".
[[nodiscard]] inline std::string bytes_text(std::int64_t value) {
  return detail::scaled_text(static_cast<double>(value), 1000, {" B", " kB", " MB", " GB", " TB"});
}

}  // namespace esft
