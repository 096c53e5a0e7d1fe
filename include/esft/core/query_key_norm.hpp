// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How queries and keys are normalised before attention: a fact that configuration files state and attention layers obey.

#include <cstdint>

namespace esft {

/// Over what the query and key norms run.
enum class query_key_norm : std::uint8_t {
  none,        ///< Llama, DeepSeekMoE
  per_head,    ///< Qwen3: one weight of head width for all heads
  full_width,  ///< OLMoE: one weight over all heads together
};

}  // namespace esft
