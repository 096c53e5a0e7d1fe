// SPDX-License-Identifier: Apache-2.0
#include "source_rules.hpp"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <stdexcept>

namespace source_rules {
namespace {

constexpr std::size_t longest_header = 500;
constexpr std::size_t widest_line = 140;

std::string_view trim(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool word_char(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

/// Whether `word` stands in `line` with no identifier character on either side.
bool has_word(std::string_view line, std::string_view word) {
  for (std::size_t at = line.find(word); at != std::string_view::npos; at = line.find(word, at + 1)) {
    const bool open_left = at == 0 || !word_char(line[at - 1]);
    const std::size_t end = at + word.size();
    const bool open_right = end >= line.size() || !word_char(line[end]) || !word_char(word.back());
    if (open_left && open_right) return true;
  }
  return false;
}

/// What stands between the delimiters of an #include line, delimiters included; empty if the line is none.
std::string_view included(std::string_view line) {
  line = trim(line);
  if (!line.starts_with('#')) return {};
  line = trim(line.substr(1));
  if (!line.starts_with("include")) return {};
  line = trim(line.substr(7));
  if (line.empty() || (line.front() != '<' && line.front() != '"')) return {};
  const std::size_t end = line.find(line.front() == '<' ? '>' : '"', 1);
  return end == std::string_view::npos ? std::string_view{} : line.substr(0, end + 1);
}

class checker {
 public:
  checker(std::string_view path, std::string_view text, const layering& table)
      : path_(path), lines_(lines_of(text)), code_(code_only(text)), code_lines_(lines_of(code_)), table_(table) {}

  std::vector<finding> run() {
    const bool header = path_.ends_with(".hpp");
    const bool library = path_.starts_with("include/") || (path_.starts_with("backends/") && path_.find("/include/") != path_.npos);
    spdx();
    unfinished();
    if (header) pragma_and_file_sentence();
    if (library && header) {
      size();
      macros_and_namespaces();
      no_side_effects();
      includes();
    }
    return std::move(findings_);
  }

 private:
  void report(std::string rule, std::size_t line, std::string message) {
    findings_.push_back({std::move(rule), static_cast<int>(line + 1), std::move(message)});
  }

  void spdx() {
    std::size_t first = 0;
    if (!lines_.empty() && lines_[0].starts_with("#!")) first = 1;  // a script's first line is its interpreter
    if (lines_.size() <= first || lines_[first].find("SPDX-License-Identifier: Apache-2.0") == std::string_view::npos) {
      report("spdx", first, "the first line is the SPDX line");
    }
  }

  void unfinished() {
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      for (const std::string_view mark : {"TO" "DO", "FIX" "ME", "X" "XX"}) {
        if (has_word(lines_[i], mark)) report("unfinished", i, "finish it or open an issue");
      }
    }
  }

  void pragma_and_file_sentence() {
    const auto has_line = [&](std::string_view wanted) {
      return std::any_of(lines_.begin(), lines_.end(), [&](std::string_view line) { return trim(line) == wanted; });
    };
    if (!has_line("#pragma once")) report("pragma_once", 1, "a header says #pragma once");
    if (std::none_of(lines_.begin(), lines_.end(), [](std::string_view line) { return trim(line).starts_with("/// @file"); })) {
      report("file_sentence", 1, "a header says in one @file sentence what it is");
    }
  }

  void size() {
    if (lines_.size() > longest_header) report("length", longest_header, "no header is longer than 500 lines: split it");
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      const bool code = !trim(code_lines_[i]).empty();  // neither a comment nor the inside of a raw string
      if (code && lines_[i].size() > widest_line) report("width", i, "a line of code has at most 140 columns");
    }
  }

  void macros_and_namespaces() {
    for (std::size_t i = 0; i < code_lines_.size(); ++i) {
      const std::string_view line = trim(code_lines_[i]);
      if (has_word(line, "using namespace")) report("using_namespace", i, "a header never says using namespace");
      const bool boost = line.find("BOOST_") != line.npos || line.find("boost::") != line.npos;
      if (boost && path_ != "include/esft/core/reflect.hpp") report("third_party", i, "Boost is named in core/reflect.hpp only");
      if (!line.starts_with('#')) continue;
      std::string_view directive = trim(line.substr(1));
      if (!directive.starts_with("define ")) continue;
      directive = trim(directive.substr(7));
      // A backend may configure the library that it wraps before it includes it.
      const bool configures = path_.starts_with("backends/eigen/") && directive.starts_with("EIGEN_");
      if (!directive.starts_with("ESFT_") && !configures) report("macro", i, "macros begin with ESFT_");
    }
  }

  void no_side_effects() {
    for (std::size_t i = 0; i < code_lines_.size(); ++i) {
      const std::string_view line = code_lines_[i];
      for (const std::string_view call :
           {"std::cout", "std::cerr", "std::clog", "printf(", "fprintf(", "vprintf(", "puts(", "fputs(", "putchar(", "perror(", "std::print"}) {
        if (has_word(line, call)) report("prints", i, "the library never prints");
      }
      for (const std::string_view call : {"abort(", "exit(", "_exit(", "_Exit(", "quick_exit(", "std::terminate", "assert(", "__builtin_trap"}) {
        if (has_word(line, call)) report("ends_the_program", i, "the library never ends the program: throw");
      }
    }
  }

  /// Folder of the header under include/esft ("" for umbrellas), or "backends/<name>".
  std::string_view own_folder() const {
    if (path_.starts_with("backends/")) return path_.substr(0, path_.find('/', 9));
    std::string_view rest = path_.substr(std::string_view("include/esft/").size());
    const std::size_t slash = rest.find('/');
    return slash == rest.npos ? std::string_view{} : rest.substr(0, slash);
  }

  void includes() {
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      const std::string_view quoted = included(lines_[i]);
      if (quoted.empty()) continue;
      if (quoted.front() == '"') {
        report("include_form", i, "own headers are included as <esft/folder/name.hpp>");
        continue;
      }
      const std::string_view target = quoted.substr(1, quoted.size() - 2);
      if (target.starts_with("esft/")) {
        own_include(i, target.substr(5));
      } else {
        foreign_include(i, target);
      }
    }
  }

