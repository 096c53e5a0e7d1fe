// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// JSON lines: a streaming reader for datasets, an appending writer for metrics.

#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/line_reader.hpp>

#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace esft {

/// Parses one line. @throws input_error naming file and line
inline json_value parse_json_line(const line_reader& lines) { return parse_json(lines.line(), lines.place().file); }

/// Calls `visit(const json_reader&)` for every line that is not blank. @cost one line in memory  @throws input_error
template <class Visit>
void read_jsonl(const std::filesystem::path& path, Visit&& visit) {
  line_reader lines(path);
  while (lines.next()) {
    if (lines.line().find_first_not_of(" \t") == std::string::npos) continue;
    const json_value tree = parse_json_line(lines);
    visit(json_reader(tree, lines.place().file));
  }
}

/// Appends values to a file, one line each, handed to the kernel at once: a killed process loses no finished line.
class jsonl_writer {
 public:
  /// Opens or creates the file. A line that a killed process left unfinished is cut off. @throws storage_error
  explicit jsonl_writer(std::filesystem::path path) : path_(std::move(path)) {
    fd_ = detail::unique_fd(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (fd_.get() < 0) throw storage_error("open", path_, errno);
    cut_unfinished_line();
  }

  /// Appends one line. @throws storage_error
  void write(const json_value& value) {
    const std::string line = write_json(value, json_layout::compact) + "\n";
    std::string_view rest = line;
    while (!rest.empty()) {
      const ::ssize_t count = ::write(fd_.get(), rest.data(), rest.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) throw storage_error("append to", path_, count == 0 ? ENOSPC : errno);
      rest.remove_prefix(static_cast<std::size_t>(count));
    }
  }

 private:
  void cut_unfinished_line() {
    const ::off_t size = ::lseek(fd_.get(), 0, SEEK_END);
    ::off_t end = size;
    char last = '\n';
    while (end > 0 && ::pread(fd_.get(), &last, 1, end - 1) == 1 && last != '\n') --end;
    if (end != size && ::ftruncate(fd_.get(), end) != 0) throw storage_error("repair", path_, errno);
  }

  std::filesystem::path path_;
  detail::unique_fd fd_;
};

}  // namespace esft
