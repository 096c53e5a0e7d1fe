// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The exception hierarchy: what failed in the world, which file and tensor, and what to do about it.

#include <stdexcept>
#include <string>
#include <utility>

namespace esft {

/// What kind of thing failed. The values are the exit codes of the command-line tool.
enum class error_category : int {
  usage = 2,        ///< the caller asked for something that does not exist
  bad_input = 3,    ///< a file or record is malformed or does not fit
  storage = 4,      ///< the disk said no: full, read-only, failed fsync
  numerics = 5,     ///< too many non-finite steps in a row
  device = 6,       ///< an accelerator call failed
  lock_held = 7,    ///< another process owns the run directory
  interrupted = 8,  ///< stopped by a signal after the state was saved
};

/// Base of every exception that esft throws for a failure of the outside world.
/// A broken precondition throws `esft::contract_violation` (core/contract.hpp) instead.
class error : public std::runtime_error {
 public:
  error(error_category category, const std::string& what_and_way_out)
      : std::runtime_error(what_and_way_out), category_(category) {}

  /// Kind of failure; also the tool's exit code.
  [[nodiscard]] error_category category() const noexcept { return category_; }

 private:
  error_category category_;
};

/// The request itself is wrong: an unknown name, a target that matches nothing.
class usage_error : public error {
 public:
  explicit usage_error(const std::string& what_and_way_out) : error(error_category::usage, what_and_way_out) {}
};

/// Numbers failed for good: the training loop gave up after consecutive non-finite steps.
class numerics_error : public error {
 public:
  explicit numerics_error(const std::string& what_and_way_out) : error(error_category::numerics, what_and_way_out) {}
};

/// An accelerator call failed.
class device_error : public error {
 public:
  explicit device_error(const std::string& what_and_way_out) : error(error_category::device, what_and_way_out) {}
};

}  // namespace esft
