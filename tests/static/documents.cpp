// SPDX-License-Identifier: Apache-2.0
// The documents point at things that exist: links, test folders behind promises, decision records in their index.
#include "source_rules.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace static_documents_tests {

namespace fs = std::filesystem;
const fs::path root = ESFT_TEST_SOURCE_DIR;

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> documents() {
  std::vector<fs::path> found;
  for (const char* folder : {"docs", "include", "backends", "tools", "examples", "benchmarks", "tests"}) {
    if (!fs::exists(root / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (entry.path().extension() == ".md") found.push_back(entry.path());
    }
  }
  for (const char* name : {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"}) found.push_back(root / name);
  return found;
}

/// The text without its fenced blocks: code there may look like a link.
std::string without_code(const std::string& text) {
  std::string prose;
  bool fenced = false;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size() - 1) + 1;
    const std::string line = text.substr(at, end - at);
    const bool fence = line.starts_with("```");
    if (!fenced && !fence) prose += line;
    fenced = fenced != fence;
    at = end;
  }
  return prose;
}

/// Targets of `[text](target)`, without addresses of other hosts and without anchors.
std::vector<std::string> local_links(const std::string& page) {
  const std::string text = without_code(page);
  std::vector<std::string> links;
  for (std::size_t at = text.find("]("); at != text.npos; at = text.find("](", at + 2)) {
    std::string target = text.substr(at + 2, text.find(')', at) - at - 2);
    target = target.substr(0, target.find('#'));
    if (!target.empty() && target.find("://") == target.npos && !target.starts_with("mailto:")) links.push_back(target);
  }
  return links;
}

/// Words between backquotes.
std::vector<std::string> quoted_words(std::string_view text) {
  std::vector<std::string> words;
  for (std::size_t open = text.find('`'); open != text.npos;) {
    const std::size_t close = text.find('`', open + 1);
    if (close == text.npos) break;
    words.emplace_back(text.substr(open + 1, close - open - 1));
    open = text.find('`', close + 1);
  }
  return words;
}

TEST(documents, links_lead_somewhere) {
  std::size_t checked = 0;
  for (const fs::path& document : documents()) {
    for (const std::string& link : local_links(slurp(document))) {
      EXPECT_TRUE(fs::exists(document.parent_path() / link)) << fs::relative(document, root) << " links to " << link;
      ++checked;
    }
  }
  EXPECT_GT(checked, 10U);
}

TEST(documents, every_promise_has_a_folder_of_tests) {
  const std::string text = slurp(root / "docs/guarantees.md");
  bool inside = false;
  std::size_t promises = 0;
  for (const std::string_view line : source_rules::lines_of(text)) {
    if (line.starts_with("| promise |")) inside = true;
    else if (!line.starts_with('|')) inside = false;
    if (!inside || line.starts_with("| promise |") || line.starts_with("|---")) continue;
    const std::size_t last_cell = line.rfind('|', line.size() - 2);
    const auto folders = quoted_words(line.substr(last_cell));
    EXPECT_FALSE(folders.empty()) << line;
    for (const std::string& folder : folders) EXPECT_TRUE(fs::is_directory(root / "tests" / folder)) << "no tests/" << folder;
    ++promises;
  }
  EXPECT_GT(promises, 3U);
}

TEST(documents, every_decision_is_in_the_index) {
  const std::string index = slurp(root / "docs/decisions/README.md");
  std::set<std::string> numbers;
  for (const auto& entry : fs::directory_iterator(root / "docs/decisions")) {
    const std::string name = entry.path().filename().string();
    if (name == "README.md") continue;
    EXPECT_NE(index.find("(" + name + ")"), index.npos) << name << " is missing from the index";
    EXPECT_TRUE(numbers.insert(name.substr(0, 4)).second) << "two decisions have the number " << name.substr(0, 4);
  }
}

TEST(local_links, are_found_and_foreign_ones_left_out) {
  EXPECT_EQ(local_links("[a](b.md#c) [d](https://e.org) [f](#g)"), std::vector<std::string>{"b.md"});
  EXPECT_TRUE(local_links("```cpp\nv[i](x);\n```\n").empty());
  EXPECT_EQ(quoted_words("| `a`, `b` |"), (std::vector<std::string>{"a", "b"}));
}

}  // namespace static_documents_tests
