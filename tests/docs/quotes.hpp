// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Reads manual pages: their C++ blocks with the source file that each quotes.

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace esft_test {

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

/// A C++ block of a page. `file` is the source that the page named last before it; empty if it named none.
struct quote {
  std::string file;
  std::size_t line = 0;  ///< of the opening fence, from 1
  std::vector<std::string> lines;
};

/// The last path such as `examples/01_x.cpp` in a line of prose, or empty.
inline std::string named_source(std::string_view line) {
  static constexpr std::string_view path = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./";
  std::string found;
  for (std::size_t begin = line.find_first_of(path); begin != std::string_view::npos;) {
    const std::size_t end = std::min(line.find_first_not_of(path, begin), line.size());
    std::string_view word = line.substr(begin, end - begin);
    while (word.starts_with("../")) word.remove_prefix(3);
    while (word.ends_with(".")) word.remove_suffix(1);
    const bool below = word.starts_with("examples/") || word.starts_with("include/") || word.starts_with("tests/");
    if (below && (word.ends_with(".cpp") || word.ends_with(".hpp"))) found = word;
    begin = line.find_first_of(path, end);
  }
  return found;
}

inline std::vector<quote> quotes_of(const std::string& page) {
  std::vector<quote> result;
  std::string file;
  bool fenced = false;
  bool in_quote = false;
  std::size_t number = 0;
  for (const std::string& line : lines_of(page)) {
    ++number;
    if (line.starts_with("```")) {
      in_quote = !fenced && line.starts_with("```cpp");
      if (in_quote) result.push_back({file, number, {}});
      fenced = !fenced;
    } else if (in_quote && fenced) {
      result.back().lines.push_back(line);
    } else if (const std::string named = fenced ? std::string() : named_source(line); !named.empty()) {
      file = named;
    }
  }
  return result;
}

/// Whether the lines stand in the source one after the other, unchanged but for one common indent.
inline bool is_excerpt(const std::vector<std::string>& lines, const std::vector<std::string>& source) {
  if (lines.empty() || lines.front().empty()) return false;
  for (std::size_t at = 0; at + lines.size() <= source.size(); ++at) {
    const std::string& first = source[at];
    if (!first.ends_with(lines.front())) continue;
    const std::string indent = first.substr(0, first.size() - lines.front().size());
    if (indent.find_first_not_of(' ') != std::string::npos) continue;
    bool same = true;
    for (std::size_t i = 0; i < lines.size() && same; ++i) {
      same = source[at + i] == (lines[i].empty() ? std::string() : indent + lines[i]);
    }
    if (same) return true;
  }
  return false;
}

}  // namespace esft_test
