// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Files: `input_file` for positioned reads, `atomic_file_writer` for files that appear whole or not at all.

#include <esft/core/contract.hpp>
#include <esft/io/input_error.hpp>
#include <esft/io/storage_error.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace esft {

namespace detail {

/// Owns a file descriptor.
class unique_fd {
 public:
  explicit unique_fd(int fd = -1) noexcept : fd_(fd) {}
  unique_fd(unique_fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  unique_fd& operator=(unique_fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~unique_fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const noexcept { return fd_; }
  /// Gives up ownership, for the one caller that must see whether close() failed.
  [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

/// Owns a mapping of a file, or nothing.
class unique_mapping {
 public:
  unique_mapping() = default;
  unique_mapping(unique_mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  unique_mapping& operator=(unique_mapping&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~unique_mapping() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }
  /// Read-only; false where the system refuses.
  [[nodiscard]] bool map(int fd, std::size_t size) {
    void* const at = size == 0 ? nullptr : ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (at == MAP_FAILED) return false;
    bytes_ = {static_cast<const std::byte*>(at), size};
    return true;
  }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

/// Makes a rename in `directory` survive power loss.
inline void sync_directory(const std::filesystem::path& directory) {
  const std::filesystem::path target = directory.empty() ? std::filesystem::path(".") : directory;
  const unique_fd fd(::open(target.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() < 0) throw storage_error("open the directory", target, errno);
  if (::fsync(fd.get()) != 0 && errno != EINVAL) throw storage_error("sync the directory", target, errno);
}

/// Name for a file that is not finished: in the same directory, so that a rename is atomic; unique per process and call.
inline std::filesystem::path temporary_name(const std::filesystem::path& path) {
  static std::atomic<unsigned> counter = 0;
  std::filesystem::path result = path;
  result += ".tmp-" + std::to_string(::getpid()) + "-" + std::to_string(counter++);
  return result;
}

}  // namespace detail

/// How a file's bytes come into memory.
enum class file_access : std::uint8_t {
  positioned,  ///< by reads: a file that becomes shorter meanwhile is an error
  mapped,      ///< read-only mapping, without copies: a file that becomes shorter meanwhile ends the process with a signal
};

/// A regular file open for positioned reads. It is mapped only on request: elsewhere a file that shrinks gives an error, not a signal.
class input_file {
 public:
  /// @throws input_error `cannot_open`, `not_regular_file`; storage_error where a mapping is refused
  explicit input_file(std::filesystem::path path, file_access access = file_access::positioned) : path_(std::move(path)) {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer that never comes.
    fd_ = detail::unique_fd(::open(path_.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (fd_.get() < 0) {
      throw input_error(input_error_code::cannot_open, {path_.string(), {}, {}},
                        "cannot open: " + std::generic_category().message(errno), "check the path and its permissions");
    }
    status_ = status();
    if (!S_ISREG(status_.st_mode)) {
      throw input_error(input_error_code::not_regular_file, {path_.string(), {}, {}}, "not a regular file", "give the path of a file");
    }
    if (access == file_access::mapped && !mapping_.map(fd_.get(), static_cast<std::size_t>(size()))) {
      throw storage_error("map", path_, errno, "read the file without mapping it");
    }
  }

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// @unit bytes
  [[nodiscard]] std::uint64_t size() const noexcept { return static_cast<std::uint64_t>(status_.st_size); }

  /// All bytes of a mapped file; empty for others.
  [[nodiscard]] std::span<const std::byte> mapped() const noexcept { return mapping_.bytes(); }

  /// Fills `out` from `offset` on. @throws input_error `changed_while_open` when the file has become shorter
  void read_at(std::uint64_t offset, std::span<std::byte> out) const {
    if (const auto all = mapped(); !all.empty() && offset <= all.size() && out.size() <= all.size() - offset) {
      std::copy_n(all.begin() + static_cast<std::ptrdiff_t>(offset), out.size(), out.begin());
      return;
    }
    while (!out.empty()) {
      const ::ssize_t count = ::pread(fd_.get(), out.data(), std::min<std::size_t>(out.size(), std::size_t{1} << 30U),
                                      static_cast<::off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw storage_error("read", path_, errno, "the disk may be failing; copy the file again");
      if (count == 0) {
        throw input_error(input_error_code::changed_while_open, {path_.string(), {}, offset}, "the file ends before its announced size",
                          "another process changed it, or the download is incomplete: fetch it again");
      }
      offset += static_cast<std::uint64_t>(count);
      out = out.subspan(static_cast<std::size_t>(count));
    }
  }

  /// @throws input_error `changed_while_open` when the file is not the one that was opened any more
  void expect_unchanged() const {
    const struct ::stat now = status();
    if (now.st_size != status_.st_size || now.st_mtim.tv_sec != status_.st_mtim.tv_sec || now.st_mtim.tv_nsec != status_.st_mtim.tv_nsec) {
      throw input_error(input_error_code::changed_while_open, {path_.string(), {}, {}}, "the file changed while it was read",
                        "stop the process that writes it and start again");
    }
  }

 private:
  detail::unique_mapping mapping_;

  [[nodiscard]] struct ::stat status() const {
    struct ::stat result {};
    if (::fstat(fd_.get(), &result) != 0) throw storage_error("inspect", path_, errno, "check the disk");
    return result;
  }

  std::filesystem::path path_;
  detail::unique_fd fd_;
  struct ::stat status_ {};
};

/// The whole content of a text file of at most `limit` bytes.
/// @throws input_error `too_large` before anything is allocated
inline std::string read_small_file(const std::filesystem::path& path, std::uint64_t limit) {
  const input_file file(path);
  if (file.size() > limit) {
    throw input_error(input_error_code::too_large, {path.string(), {}, {}},
                      std::to_string(file.size()) + " bytes, at most " + std::to_string(limit) + " are expected",
                      "check that this is the right file");
  }
  std::string text(static_cast<std::size_t>(file.size()), '\0');
  file.read_at(0, std::as_writable_bytes(std::span(text)));
  return text;
}

/// Writes a file that appears under its name whole, synced and renamed, or not at all.
/// After `commit()` returned, the file survives power loss on a disk that honours flush.
class atomic_file_writer {
 public:
  explicit atomic_file_writer(std::filesystem::path path) : path_(std::move(path)), temporary_(detail::temporary_name(path_)) {
    fd_ = detail::unique_fd(::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666));
    if (fd_.get() < 0) throw storage_error("create", temporary_, errno);
  }
  atomic_file_writer(const atomic_file_writer&) = delete;
  atomic_file_writer& operator=(const atomic_file_writer&) = delete;
  ~atomic_file_writer() {
    if (!committed_) ::unlink(temporary_.c_str());
  }

  /// Appends bytes.
  void write(std::span<const std::byte> bytes) {
    write_at(size_, bytes);
    size_ += bytes.size();
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Overwrites bytes that were written before, such as a digest known only at the end.
  void patch(std::uint64_t offset, std::string_view text) {
    ESFT_EXPECTS(offset + text.size() <= size_, "a patch stays inside what was written");
    write_at(offset, std::as_bytes(std::span(text)));
  }

  /// Bytes appended so far.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }

  /// Syncs, renames, syncs the directory. @throws storage_error; the old file is then intact
  void commit() {
    ESFT_EXPECTS(!committed_, "commit once");
    if (::fsync(fd_.get()) != 0) throw storage_error("sync", temporary_, errno);
    if (::close(fd_.release()) != 0) throw storage_error("close", temporary_, errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) throw storage_error("rename to", path_, errno);
    committed_ = true;
    detail::sync_directory(path_.parent_path());
  }

 private:
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ::ssize_t count = ::pwrite(fd_.get(), bytes.data(), std::min<std::size_t>(bytes.size(), std::size_t{1} << 30U),
                                       static_cast<::off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) throw storage_error("write", temporary_, count == 0 ? ENOSPC : errno);
      offset += static_cast<std::uint64_t>(count);
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  detail::unique_fd fd_;
  std::uint64_t size_ = 0;
  bool committed_ = false;
};

/// Writes `content` under `path`, whole or not at all.
inline void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  atomic_file_writer writer(path);
  writer.write(content);
  writer.commit();
}

}  // namespace esft
