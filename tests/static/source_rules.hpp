// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The rules that the sources of esft keep, as functions of a path and a text: the lint test runs them, and runs them on planted faults.

#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace source_rules {

/// A broken rule.
struct finding {
  std::string rule;
  int line = 0;
  std::string message;
};

/// Folder of include/esft -> folders that it may include, in the order of the table.
struct layering {
  std::vector<std::string> order;
  std::map<std::string, std::set<std::string>, std::less<>> allowed;
};

/// Reads the table of docs/architecture.md. @throws std::runtime_error if a row names a row that is not above it, or there is no table.
layering read_layering(std::string_view markdown);

/// Checks one source file. `path` is relative to the repository and decides which rules apply; the file itself is not opened.
std::vector<finding> check(std::string_view path, std::string_view text, const layering& table);

/// The text with comments and the contents of literals blanked out; line structure is kept.
std::string code_only(std::string_view text);

/// Lines without their line ends.
std::vector<std::string_view> lines_of(std::string_view text);

}  // namespace source_rules
