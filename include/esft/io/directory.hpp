// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Directories: making and listing them, and `atomic_directory`, whose files appear all together or not at all.

#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>
#include <esft/io/file.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>

namespace esft {

/// Makes a directory, and those above it, where they are not there yet.
/// @throws storage_error that names it: what is above is no directory or cannot be written
inline void make_directory(const std::filesystem::path& directory) {
  std::error_code failure;
  std::filesystem::create_directories(directory, failure);
  if (failure) throw storage_error("make the directory", directory, failure.value(), "choose a place where a directory can be made");
}

/// What lies in a directory, by name. @throws input_error `cannot_open`
[[nodiscard]] inline std::vector<std::filesystem::directory_entry> entries_of(const std::filesystem::path& directory) {
  std::vector<std::filesystem::directory_entry> entries;
  std::error_code failure;
  for (std::filesystem::directory_iterator at(directory, failure), end; !failure && at != end; at.increment(failure))
    entries.push_back(*at);
  if (failure) {
    throw input_error(input_error_code::cannot_open, {directory.string(), {}, {}}, "cannot list: " + failure.message(),
                      "give the path of a directory that can be read");
  }
  std::sort(entries.begin(), entries.end());
  return entries;
}

/// Collects files in a hidden sibling of `target`; `commit` puts it in place in one step.
/// An existing directory is replaced only if it holds nothing but `replaceable` files; it is lost only after its successor is in place.
class atomic_directory {
 public:
  /// @throws usage_error when `target` holds other files, storage_error
  explicit atomic_directory(std::filesystem::path target, std::initializer_list<std::string_view> replaceable = {})
      : target_(without_trailing_slash(std::move(target))) {
    std::error_code failure;
    const auto status = std::filesystem::status(target_, failure);
    exists_ = std::filesystem::exists(status);
    if (exists_ && !std::filesystem::is_directory(status))
      throw usage_error(target_.string() + " is not a directory; choose another output");
    if (exists_) {
      for (const auto& entry : entries_of(target_)) {
        const std::string name = entry.path().filename().string();
        if (std::find(replaceable.begin(), replaceable.end(), name) == replaceable.end()) {
          throw usage_error(target_.string() + " holds '" + detail::printable(name) +
                            "', which would be lost; choose a new or empty directory");
        }
      }
    }
    temporary_ = detail::temporary_name(target_);
    make_directory(target_.has_parent_path() ? target_.parent_path() : ".");
    if (!std::filesystem::create_directory(temporary_, failure))
      throw storage_error("create", temporary_, failure ? failure.value() : EEXIST);
  }
  atomic_directory(const atomic_directory&) = delete;
  atomic_directory& operator=(const atomic_directory&) = delete;
  ~atomic_directory() {
    std::error_code ignored;
    std::filesystem::remove_all(temporary_, ignored);  // the unfinished one, or after commit the one that was replaced
  }

  /// Where to write files until `commit`.
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return temporary_; }

  /// Puts the directory in place. @pre every file in it is synced, as `atomic_file_writer` leaves it  @throws storage_error
  void commit() {
    detail::sync_directory(temporary_);
    const unsigned flags = exists_ ? RENAME_EXCHANGE : 0U;
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), flags) != 0) {
      const bool no_exchange = exists_ && (errno == EINVAL || errno == ENOSYS);
      if (!no_exchange) throw storage_error("rename to", target_, errno);
      exchange_in_two_steps();
    }
    detail::sync_directory(target_.parent_path());
  }

 private:
  static std::filesystem::path without_trailing_slash(std::filesystem::path path) {
    return path.has_filename() ? path : path.parent_path();
  }

  void exchange_in_two_steps() {
    const std::filesystem::path old = detail::temporary_name(target_);
    if (::rename(target_.c_str(), old.c_str()) != 0) throw storage_error("rename", target_, errno);
    if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
      const int error_number = errno;
      static_cast<void>(::rename(old.c_str(), target_.c_str()));
      throw storage_error("rename to", target_, error_number);
    }
    temporary_ = old;
  }

  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool exists_ = false;
};

/// Copies a file under a new name, whole or not at all. @throws input_error, storage_error
inline void copy_file_atomically(const std::filesystem::path& from, const std::filesystem::path& to) {
  const input_file source(from);
  atomic_file_writer writer(to);
  std::vector<std::byte> buffer(std::size_t{1} << 18U);
  while (writer.size() < source.size()) {
    const auto piece =
        std::span(buffer).first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), source.size() - writer.size())));
    source.read_at(writer.size(), piece);
    writer.write(piece);
  }
  writer.commit();
}

}  // namespace esft
