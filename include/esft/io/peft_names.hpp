// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Names of experts and modules between a checkpoint, our factors, and models in the memory of transformers 5, which peft names.

#include <esft/core/low_rank_names.hpp>
#include <esft/io/adapter.hpp>
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

/// The name of a module in the memory of transformers 5: Mixtral's block is renamed there.
[[nodiscard]] inline std::string peft_memory_name(std::string module) {
  constexpr std::string_view old_block = ".block_sparse_moe.";
  const std::size_t at = module.find(old_block);
  return at == std::string::npos ? module : module.replace(at, old_block.size(), ".mlp.");
}
/// The same backwards, as a guess: the name of a Mixtral checkpoint.
[[nodiscard]] inline std::string mixtral_name(std::string module) {
  const std::size_t at = module.find(".mlp.");
  return at == std::string::npos ? module : module.replace(at, 5, ".block_sparse_moe.");
}

/// What the stem of an expert's second matrix ends with.
[[nodiscard]] inline std::string down_leaf(const std::string& stack) {
  return stack.find(".block_sparse_moe.") != std::string::npos ? "w2" : "down_proj";
}

/// Experts that the base stores beside this one.
[[nodiscard]] inline index count_experts(const model_directory& base, const expert_stem& place) {
  index count = 0;
  while (base.find(low_rank_tensors(place.of(count)).front()) != nullptr) ++count;
  return count;
}

/// A factor of an adapter as numbers.
[[nodiscard]] inline factor_matrix read_factor(const adapter& from, const std::string& name) {
  const tensor_record& record = *from.find(name);
  factor_matrix result(record.shape[0], record.shape[1]);
  from.read_floats(name, result.values);
  return result;
}

}  // namespace esft
