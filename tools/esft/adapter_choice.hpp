// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The adapter that `--adapter` names: a directory of ours, a training run that holds one, or a LoRA directory of the package peft.

#include "console.hpp"

#include <esft/io/peft_import.hpp>
#include <esft/io/storage_error.hpp>
#include <esft/train/apply_adapter.hpp>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>

namespace esft::tool {

/// A directory of our own format for as long as this lives. What peft wrote is converted into a temporary one, as `esft convert` does.
class usable_adapter {
 public:
  /// @throws input_error naming what of a peft directory does not fit the base; storage_error
  usable_adapter(const std::filesystem::path& asked, const model_directory& base) : path_(adapter_directory(asked)) {
    if (!std::filesystem::exists(path_ / "adapter_config.json") || std::filesystem::exists(path_ / adapter_files::experts)) return;
    std::string folder = (std::filesystem::temp_directory_path() / "esft-adapter-XXXXXX").string();
    if (::mkdtemp(folder.data()) == nullptr) {
      throw storage_error("create", folder, errno, "set TMPDIR to a directory that can be written");
    }
    temporary_ = folder;
    try {
      if (import_peft_adapter(path_, base, temporary_).widened) {
        out().warn(path_.string() + ": read as float32, because bfloat16 would have rounded scales that differ between modules");
      }
    } catch (...) {
      remove();
      throw;
    }
    path_ = temporary_;
  }
  usable_adapter(const usable_adapter&) = delete;
  usable_adapter& operator=(const usable_adapter&) = delete;
  ~usable_adapter() { remove(); }

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// Whether it was converted here, and so belongs to the base that was given.
  [[nodiscard]] bool converted() const noexcept { return !temporary_.empty(); }

 private:
  void remove() noexcept {
    std::error_code ignored;
    if (converted()) std::filesystem::remove_all(temporary_, ignored);
  }
  std::filesystem::path path_, temporary_;
};

}  // namespace esft::tool