  void own_include(std::size_t line, std::string_view target) {
    const std::string_view folder = own_folder();
    const std::size_t slash = target.find('/');
    const bool umbrella = slash == target.npos;
    std::string_view other = umbrella ? target.substr(0, target.find('.')) : target.substr(0, slash);
    if (other == "backends") {
      const std::string_view self = folder.starts_with("backends/") ? folder.substr(9) : std::string_view{};
      const std::string_view name = target.substr(9, target.find_first_of("./", 9) - 9);
      if (self.empty() || name != self) report("layering", line, "nothing includes a backend except that backend itself");
      return;
    }
    if (folder.empty()) {  // an umbrella
      const std::string_view self = path_.substr(std::string_view("include/esft/").size());
      const bool fine = self == "esft.hpp" ? umbrella : !umbrella && other == self.substr(0, self.find('.'));
      if (!fine) report("layering", line, "an umbrella includes its own folder; esft.hpp includes umbrellas");
      return;
    }
    if (folder == other) return;
    if (folder.starts_with("backends/")) {
      const bool communicator = folder == "backends/mpi" || folder == "backends/nccl";
      if (other == "core" || other == "backend" || (communicator && other == "distributed")) return;
      report("layering", line, "a backend sees core and backend, not " + std::string(other));
      return;
    }
    const auto row = table_.allowed.find(folder);
    if (row == table_.allowed.end()) {
      report("layering", line, "folder " + std::string(folder) + " has no row in docs/architecture.md");
    } else if (!row->second.contains(std::string(other))) {
      report("layering", line, std::string(folder) + " may not include " + std::string(other) + " (docs/architecture.md)");
    }
  }

