// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `step_report`: what one optimizer step did. Non-finite numbers are a result here, not an exception.

#include <cstdint>

namespace esft {

/// Result of one optimizer step.
struct step_report {
  std::int64_t step = 0;          ///< 1-based number of this step
  double loss = 0;                ///< mean cross-entropy over labelled tokens @unit nats per token
  std::int64_t tokens = 0;        ///< real tokens seen in this step
  std::int64_t labelled = 0;      ///< tokens that carried a label
  double gradient_norm = 0;       ///< global L2 norm before clipping
  double learning_rate = 0;
  double balance_loss = 0;        ///< auxiliary loss, 0 where it is switched off
  bool skipped = false;           ///< a non-finite loss or gradient: nothing was changed
  double seconds = 0;             ///< wall time of the step @unit s
};

}  // namespace esft
