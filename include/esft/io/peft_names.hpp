// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Names of experts and modules between a checkpoint, our factors, and models in the memory of transformers 5, which peft names.

#include <esft/core/expert_names.hpp>
#include <esft/core/low_rank_names.hpp>
#include <esft/io/adapter.hpp>
#include <esft/io/expert_slices.hpp>
#include <esft/io/factor_matrix.hpp>
#include <esft/io/low_rank_merge.hpp>
#include <esft/io/model_directory.hpp>

#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace esft {

/// The stem of an expert's factors, taken apart: "model.layers.1.mlp.experts" . 3 . "gate_up_proj".
struct expert_stem {
  std::string stack;
  index expert = 0;
  std::string leaf;

  [[nodiscard]] std::string of(index other) const { return stack + "." + std::to_string(other) + "." + leaf; }
  /// The layer that the stack's name says; -1 where it says none.
  [[nodiscard]] index layer() const {
    constexpr std::string_view mark = "layers.";
    const std::size_t at = stack.find(mark);
    index number = -1;
    if (at != std::string::npos) std::from_chars(stack.data() + at + mark.size(), stack.data() + stack.size(), number);
    return number;
  }
};

/// Absent for stems that are no expert's.
[[nodiscard]] inline std::optional<expert_stem> split_expert_stem(std::string_view stem) {
  constexpr std::string_view mark = ".experts.";
  const std::size_t at = stem.rfind(mark);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view rest = stem.substr(at + mark.size());
  expert_stem result{std::string(stem.substr(0, at + mark.size() - 1)), 0, {}};
  const auto [end, problem] = std::from_chars(rest.data(), rest.data() + rest.size(), result.expert);
  if (problem != std::errc{} || end == rest.data() + rest.size() || *end != '.') return std::nullopt;
  result.leaf = std::string(rest.substr(static_cast<std::size_t>(end - rest.data()) + 1));
  return result;
}

/// A module's name with the block of another style of names: "...block_sparse_moe.gate" -> "...mlp.gate".
[[nodiscard]] inline std::string with_block(const std::string& module, std::string_view block) {
  for (const expert_names& style : expert_name_styles) {
    const std::string own = "." + std::string(style.block) + ".";
    const std::size_t at = module.find(own);
    if (at != std::string::npos) return std::string(module).replace(at, own.size(), "." + std::string(block) + ".");
  }
  return module;
}
/// The name of a module in the memory of transformers 5, where every family has the first style's block.
[[nodiscard]] inline std::string peft_memory_name(const std::string& module) {
  return with_block(module, expert_name_styles.front().block);
}

/// Experts that the base stores beside this one.
[[nodiscard]] inline index count_experts(const model_directory& base, const expert_stem& place) {
  index count = 0;
  while (base.find(low_rank_tensors(base, place.of(count)).front()) != nullptr) ++count;
  return count;
}

/// Rows and columns of the matrix that the factors of a stem stand beside, whichever way the base stores it. @pre the base has it
[[nodiscard]] inline tensor_shape matrix_shape(const model_directory& base, const std::string& stem) {
  tensor_shape result{0, 0};
  for (const std::string& name : low_rank_tensors(base, stem)) {
    const tensor_shape& shape = base.at(name).shape;
    if (shape.size() != 2) return shape;
    const bool turned = stored_transposed(name);
    result = {result[0] + shape[turned ? 1 : 0], shape[turned ? 0 : 1]};
  }
  return result;
}

/// A factor of an adapter as numbers.
[[nodiscard]] inline factor_matrix read_factor(const adapter& from, const std::string& name) {
  const tensor_record& record = *from.find(name);
  factor_matrix result(record.shape[0], record.shape[1]);
  from.read_floats(name, result.values);
  return result;
}

}  // namespace esft