  void foreign_include(std::size_t line, std::string_view target) {
    const bool standard = target.find('/') == target.npos && target.find('.') == target.npos;
    if (target == "iostream") report("prints", line, "the library never prints");
    if (target == "cassert") report("ends_the_program", line, "the library never ends the program: throw");
    if (standard || path_.starts_with("backends/")) return;
    const bool system = target.starts_with("sys/") || (target.ends_with(".h") && target.find('/') == target.npos);
    if (system && (path_.starts_with("include/esft/io/") || path_.starts_with("include/esft/train/"))) return;
    if (target.starts_with("boost/hana") && path_ == "include/esft/core/reflect.hpp") return;
    report("third_party", line, "<" + std::string(target) + "> does not belong here (docs/architecture.md)");
  }

  std::string_view path_;
  std::vector<std::string_view> lines_;
  std::string code_;
  std::vector<std::string_view> code_lines_;
  const layering& table_;
  std::vector<finding> findings_;
};

}  // namespace

std::vector<std::string_view> lines_of(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  return split(text, '\n');
}

std::string code_only(std::string_view text) {
  std::string code(text);
  enum class state { code, line_comment, block_comment, literal } now = state::code;
  char quote = 0;
  for (std::size_t i = 0; i < code.size(); ++i) {
    const char c = text[i];
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    switch (now) {
      case state::code:
        if (c == '/' && next == '/') {
          now = state::line_comment;
          code[i] = ' ';
        } else if (c == '/' && next == '*') {
          now = state::block_comment;
          code[i] = ' ';
        } else if (c == 'R' && next == '"' && (i == 0 || !word_char(text[i - 1]))) {
          const std::size_t open = text.find('(', i);
          if (open == text.npos) break;
          const std::string close = ")" + std::string(text.substr(i + 2, open - i - 2)) + "\"";
          const std::size_t end = std::min(text.find(close, open), text.size());
          for (i = open + 1; i < end; ++i) {
            if (text[i] != '\n') code[i] = ' ';
          }
          i = std::min(end + close.size(), text.size()) - 1;
        } else if (c == '"' || (c == '\'' && (i == 0 || !word_char(text[i - 1])))) {  // 1'000 is a number
          now = state::literal;
          quote = c;
        }
        break;
      case state::line_comment:
        if (c == '\n') now = state::code;
        else code[i] = ' ';
        break;
      case state::block_comment:
        if (c == '*' && next == '/') {
          code[i] = code[i + 1] = ' ';
          ++i;
          now = state::code;
        } else if (c != '\n') {
          code[i] = ' ';
        }
        break;
      case state::literal:
        if (c == '\\' && next != '\n') {
          code[i] = ' ';
          if (i + 1 < code.size()) code[++i] = ' ';
        } else if (c == quote || c == '\n') {
          now = state::code;
        } else {
          code[i] = ' ';
        }
        break;
    }
  }
  return code;
}

layering read_layering(std::string_view markdown) {
  layering table;
  bool inside = false;
  for (const std::string_view raw : lines_of(markdown)) {
    const std::string_view line = trim(raw);
    if (line == "| folder | may include |") {
      inside = true;
      continue;
    }
    if (!inside || line.starts_with("|---")) continue;
    if (!line.starts_with('|')) break;
    const auto cells = split(line, '|');
    if (cells.size() != 4) throw std::runtime_error("a row of the layering table has two cells: " + std::string(line));
    const std::string folder(trim(cells[1]));
    std::set<std::string> may;
    if (trim(cells[2]) != "(nothing)") {
      for (const std::string_view part : split(cells[2], ',')) {
        const std::string name(trim(part));
        if (!table.allowed.contains(name)) throw std::runtime_error("row " + folder + " names " + name + ", which is not above it");
        may.insert(name);
      }
    }
    if (!table.allowed.emplace(folder, std::move(may)).second) throw std::runtime_error("two rows for " + folder);
    table.order.push_back(folder);
  }
  if (table.order.empty()) throw std::runtime_error("docs/architecture.md has no table `| folder | may include |`");
  return table;
}

std::vector<finding> check(std::string_view path, std::string_view text, const layering& table) { return checker(path, text, table).run(); }

}  // namespace source_rules
