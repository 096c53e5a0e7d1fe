// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `run_lock`: one process per run directory; the kernel frees the lock when the process dies.

#include <esft/io/file.hpp>
#include <esft/io/lock_error.hpp>

#include <array>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <string>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

namespace esft {

/// Holds the exclusive lock of a run directory (file `run.lock` in it) until destroyed.
/// flock and not fcntl: an fcntl lock vanishes when the process closes any other descriptor of the file.
class run_lock {
 public:
  /// @throws lock_error when another process holds it, storage_error when the file system cannot lock
  explicit run_lock(const std::filesystem::path& directory) {
    const std::filesystem::path path = directory / "run.lock";
    fd_ = detail::unique_fd(::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (fd_.get() < 0) throw storage_error("create", path, errno);
    if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno != EWOULDBLOCK) throw storage_error("lock", path, errno, "this file system has no locks; use a local directory");
      throw lock_error(directory, holder());
    }
    const std::string pid = std::to_string(::getpid());
    if (::ftruncate(fd_.get(), 0) != 0 || ::pwrite(fd_.get(), pid.data(), pid.size(), 0) != static_cast<::ssize_t>(pid.size())) {
      throw storage_error("write", path, errno);
    }
  }

 private:
  [[nodiscard]] std::string holder() const {
    std::array<char, 32> text{};
    const ::ssize_t count = ::pread(fd_.get(), text.data(), text.size(), 0);
    return count > 0 ? std::string(text.data(), static_cast<std::size_t>(count)) : "unknown";
  }

  detail::unique_fd fd_;
};

}  // namespace esft
