// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the CPU backend stores weights and activations as, from what was asked, the checkpoint and the processor.

#include <esft/backends/eigen/isa.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/error.hpp>
#include <esft/io/model_directory.hpp>

#include <string>

namespace esft::tool {

/// bfloat16 where asked for; with `auto` where the checkpoint holds it and the processor multiplies it in tiles (AMX), else float32.
/// @throws usage_error when bfloat16 is asked for a checkpoint that it would round
[[nodiscard]] inline dtype eigen_dtype(const std::string& asked, dtype checkpoint, const std::string& model) {
  const bool fits = checkpoint == dtype::bfloat16;
  if (asked == "bfloat16" && !fits) {
    throw usage_error(model + ": the checkpoint holds " + std::string(safetensors_name(checkpoint)) +
                      ", which bfloat16 would round before anything is trained: use --dtype float32");
  }
  const auto in_tiles = [] { return detail::eigen::best_isa_for<bf16>() == detail::eigen::isa::amx; };  // to ask costs a permission
  return asked == "bfloat16" || (asked == "auto" && fits && in_tiles()) ? dtype::bfloat16 : dtype::float32;
}

}  // namespace esft::tool
