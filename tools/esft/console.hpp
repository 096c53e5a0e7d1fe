// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the tool says and where: results on stdout, progress and warnings on stderr, one JSON object with --json.

#include <esft/io/json_value.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <unistd.h>

namespace esft::tool {

/// Output settings of the process; set once from the command line.
struct console {
  bool json = false;
  bool quiet = false;
  bool colour = ::isatty(STDOUT_FILENO) != 0 && std::getenv("NO_COLOR") == nullptr;

  /// A line of the human-readable result.
  void line(const std::string& text = {}) const {
    if (!json && !quiet) std::printf("%s\n", text.c_str());
  }
  /// The result for programs: printed as the only thing on stdout when --json was given.
  void result(const json_value& value) const {
    if (json) std::printf("%s\n", write_json(value, json_layout::pretty).c_str());
  }
  /// Something the user should know although the work goes on.
  void warn(const std::string& text) const {
    if (!quiet) std::fprintf(stderr, "esft: warning: %s\n", text.c_str());
  }
  [[nodiscard]] std::string strong(std::string_view text) const { return paint("1", text); }
  [[nodiscard]] std::string good(std::string_view text) const { return paint("32", text); }
  [[nodiscard]] std::string bad(std::string_view text) const { return paint("31", text); }

 private:
  [[nodiscard]] std::string paint(const char* code, std::string_view text) const {
    return colour ? "\x1b[" + std::string(code) + "m" + std::string(text) + "\x1b[0m" : std::string(text);
  }
};

/// The process's console.
inline console& out() {
  static console instance;
  return instance;
}

/// Thrown by a command that has reported its outcome and only wants its exit code.
struct finished {
  int exit_code = 0;
};

}  // namespace esft::tool
