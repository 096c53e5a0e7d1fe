// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Tensors that hold all experts of a layer, seen as one tensor per expert: what one expert's part is called, and where its bytes lie.

#include <esft/core/fused_layout.hpp>
#include <esft/io/tensor_record.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

namespace detail {
/// "...experts.gate_up_proj" -> {"...experts.", "gate_up_proj"}; two empty texts for any other name.
inline std::pair<std::string_view, std::string_view> fused_name(std::string_view name) {
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || !name.substr(0, dot).ends_with(".experts")) return {};
  const std::string_view part = name.substr(dot + 1);
  const bool known = part == "gate_up_proj" || part == "down_proj" || part == "gate_up_proj_bias" || part == "down_proj_bias";
  return known ? std::pair{name.substr(0, dot + 1), part} : std::pair<std::string_view, std::string_view>{};
}
}  // namespace detail

/// The name of the tensor that says of a fused one how it lies: only the interleaved layout has biases. Empty for any other tensor.
[[nodiscard]] inline std::string fused_bias_name(std::string_view name) {
  const auto [prefix, part] = detail::fused_name(name);
  return part.empty() ? std::string() : std::string(prefix) + "gate_up_proj_bias";
}

/// The experts' parts of a fused tensor in the order of their bytes; empty for any other tensor. In the layout of halves they have the names
/// and shapes that checkpoints with one tensor per expert have, so that both are one model; in the interleaved layout the name of expert 5's
/// part is "...experts.5.gate_up_proj", and its bytes are those of the slice.
[[nodiscard]] inline std::vector<tensor_record> expert_slices(const tensor_record& fused, fused_layout layout) {
  const auto [prefix, part] = detail::fused_name(fused.name);
  const bool bias = part.ends_with("_bias");
  if (part.empty() || fused.shape.size() != (bias ? 2U : 3U) || fused.shape.front() < 1) return {};
  const bool split = layout == fused_layout::halves && part == "gate_up_proj";
  if (split && fused.shape[1] % 2 != 0) return {};
  std::vector<std::string> parts{std::string(part)};
  if (layout == fused_layout::halves) parts = split ? std::vector<std::string>{"gate_proj.weight", "up_proj.weight"}
                                                    : std::vector<std::string>{std::string(part) + ".weight"};
  tensor_shape shape(fused.shape.begin() + 1, fused.shape.end());
  if (split) shape.front() /= 2;
  const auto experts = static_cast<std::uint64_t>(fused.shape.front());
  const std::uint64_t bytes = fused.byte_size() / (experts * parts.size());
  std::vector<tensor_record> slices;
  for (std::uint64_t e = 0; e < experts; ++e) {
    for (const std::string& one : parts) {
      const std::uint64_t begin = fused.begin + slices.size() * bytes;
      slices.push_back({std::string(prefix) + std::to_string(e) + "." + one, fused.type, shape, begin, begin + bytes});
    }
  }
  return slices;
}

/// Whether a part of an interleaved tensor lies transposed: as [inputs, outputs], where all other matrices are [outputs, inputs].
[[nodiscard]] inline bool stored_transposed(std::string_view slice) {
  return slice.find(".experts.") != std::string_view::npos && (slice.ends_with(".gate_up_proj") || slice.ends_with(".down_proj"));
}

}  // namespace esft
