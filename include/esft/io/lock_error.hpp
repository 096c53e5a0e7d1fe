// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `lock_error`: another process owns the run directory.

#include <esft/core/error.hpp>
#include <esft/io/input_error.hpp>

#include <filesystem>
#include <string>
#include <utility>

namespace esft {

/// A run directory is in use. Two trainers writing one directory would destroy each other's state.
class lock_error : public error {
 public:
  lock_error(const std::filesystem::path& directory, std::string holder)
      : error(error_category::lock_held, detail::describe({directory.string(), {}, {}}, "in use by process " + detail::printable(holder),
                                                          "wait for it, stop it, or choose another output directory")),
        holder_(std::move(holder)) {}

  /// Process id of the holder as it wrote it, or "unknown".
  [[nodiscard]] const std::string& holder() const noexcept { return holder_; }

 private:
  std::string holder_;
};

}  // namespace esft
