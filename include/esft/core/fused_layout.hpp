// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `fused_layout`: how a checkpoint lays out the tensors that hold all experts of a layer.

#include <cstdint>

namespace esft {

/// How the experts of one layer lie in a checkpoint that stores them together.
enum class fused_layout : std::uint8_t {
  halves,       ///< gate_up_proj [E, 2I, D], gate rows first, and down_proj [E, D, I]: transformers 5
  interleaved,  ///< gate_up_proj [E, D, 2I], columns of gate and up in turn, down_proj [E, I, D], and biases: GPT-OSS
};

}  // namespace esft
