// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Numbers with units for people, and a table with aligned columns.

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <system_error>
#include <vector>

namespace esft::tool {

/// What std::printf would print.
[[gnu::format(printf, 1, 2)]] inline std::string formatted(const char* format, ...) {
  std::va_list values;
  va_start(values, format);
  std::va_list again;
  va_copy(again, values);
  std::string text(static_cast<std::size_t>(std::max(0, std::vsnprintf(nullptr, 0, format, values))), '\0');
  std::vsnprintf(text.data(), text.size() + 1, format, again);
  va_end(again);
  va_end(values);
  return text;
}

/// `value` with `digits` places after the point.
inline std::string fixed(double value, int digits) { return formatted("%.*f", digits, value); }

/// `value` in the shortest form with `digits` significant places.
inline std::string significant(double value, int digits = 4) { return formatted("%.*g", digits, value); }

/// The shortest text that reads back as the same number.
inline std::string exact_text(double value) {
  std::array<char, 40> text{};
  const auto [end, problem] = std::to_chars(text.data(), text.data() + text.size(), value);
  return problem == std::errc{} ? std::string(text.data(), end) : std::string("?");
}

/// 1536 -> "1.5 KiB".
inline std::string bytes_text(double bytes) {
  static constexpr std::array<const char*, 5> units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fixed(bytes, unit == 0 ? 0 : 1) + " " + units[unit];
}
inline std::string bytes_text(std::int64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

/// 1234567 -> "1 234 567".
inline std::string grouped(std::int64_t value) {
  std::string digits = std::to_string(value);
  for (std::size_t at = digits.size(); at > 3 + (value < 0 ? 1U : 0U); at -= 3) digits.insert(at - 3, " ");
  return digits;
}

/// 75 -> "1 min 15 s".
inline std::string duration_text(double seconds) {
  if (seconds < 10) return fixed(seconds, 1) + " s";
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  if (whole < 60) return std::to_string(whole) + " s";
  if (whole < 3600) return std::to_string(whole / 60) + " min " + std::to_string(whole % 60) + " s";
  return std::to_string(whole / 3600) + " h " + std::to_string(whole % 3600 / 60) + " min";
}

/// Rows of cells; the first row is the header. The first column is aligned to the left, the others to the right.
class text_table {
 public:
  explicit text_table(std::vector<std::string> header) : rows_{std::move(header)} {}

  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }

  [[nodiscard]] std::vector<std::string> lines() const {
    std::vector<std::size_t> width;
    for (const auto& row : rows_) {
      width.resize(std::max(width.size(), row.size()));
      for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
    }
    std::vector<std::string> result;
    for (const auto& row : rows_) {
      std::string line;
      for (std::size_t c = 0; c < row.size(); ++c) {
        const std::string blanks(width[c] - row[c].size(), ' ');
        line += c == 0 ? row[c] + blanks : "  " + blanks + row[c];
      }
      while (!line.empty() && line.back() == ' ') line.pop_back();
      result.push_back(std::move(line));
    }
    return result;
  }

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace esft::tool
