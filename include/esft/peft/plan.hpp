// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The `peft_plan` concept: from a model's inventory to the set of parameters to train.

#include <esft/core/trainable_set.hpp>

#include <concepts>
#include <string_view>

namespace esft {

/// A plan names what is trained. Laws: every name it returns exists in the inventory; calling it twice gives the same set.
template <class P>
concept peft_plan = requires(const P& plan, const parameter_inventory& model) {
  { P::name } -> std::convertible_to<std::string_view>;
  { plan.trainable(model) } -> std::same_as<trainable_set>;
};

/// Elements that a trainable set trains at one parameter: of the parameter itself, and of the factors beside it.
[[nodiscard]] inline std::int64_t trained_elements(const trainable_set& trainable, const parameter_entry& entry) {
  std::int64_t count = 0;
  if (trainable.trains(entry.key)) {
    count = entry.elements;
  } else if (entry.experts > 0) {
    count = entry.elements / entry.experts * static_cast<std::int64_t>(trainable.experts_of(entry.key.layer).size());
  }
  const auto adapted = trainable.low_rank.find(entry.key);
  if (adapted == trainable.low_rank.end()) return count;
  const low_rank_mixture_options& mixture = adapted->second.mixture;
  const std::int64_t pairs = entry.experts > 0 ? static_cast<std::int64_t>(adapted->second.experts.size()) : mixture.experts;
  const std::int64_t router = mixture.routed() ? (mixture.experts + mixture.null_experts) * entry.columns : 0;
  return count + pairs * adapted->second.how.rank * (entry.rows + entry.columns) + router;
}

/// Elements that a trainable set trains in a model: the number on which gradients, optimizer state and adapter size depend.
[[nodiscard]] inline std::int64_t trained_elements(const trainable_set& trainable, const parameter_inventory& model) {
  std::int64_t count = 0;
  for (const parameter_entry& entry : model) count += trained_elements(trainable, entry);
  return count;
}

/// Of these, elements of low-rank factors: they come on top of the model's own.
[[nodiscard]] inline std::int64_t added_elements(const trainable_set& trainable, const parameter_inventory& model) {
  trainable_set factors;
  factors.low_rank = trainable.low_rank;
  return trained_elements(factors, model);
}

}  // namespace esft
