// SPDX-License-Identifier: Apache-2.0
// What the manual prints of the command line exists, and the tool says of every option what it is for.
#include "end_to_end/workspace.hpp"

#include <set>
#include <sstream>
#include <string_view>

namespace end_to_end_manual_tests {

namespace fs = std::filesystem;

/// Code of a page that is meant for a shell: lines of its blocks but those of C++, CMake and TOML, and what stands between backquotes.
std::vector<std::string> commands_of(const std::string& page) {
  std::vector<std::string> found;
  std::istringstream lines(page);
  bool fenced = false;
  bool shell = false;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("```")) {
      fenced = !fenced;
      shell = line == "```" || line == "```sh" || line == "```text";
      continue;
    }
    if (fenced && shell) found.push_back(line.substr(0, line.find("   #")));
    for (std::size_t open = fenced ? line.npos : line.find('`'); open != line.npos;) {
      const std::size_t close = line.find('`', open + 1);
      if (close == line.npos) break;
      found.push_back(line.substr(open + 1, close - open - 1));
      open = line.find('`', close + 1);
    }
  }
  return found;
}

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word.substr(0, word.find_first_of(",;)]=")));
  return words;
}

bool is_flag(std::string_view word) { return word.size() > 2 && word.starts_with("--") && word[2] != '-'; }

std::set<std::string> flags_in(const std::string& text) {
  std::set<std::string> flags;
  std::istringstream in(text);
  for (std::string word; in >> word;) {
    for (std::size_t at = word.find("--"); at != word.npos; at = word.find("--", at + 2)) {
      flags.insert(word.substr(at, word.find_first_not_of("abcdefghijklmnopqrstuvwxyz-", at) - at));
    }
  }
  return flags;
}

class manual : public end_to_end::workspace {
 protected:
  using command_line = std::vector<std::string>;
  /// The help of every command; a command inside another one has two words.
  [[nodiscard]] std::map<command_line, std::string> helps() const {
    std::map<command_line, std::string> result;
    collect({}, result);
    return result;
  }

 private:
  void collect(const command_line& command, std::map<command_line, std::string>& into) const {
    command_line asked = command;
    asked.emplace_back("--help");
    const std::string& help = into[command] = succeed(asked);
    std::istringstream lines(help.substr(std::min(help.find("\nSubcommands:\n"), help.size())));
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("  ") || line[2] == ' ') continue;
      command_line inner = command;
      inner.push_back(line.substr(2, line.find(' ', 2) - 2));
      collect(inner, into);
    }
  }
};

TEST_F(manual, every_option_says_what_it_is_for) {
  constexpr std::size_t column = 30;  // where descriptions begin, on the option's line or on the next
  std::size_t options = 0;
  for (const auto& [command, help] : helps()) {
    std::istringstream in(help);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      if (!lines[i].starts_with("  -")) continue;
      const bool here = lines[i].size() > column && lines[i][column - 1] == ' ' && lines[i][column] != ' ';
      const bool below = i + 1 < lines.size() && lines[i + 1].size() > column && lines[i + 1].find_first_not_of(' ') == column;
      EXPECT_TRUE(here || below) << "esft " << (command.empty() ? "" : command.back()) << ": " << lines[i];
      ++options;
    }
  }
  EXPECT_GT(options, 200U);
}

TEST_F(manual, every_command_and_flag_of_its_pages_exists) {
  const auto known = helps();
  std::set<std::string> all;
  for (const auto& [command, help] : known) all.merge(flags_in(help));
  const std::set<std::string> of_others{"--expt-relaxed-constexpr"};

  const fs::path root = ESFT_TEST_SOURCE_DIR;
  std::vector<fs::path> pages{root / "README.md", root / "CONTRIBUTING.md"};
  for (const char* folder : {"docs", "docs/tutorial", "docs/how_to", "docs/explanation"}) {
    for (const auto& entry : fs::directory_iterator(root / folder)) {
      if (entry.path().extension() == ".md") pages.push_back(entry.path());
    }
  }
  std::size_t commands = 0;
  for (const fs::path& page : pages) {
    for (const std::string& text : commands_of(end_to_end::content(page))) {
      const std::vector<std::string> words = words_of(text);
      if (words.empty()) continue;
      EXPECT_TRUE(!is_flag(words[0]) || all.contains(words[0]) || of_others.contains(words[0])) << page << ": " << text;
      if (words[0] != "esft" || words.size() < 2) continue;
      command_line command;
      for (std::size_t i = 1; i < words.size(); ++i) {
        command.push_back(words[i]);
        if (known.contains(command)) continue;
        command.pop_back();
        break;
      }
      EXPECT_TRUE(!command.empty() || is_flag(words[1])) << page << " names a command that does not exist: " << text;
      const std::set<std::string> flags = flags_in(known.at(command) + known.at({}));
      for (const std::string& word : words) {
        EXPECT_TRUE(!is_flag(word) || flags.contains(word)) << page << ": esft " << words[1] << " has no " << word;
      }
      ++commands;
    }
  }
  EXPECT_GT(commands, 100U);
}

TEST_F(manual, documents_that_do_not_fit_a_row_are_counted) {
  const auto said = [&](std::vector<std::string> command, const std::string& length) {
    command.insert(command.end(), {"--length", length, "--threads", "1"});
    const end_to_end::ended result = run(command);
    EXPECT_EQ(result.code, 0) << result.err;
    return result.err;
  };
  select();
  ASSERT_EQ(run(train("run", "1")).code, 0);
  for (const std::vector<std::string>& command : {
           std::vector<std::string>{"score", "--model", "model", "--data", "task.jsonl", "--out", "s.json"},
           {"eval", "--model", "model", "--data", "task.jsonl", "--no-exact-match"},
           {"drift", "--model", "model", "--adapter", "run", "--data", "task.jsonl"},
           {"audit", "--model", "model", "--adapter", "run", "--data", "task.jsonl"},
       }) {
    EXPECT_NE(said(command, "6").find("24 of 24"), std::string::npos) << command.front();
    EXPECT_EQ(said(command, "24").find("of 24"), std::string::npos) << command.front();
  }
}

TEST(manual_reader, finds_commands_and_flags) {
  const auto found = commands_of("a `esft x --y` and `z`\n```cpp\nint `q`;\n```\n```text\nesft a --b   # `c`\n```\n");
  EXPECT_EQ(found, (std::vector<std::string>{"esft x --y", "z", "esft a --b"}));
  EXPECT_EQ(flags_in("  --method,--plan TEXT  --deterministic,--no-deterministic{false}"),
            (std::set<std::string>{"--method", "--plan", "--deterministic", "--no-deterministic"}));
  EXPECT_TRUE(is_flag("--json"));
  EXPECT_FALSE(is_flag("---"));
}

}  // namespace end_to_end_manual_tests
