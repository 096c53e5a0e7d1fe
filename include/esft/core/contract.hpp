// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Preconditions: `ESFT_EXPECTS(condition, "sentence")` throws with the source location.

#include <stdexcept>
#include <string>

namespace esft {

/// A caller broke a documented precondition (`@pre`). Not a failure of the outside world.
class contract_violation : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

namespace detail {
[[noreturn]] inline void contract_failed(const char* condition, const char* sentence, const char* file, int line) {
  throw contract_violation(std::string(file) + ":" + std::to_string(line) + ": expected " + condition + ": " + sentence);
}
}  // namespace detail

}  // namespace esft

/// Throws `esft::contract_violation` unless `condition` holds.
#define ESFT_EXPECTS(condition, sentence) \
  ((condition) ? static_cast<void>(0) : ::esft::detail::contract_failed(#condition, sentence, __FILE__, __LINE__))
