// SPDX-License-Identifier: Apache-2.0
// The tree keeps its own rules, and the rules notice when it does not: every planted fault of bad/ is found, and its repaired twin is clean.
#include "source_rules.hpp"

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace static_sources_tests {

namespace fs = std::filesystem;
using source_rules::finding;

const fs::path root = ESFT_TEST_SOURCE_DIR;

std::string slurp(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

const source_rules::layering& table() {
  static const auto read = source_rules::read_layering(slurp(root / "docs/architecture.md"));
  return read;
}

std::vector<fs::path> files_below(const char* folder) {
  std::vector<fs::path> files;
  if (!fs::exists(root / folder)) return files;
  for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

bool is_source(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".hpp" || extension == ".cpp" || extension == ".cu" || extension == ".cmake" || extension == ".sh" || extension == ".py" ||
         path.filename() == "CMakeLists.txt";
}

std::string describe(const std::vector<finding>& findings) {
  std::string text;
  for (const auto& [rule, line, message] : findings) text += "  line " + std::to_string(line) + " [" + rule + "] " + message + "\n";
  return text;
}

TEST(sources, keep_the_house_rules) {
  std::size_t checked = 0;
  for (const char* folder : {"include", "backends", "tools", "examples", "benchmarks", "tests", "cmake"}) {
    for (const fs::path& path : files_below(folder)) {
      if (!is_source(path)) continue;
      const std::string relative = fs::relative(path, root).generic_string();
      const auto findings = source_rules::check(relative, slurp(path), table());
      EXPECT_TRUE(findings.empty()) << relative << "\n" << describe(findings);
      ++checked;
    }
  }
  EXPECT_GT(checked, 30U) << "the walk found too few files to mean anything";
}

TEST(sources, half_of_the_headers_have_at_most_120_lines) {
  std::vector<std::size_t> lengths;
  for (const fs::path& path : files_below("include")) {
    if (path.extension() == ".hpp") lengths.push_back(source_rules::lines_of(slurp(path)).size());
  }
  ASSERT_FALSE(lengths.empty());
  std::nth_element(lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(lengths.size() / 2), lengths.end());
  EXPECT_LE(lengths[lengths.size() / 2], 120U);
}

TEST(sources, every_folder_says_what_it_is_and_has_a_row) {
  for (const auto& entry : fs::directory_iterator(root / "include/esft")) {
    if (!entry.is_directory()) continue;
    const std::string folder = entry.path().filename().string();
    EXPECT_TRUE(table().allowed.contains(folder)) << folder << " has no row in docs/architecture.md";
    const fs::path readme = entry.path() / "README.md";
    if (!fs::exists(readme)) {
      ADD_FAILURE() << readme << ": purpose, what it may include, its concepts, how to add one, in five lines";
      continue;
    }
    EXPECT_LE(source_rules::lines_of(slurp(readme)).size(), 12U) << readme << " is a signpost, not a manual";
  }
}

/// Own headers that each header of include/esft includes, by the path that is written in the #include.
std::map<std::string, std::set<std::string>> include_graph() {
  std::map<std::string, std::set<std::string>> graph;
  for (const fs::path& path : files_below("include")) {
    if (path.extension() != ".hpp") continue;
    auto& targets = graph[fs::relative(path, root / "include").generic_string()];
    const std::string text = slurp(path);
    for (const std::string_view line : source_rules::lines_of(text)) {
      constexpr std::string_view start = "#include <esft/";
      if (line.starts_with(start)) targets.emplace(line.substr(10, line.find('>') - 10));
    }
  }
  return graph;
}

std::set<std::string> reached_from(const std::string& header, const std::map<std::string, std::set<std::string>>& graph) {
  std::set<std::string> seen;
  std::vector<std::string> open{header};
  while (!open.empty()) {
    const auto entry = graph.find(open.back());
    open.pop_back();
    if (entry == graph.end()) continue;
    for (const std::string& next : entry->second) {
      if (seen.insert(next).second) open.push_back(next);
    }
  }
  return seen;
}

bool reaches_folder(const std::set<std::string>& reached, const std::string& folder) {
  return std::any_of(reached.begin(), reached.end(), [&](const std::string& header) { return header.starts_with("esft/" + folder + "/"); });
}

// A folder's umbrella gives the whole folder, except what needs more than a compiler: files (io) and reflection (Boost).
TEST(umbrellas, are_complete) {
  const auto graph = include_graph();
  for (const auto& entry : fs::directory_iterator(root / "include/esft")) {
    if (!entry.is_directory()) continue;
    const std::string folder = entry.path().filename().string();
    const std::string umbrella = "esft/" + folder + ".hpp";
    if (!graph.contains(umbrella)) {
      ADD_FAILURE() << "include/" << umbrella << " is missing";
      continue;
    }
    const auto reached = reached_from(umbrella, graph);
    for (const auto& [header, targets] : graph) {
      if (!header.starts_with("esft/" + folder + "/") || header == "esft/core/reflect.hpp") continue;
      const bool light = folder == "io" || folder == "analysis" || !reaches_folder(reached_from(header, graph), "io");
      EXPECT_TRUE(!light || reached.contains(header)) << umbrella << " does not reach " << header;
    }
  }
}

TEST(umbrellas, esft_hpp_gives_every_folder_but_files_and_reports) {
  const auto graph = include_graph();
  const auto reached = reached_from("esft/esft.hpp", graph);
  EXPECT_FALSE(reaches_folder(reached, "io")) << "esft.hpp must not reach io: who loads nothing pays nothing";
  for (const std::string& folder : table().order) {
    if (folder == "io" || folder == "analysis" || !fs::exists(root / "include/esft" / folder)) continue;
    EXPECT_TRUE(reached.contains("esft/" + folder + ".hpp")) << "esft.hpp lacks " << folder;
  }
}

TEST(umbrellas, without_layers_need_no_boost) {
  const auto graph = include_graph();
  for (const char* folder : {"core", "backend", "selection", "relevance", "optim"}) {
    const std::string umbrella = std::string("esft/") + folder + ".hpp";
    EXPECT_FALSE(reached_from(umbrella, graph).contains("esft/core/reflect.hpp")) << umbrella << " reaches Boost (decision 0005)";
  }
  EXPECT_TRUE(reached_from("esft/moe.hpp", graph).contains("esft/core/reflect.hpp")) << "the walk of the include graph finds nothing";
}

// A planted fault: line 1 `// as: <path>`, line 2 `// expect: <rule>`, then the file. Lines ending in `// fault` are the fault itself.
struct planted {
  std::string path;
  std::string rule;
  std::string with_fault;
  std::string without_fault;
};

planted read_planted(const fs::path& file) {
  const std::string text = slurp(file);
  const auto lines = source_rules::lines_of(text);
  planted result;
  result.path = std::string(lines.at(0).substr(std::string_view("// as: ").size()));
  result.rule = std::string(lines.at(1).substr(std::string_view("// expect: ").size()));
  for (std::size_t i = 2; i < lines.size(); ++i) {
    const bool fault = lines[i].ends_with("// fault");
    result.with_fault += std::string(lines[i]) + "\n";
    if (!fault) result.without_fault += std::string(lines[i]) + "\n";
  }
  return result;
}

TEST(planted_faults, are_found_and_their_twins_are_clean) {
  const auto files = files_below("tests/static/bad");
  EXPECT_GE(files.size(), 10U);
  for (const fs::path& file : files) {
    SCOPED_TRACE(file.filename().string());
    const planted fault = read_planted(file);
    ASSERT_NE(fault.with_fault, fault.without_fault) << "no line is marked as the fault";
    const auto found = source_rules::check(fault.path, fault.with_fault, table());
    EXPECT_EQ(found.size(), 1U) << describe(found);
    EXPECT_TRUE(!found.empty() && found[0].rule == fault.rule) << describe(found);
    const auto twin = source_rules::check(fault.path, fault.without_fault, table());
    EXPECT_TRUE(twin.empty()) << describe(twin);
  }
}

// What must be there cannot be planted as a line: take it away from a good header instead.
TEST(missing_lines, are_noticed) {
  const std::string good = "// SPDX-License-Identifier: Apache-2.0\n#pragma once\n/// @file\n/// A header.\n#include <vector>\nint f();\n";
  const std::string path = "include/esft/core/good.hpp";
  EXPECT_TRUE(source_rules::check(path, good, table()).empty());
  const auto without = [&](std::string_view line) {
    std::string text = good;
    text.erase(text.find(line), line.size() + 1);
    const auto found = source_rules::check(path, text, table());
    return found.size() == 1 ? found[0].rule : describe(found);
  };
  EXPECT_EQ(without("// SPDX-License-Identifier: Apache-2.0"), "spdx");
  EXPECT_EQ(without("#pragma once"), "pragma_once");
  EXPECT_EQ(without("/// @file"), "file_sentence");

  std::string long_one = good;
  for (int i = 0; i < 494; ++i) long_one += "int g();\n";
  EXPECT_TRUE(source_rules::check(path, long_one, table()).empty()) << "500 lines are allowed";
  long_one += "int g();\n";
  const auto found = source_rules::check(path, long_one, table());
  ASSERT_EQ(found.size(), 1U) << describe(found);
  EXPECT_EQ(found[0].rule, "length");
}

TEST(layering_table, refuses_what_is_not_above_and_duplicates) {
  const std::string head = "| folder | may include |\n|---|---|\n| core | (nothing) |\n";
  EXPECT_NO_THROW(source_rules::read_layering(head + "| io | core |\n"));
  EXPECT_THROW(source_rules::read_layering(head + "| io | data |\n| data | core |\n"), std::runtime_error);
  EXPECT_THROW(source_rules::read_layering(head + "| core | (nothing) |\n"), std::runtime_error);
  EXPECT_THROW(source_rules::read_layering("no table"), std::runtime_error);
}

TEST(code_only, blanks_comments_and_literals_but_keeps_lines) {
  EXPECT_EQ(source_rules::code_only("a // abort()\nb"), "a           \nb");
  EXPECT_EQ(source_rules::code_only("f(\"abort()\")"), "f(\"       \")");
  EXPECT_EQ(source_rules::code_only("R\"a(exit()\n\" )a\"; abort()"), "R\"a(      \n  )a\"; abort()");
  EXPECT_EQ(source_rules::code_only("x = 1'000; abort()"), "x = 1'000; abort()");
  EXPECT_EQ(source_rules::code_only("'\"' abort() /* exit() */"), "' ' abort()             ");
}

TEST(version, has_one_value_everywhere) {
  const std::string config = slurp(root / "include/esft/core/config.hpp");
  const auto value = [&](const std::string& name) {
    const std::size_t at = config.find("#define ESFT_VERSION_" + name + " ");
    EXPECT_NE(at, config.npos) << name;
    const std::size_t begin = config.find(' ', at + 9) + 1;
    return config.substr(begin, config.find('\n', begin) - begin);
  };
  EXPECT_EQ(value("STRING"), "\"" + value("MAJOR") + "." + value("MINOR") + "." + value("PATCH") + "\"");
  EXPECT_NE(slurp(root / "CHANGELOG.md").find("## " + value("MAJOR") + "." + value("MINOR") + "."), std::string::npos);
}

}  // namespace static_sources_tests
