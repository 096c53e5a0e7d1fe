// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `storage_error`: the disk said no (full, read-only, failed fsync); what was saved before is still there.

#include <esft/core/error.hpp>
#include <esft/io/input_error.hpp>

#include <filesystem>
#include <string>
#include <system_error>

namespace esft {

/// A failed write, fsync, rename or directory operation.
class storage_error : public error {
 public:
  storage_error(const std::string& operation, const std::filesystem::path& path, int error_number, const std::string& way_out = {})
      : error(error_category::storage,
              detail::describe({path.string(), {}, {}},
                               "cannot " + operation + ": " + std::generic_category().message(error_number),
                               way_out.empty() ? "the previous file is untouched; free space or choose another directory" : way_out)),
        error_number_(error_number) {}

  /// `errno` of the failed call.
  [[nodiscard]] int error_number() const noexcept { return error_number_; }

 private:
  int error_number_;
};

}  // namespace esft
