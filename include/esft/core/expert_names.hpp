// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `expert_names`: what checkpoints call the block of routed experts and the three matrices of an expert.

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace esft {

/// Parts of tensor names: "model.layers.L.<block>.experts.E.<gate>.weight" and so on.
struct expert_names {
  std::string_view block, gate, up, down;
  friend bool operator==(const expert_names&, const expert_names&) = default;
};

/// Every way in which the supported families do it; a new one is one line. The first is also how dense blocks name their matrices.
inline constexpr std::array<expert_names, 2> expert_name_styles{{
    {"mlp", "gate_proj", "up_proj", "down_proj"},
    {"block_sparse_moe", "w1", "w3", "w2"},  // Mixtral
}};

/// "model.layers.1.mlp." or another block's prefix, 5, "up_proj" -> "model.layers.1.mlp.experts.5.up_proj".
[[nodiscard]] inline std::string expert_matrix(std::string block_prefix, std::int64_t expert, std::string_view part) {
  return std::move(block_prefix) + "experts." + std::to_string(expert) + "." + std::string(part);
}

/// The style of a tensor, by the block in its name; the first style where no block says otherwise.
[[nodiscard]] inline const expert_names& expert_names_in(std::string_view tensor) {
  for (const expert_names& style : expert_name_styles) {
    if (tensor.find("." + std::string(style.block) + ".") != std::string_view::npos) return style;
  }
  return expert_name_styles.front();
}

}  // namespace esft
