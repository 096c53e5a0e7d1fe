// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `line_reader`: lines of a text file of any size, with a cap on one line, tolerant of CRLF and a byte-order mark.

#include <esft/io/file.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace esft {

/// Longest line that is read. @unit bytes
inline constexpr std::size_t line_limit = std::size_t{64} << 20U;

/// Streams the lines of a file. The last line need not end in a line feed.
class line_reader {
 public:
  /// @throws input_error  @pre limit > 0
  explicit line_reader(const std::filesystem::path& path, std::size_t limit = line_limit) : file_(path), limit_(limit) {}

  /// Advances to the next line; false at the end. @throws input_error `line_too_long`
  bool next() {
    line_.clear();
    ++number_;
    line_start_ = position_ - (buffer_.size() - at_);
    bool any = false;
    while (at_ < buffer_.size() || fill()) {
      any = true;
      const std::string_view rest = std::string_view(buffer_).substr(at_);
      const std::size_t end = rest.find('\n');
      const std::string_view piece = rest.substr(0, end);
      if (piece.size() > limit_ - line_.size()) {
        throw input_error(input_error_code::line_too_long, place(),
                          "line " + std::to_string(number_) + " has more than " + std::to_string(limit_) + " bytes", "split the record");
      }
      line_ += piece;
      at_ += piece.size();
      if (end != std::string_view::npos) {
        ++at_;
        break;
      }
    }
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    if (number_ == 1 && line_.starts_with("\xef\xbb\xbf")) line_.erase(0, 3);
    return any;
  }

  /// The current line without its end.
  [[nodiscard]] const std::string& line() const noexcept { return line_; }
  /// Counted from 1.
  [[nodiscard]] std::uint64_t number() const noexcept { return number_; }
  /// Place of the current line, for messages.
  [[nodiscard]] input_place place() const { return {file_.path().string() + ":" + std::to_string(number_), {}, line_start_}; }
  /// Size of the file, for progress. @unit bytes
  [[nodiscard]] std::uint64_t file_size() const noexcept { return file_.size(); }

 private:
  bool fill() {
    const std::uint64_t left = file_.size() - position_;
    buffer_.resize(static_cast<std::size_t>(left < buffer_size ? left : buffer_size));
    file_.read_at(position_, std::as_writable_bytes(std::span(buffer_)));
    position_ += buffer_.size();
    at_ = 0;
    return !buffer_.empty();
  }

  static constexpr std::uint64_t buffer_size = 1U << 18U;
  input_file file_;
  std::size_t limit_;
  std::string buffer_;
  std::size_t at_ = 0;
  std::uint64_t position_ = 0;  // of the end of the buffer in the file
  std::uint64_t line_start_ = 0;
  std::uint64_t number_ = 0;
  std::string line_;
};

}  // namespace esft
