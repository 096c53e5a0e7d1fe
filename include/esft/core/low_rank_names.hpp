// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Names of low-rank factors in adapter files, and which rows of them belong to which tensor of a checkpoint.

#include <esft/core/shape.hpp>
#include <esft/core/trainable_set.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace esft {

/// "model.layers.1.self_attn.q_proj.weight" -> "model.layers.1.self_attn.q_proj". Gate and up are one matrix with one pair of factors:
/// both names give "...gate_up_proj", in Mixtral's w1 and w3 as well.
[[nodiscard]] inline std::string low_rank_stem(std::string_view tensor) {
  std::string stem(tensor.ends_with(".weight") ? tensor.substr(0, tensor.size() - 7) : tensor);
  for (const std::string_view half : {".gate_proj", ".up_proj", ".w1", ".w3"}) {
    if (stem.ends_with(half)) return stem.substr(0, stem.size() - half.size()) + ".gate_up_proj";
  }
  return stem;
}
/// Whether a tensor is the lower half of the matrix that its factors belong to: up lies below gate.
[[nodiscard]] inline bool is_lower_half(std::string_view tensor) {
  return tensor.ends_with(".up_proj.weight") || tensor.ends_with(".w3.weight");
}
/// Whether a tensor is a half of that matrix at all.
[[nodiscard]] inline bool is_half(std::string_view tensor) {
  return is_lower_half(tensor) || tensor.ends_with(".gate_proj.weight") || tensor.ends_with(".w1.weight");
}

/// Name of a factor: the stem and ".lora_A.weight" or ".lora_B.weight", as other tools call them.
[[nodiscard]] inline std::string low_rank_name(const std::string& stem, low_rank_factor factor) {
  return stem + (factor == low_rank_factor::a ? ".lora_A.weight" : ".lora_B.weight");
}
/// Whether a name is that of a factor A or B.
[[nodiscard]] inline bool is_factor_name(std::string_view name) {
  return name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight");
}
/// "x.lora_A.weight" -> "x". @pre is_factor_name
[[nodiscard]] inline std::string stem_of_factor(std::string_view name) { return std::string(name.substr(0, name.size() - 14)); }

/// What the names of one of several pairs beside a matrix begin with: "...q_proj" -> "...q_proj.lora_experts.3".
[[nodiscard]] inline std::string low_rank_expert_stem(const std::string& stem, std::int64_t expert) {
  return stem + ".lora_experts." + std::to_string(expert);
}
/// The stem of the matrix that a pair belongs to: "...q_proj.lora_experts.3" -> "...q_proj", any other stem is that already.
[[nodiscard]] inline std::string low_rank_matrix_stem(std::string_view stem) {
  return std::string(stem.substr(0, stem.find(".lora_experts.")));
}

/// Name of the router that chooses among the pairs beside a matrix.
[[nodiscard]] inline std::string low_rank_router_name(const std::string& stem) { return stem + ".lora_router.weight"; }
[[nodiscard]] inline bool is_low_rank_router_name(std::string_view name) { return name.ends_with(".lora_router.weight"); }
/// "x.lora_router.weight" -> "x". @pre is_low_rank_router_name
[[nodiscard]] inline std::string stem_of_router(std::string_view name) { return std::string(name.substr(0, name.size() - 19)); }

/// Whether a tensor stands beside the model's own: a factor, or a router of factors.
[[nodiscard]] inline bool is_low_rank_name(std::string_view name) { return is_factor_name(name) || is_low_rank_router_name(name); }

}  // namespace esft
