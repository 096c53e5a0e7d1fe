// SPDX-License-Identifier: Apache-2.0
// The manual cannot drift from the code: every C++ block of a page is a piece of the file that the page names.
#include "quotes.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace docs_manual_tests {

namespace fs = std::filesystem;
using esft_test::is_excerpt;
using esft_test::lines_of;
using esft_test::quotes_of;

const fs::path root = ESFT_TEST_SOURCE_DIR;

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> pages() {
  std::vector<fs::path> found{root / "README.md", root / "CONTRIBUTING.md", root / "examples/README.md"};
  for (const auto& entry : fs::recursive_directory_iterator(root / "docs")) {
    if (entry.path().extension() == ".md") found.push_back(entry.path());
  }
  return found;
}

std::vector<fs::path> lessons() {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(root / "examples")) {
    const std::string name = entry.path().filename().string();
    if (name.ends_with(".cpp") && name.find_first_not_of("0123456789") == 2) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

TEST(manual, every_code_block_is_a_piece_of_the_file_it_names) {
  std::size_t checked = 0;
  for (const fs::path& page : pages()) {
    for (const auto& quote : quotes_of(slurp(page))) {
      const std::string where = fs::relative(page, root).string() + ":" + std::to_string(quote.line);
      ASSERT_FALSE(quote.file.empty()) << where << " quotes code and names no file before it";
      ASSERT_TRUE(fs::exists(root / quote.file)) << where << " quotes " << quote.file << ", which is not there";
      EXPECT_TRUE(is_excerpt(quote.lines, lines_of(slurp(root / quote.file)))) << where << " differs from " << quote.file << ": copy it again";
      ++checked;
    }
  }
  EXPECT_GE(checked, 15U);
}

TEST(manual, every_lesson_is_short_and_has_a_page_that_quotes_it) {
  EXPECT_GE(lessons().size(), 6U);
  for (const fs::path& lesson : lessons()) {
    EXPECT_LE(lines_of(slurp(lesson)).size(), 80U) << lesson << " is a lesson: at most 80 lines";
    std::string name = lesson.stem().string();
    std::replace(name.begin(), name.end(), '_', '-');
    const fs::path page = root / "docs/tutorial" / (name + ".md");
    ASSERT_TRUE(fs::exists(page)) << lesson << " has no page " << page;
    const auto quotes = quotes_of(slurp(page));
    const bool quoted = std::any_of(quotes.begin(), quotes.end(), [&](const auto& q) { return q.file == fs::relative(lesson, root).generic_string(); });
    EXPECT_TRUE(quoted) << page << " does not quote " << lesson;
  }
}

TEST(quotes, a_changed_reordered_or_shortened_line_is_noticed) {
  const std::vector<std::string> source{"int main() {", "  step();", "", "  report(1);", "}"};
  EXPECT_TRUE(is_excerpt({"  step();", "", "  report(1);"}, source));
  EXPECT_TRUE(is_excerpt({"step();", "", "report(1);"}, source)) << "one common indent may go";
  EXPECT_FALSE(is_excerpt({"  step();", "", "  report(2);"}, source));
  EXPECT_FALSE(is_excerpt({"  report(1);", "", "  step();"}, source));
  EXPECT_FALSE(is_excerpt({"  step();", "  report(1);"}, source));
  EXPECT_FALSE(is_excerpt({"step();", "", "  report(1);"}, source)) << "the indent is the same for all lines";
  EXPECT_FALSE(is_excerpt({"ep();"}, source)) << "a quote begins where a line begins";
  EXPECT_FALSE(is_excerpt({}, source));
}

TEST(quotes, a_block_belongs_to_the_file_named_last_before_it) {
  const auto quotes = quotes_of("```cpp\na\n```\nSee [it](../../examples/01_x.cpp).\n```text\nexamples/02_y.cpp\n```\n```cpp\nb\nc\n```\n");
  ASSERT_EQ(quotes.size(), 2U);
  EXPECT_EQ(quotes[0].file, "");
  EXPECT_EQ(quotes[1].file, "examples/01_x.cpp");
  EXPECT_EQ(quotes[1].line, 8U);
  EXPECT_EQ(quotes[1].lines, (std::vector<std::string>{"b", "c"}));
}

}  // namespace docs_manual_tests
