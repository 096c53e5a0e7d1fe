// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Full fine-tuning: every parameter is trained. The baseline of every comparison.

#include <esft/peft/plan.hpp>

namespace esft {

/// Trains everything, router included.
struct full_plan {
  static constexpr std::string_view name = "full";

  [[nodiscard]] trainable_set trainable(const parameter_inventory& model) const {
    trainable_set result;
    for (const parameter_entry& entry : model) result.whole.insert(entry.key);
    return result;
  }
};

}  // namespace esft
