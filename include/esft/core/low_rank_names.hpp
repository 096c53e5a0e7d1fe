// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Names of low-rank factors in adapter files, and which rows of them belong to which tensor of a checkpoint.

#include <esft/core/expert_names.hpp>
#include <esft/core/shape.hpp>
#include <esft/core/trainable_set.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace esft {

namespace detail {
/// Whether a name without ".weight" ends with ".<part>".
[[nodiscard]] inline bool ends_with_part(std::string_view name, std::string_view part) {
  return name.size() > part.size() && name.ends_with(part) && name[name.size() - part.size() - 1] == '.';
}
[[nodiscard]] inline std::string_view without_weight(std::string_view tensor) {
  return tensor.ends_with(".weight") ? tensor.substr(0, tensor.size() - 7) : tensor;
}
}  // namespace detail

/// Whether a tensor is the lower half of the matrix that its factors belong to: up lies below gate.
[[nodiscard]] inline bool is_lower_half(std::string_view tensor) {
  return detail::ends_with_part(detail::without_weight(tensor), expert_names_in(tensor).up);
}
/// Whether a tensor is a half of that matrix at all.
[[nodiscard]] inline bool is_half(std::string_view tensor) {
  return is_lower_half(tensor) || detail::ends_with_part(detail::without_weight(tensor), expert_names_in(tensor).gate);
}
/// "model.layers.1.self_attn.q_proj.weight" -> "model.layers.1.self_attn.q_proj". Gate and up are one matrix with one pair of factors:
/// both names give "...gate_up_proj", whatever the family calls them.
[[nodiscard]] inline std::string low_rank_stem(std::string_view tensor) {
  const std::string_view stem = detail::without_weight(tensor);
  return is_half(tensor) ? std::string(stem.substr(0, stem.rfind('.'))) + ".gate_up_proj" : std::string(stem);
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
