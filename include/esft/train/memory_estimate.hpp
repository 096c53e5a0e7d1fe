// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What a training run needs, before it runs: bytes of weights, gradients, optimizer state, activations and the adapter.

#include <esft/core/trainable_set.hpp>
#include <esft/model/config.hpp>
#include <esft/nn/cross_entropy.hpp>
#include <esft/peft/plan.hpp>

#include <algorithm>
#include <cstdint>

namespace esft {

/// A batch as far as memory is concerned.
struct batch_extent {
  std::int64_t tokens = 0;  ///< rows * length
  bool recompute = false;
};

/// Bytes by purpose. Weights, gradients and optimizer state are exact; activations are an estimate of the peak.
struct memory_estimate {
  std::int64_t weights = 0;
  std::int64_t gradients = 0;
  std::int64_t optimizer = 0;  ///< master weights and two moments
  std::int64_t activations = 0;
  std::int64_t adapter = 0;  ///< on disk, in the checkpoint's element type
  [[nodiscard]] std::int64_t total() const noexcept { return weights + gradients + optimizer + activations; }
};

namespace detail {
/// Values that one layer keeps for its backward, per token.
inline std::int64_t saved_per_token(const decoder_config& c, std::size_t layer) {
  const attention_config& a = c.attention;
  index projections = (a.heads + 2 * a.key_value_heads) * a.head_width;
  if (c.latent.exists()) projections += 2 * (c.latent.query_rank + c.latent.key_value_rank);
  index values = 4 * c.width + projections + a.heads * a.head_width + a.heads;  // input, two norms, middle; q k v; output; lse
  if (a.norm != query_key_norm::none) values += projections;
  if (c.moe_layer[layer]) {
    values += c.experts + 4 * c.active + 2 * c.expert_width * c.active + 2 * c.shared_width;
    if (c.shared_gate) values += c.width + 1;
  } else {
    values += 2 * c.dense_width;
  }
  return values;
}
}  // namespace detail

/// Lowest layer that the backward reaches: 0 if the embedding is trained, the number of layers if only the head is.
[[nodiscard]] inline std::size_t lowest_trained_layer(const trainable_set& trainable, const decoder_config& config) {
  std::size_t lowest = static_cast<std::size_t>(config.layers);
  for (const parameter_key& key : trainable.whole) {
    if (key.role == parameter_role::embedding) return 0;
    if (key.role == parameter_role::choice_bias) continue;  // moves without a backward
    if (key.layer.value >= 0) lowest = std::min(lowest, static_cast<std::size_t>(key.layer.value));
  }
  for (const auto& [layer, experts] : trainable.experts) {
    if (!experts.empty()) lowest = std::min(lowest, static_cast<std::size_t>(layer.value));
  }
  for (const auto& [key, target] : trainable.low_rank) {
    if (key.layer.value >= 0) lowest = std::min(lowest, static_cast<std::size_t>(key.layer.value));
  }
  return lowest;
}

/// The memory of a run in which values and accumulators have `value_bytes` and `accumulator_bytes`.
[[nodiscard]] inline memory_estimate estimate_memory(const decoder_config& config, const parameter_inventory& model,
                                                     const trainable_set& trainable, const batch_extent& batch,
                                                     std::int64_t value_bytes = 4, std::int64_t accumulator_bytes = 4) {
  std::int64_t all = 0;
  for (const parameter_entry& entry : model) all += entry.elements;
  const std::int64_t trained = trained_elements(trainable, model);
  memory_estimate result;
  result.weights = (all + added_elements(trainable, model)) * value_bytes;
  result.gradients = trained * accumulator_bytes;
  result.optimizer = 3 * trained * accumulator_bytes;
  result.adapter = trained * static_cast<std::int64_t>(size_of(config.storage));
  std::int64_t kept = 0;     // values per token over all layers
  std::int64_t largest = 0;  // of the layer at work
  for (std::size_t layer = 0; layer < static_cast<std::size_t>(config.layers); ++layer) {
    const std::int64_t here = detail::saved_per_token(config, layer);
    largest = std::max(largest, here);
    if (layer >= lowest_trained_layer(trainable, config)) kept += batch.recompute ? config.width : here;
  }
  const std::int64_t working = largest + 2 * config.active * std::max(config.width, 2 * config.expert_width) + 4 * config.width;
  result.activations =
      batch.tokens * (kept + working) * value_bytes + std::min(batch.tokens, head_chunk) * config.vocabulary * accumulator_bytes;
  return result;
}

}  // namespace esft
