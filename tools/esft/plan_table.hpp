// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What a plan trains, layer by layer, and what it costs, as a table for people and as JSON.

#include "console.hpp"
#include "engine.hpp"
#include "format.hpp"

#include <esft/peft/plan.hpp>
#include <esft/train/memory_estimate.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace esft::tool {

/// Trained and all elements of one layer, factors among the trained ones only; layer -1 is the embedding, the last norm and the head.
struct layer_plan {
  std::int64_t experts = 0;
  std::int64_t elements = 0;
  std::int64_t all = 0;
};

inline std::map<layer_index, layer_plan> plan_by_layer(const trainable_set& trainable, const parameter_inventory& model) {
  std::map<layer_index, layer_plan> layers;
  for (const parameter_entry& entry : model) {
    layer_plan& layer = layers[entry.key.layer];
    layer.all += entry.elements;
    layer.elements += trained_elements(trainable, entry);
    if (entry.experts == 0) continue;
    const auto factors = trainable.low_rank.find(entry.key);
    const std::size_t adapted = factors == trainable.low_rank.end() ? 0 : factors->second.experts.size();
    const std::size_t selected = trainable.experts_of(entry.key.layer).size() + adapted;
    layer.experts = std::max(layer.experts, trainable.trains(entry.key) ? entry.experts : static_cast<std::int64_t>(selected));
  }
  return layers;
}

/// "2x8/2 4x4/2": number, rank and active count of the low-rank experts of each layer, bottom to top; empty where no router chooses any.
inline std::string low_rank_layers_text(const trainable_set& trainable) {
  std::map<layer_index, std::string> layers;
  bool routed = false;
  for (const auto& [key, target] : trainable.low_rank) {
    const low_rank_mixture_options& mixture = target.mixture;
    routed = routed || mixture.routed();
    layers[key.layer] = std::to_string(mixture.experts) + "x" + std::to_string(target.how.rank) +
                        (mixture.routed() ? "/" + std::to_string(mixture.active) : "") +
                        (mixture.null_experts > 0 ? "+" + std::to_string(mixture.null_experts) + " null" : "");
  }
  std::string text;
  for (const auto& [layer, numbers] : layers) text += (text.empty() ? "" : " ") + numbers;
  return routed ? text : std::string();
}

/// What a table of a plan needs to know of a model.
struct planned_model {
  decoder_config config;
  parameter_inventory inventory;
  dtype stored_as = dtype::float32;
};

/// Prints the plan and returns the memory it needs.
inline memory_estimate print_plan(const trainable_set& trainable, const planned_model& model, const batch_extent& batch) {
  const auto& [config, inventory, stored_as] = model;
  const memory_estimate memory =
      estimate_memory(config, inventory, trainable, batch, static_cast<std::int64_t>(size_of(stored_as)));
  std::int64_t all = 0;
  std::int64_t trained = 0;
  text_table table({"layer", "experts", "trained", "of", "share"});
  for (const auto& [layer, plan] : plan_by_layer(trainable, inventory)) {
    all += plan.all;
    trained += plan.elements;
    table.add({layer.value < 0 ? "embedding, norm, head" : std::to_string(layer.value),
               plan.experts > 0 ? std::to_string(plan.experts) : "-", grouped(plan.elements), grouped(plan.all),
               fixed(100.0 * static_cast<double>(plan.elements) / static_cast<double>(plan.all), 1) + " %"});
  }
  table.add({"all", "", grouped(trained), grouped(all), fixed(100.0 * static_cast<double>(trained) / static_cast<double>(all), 1) + " %"});
  for (const std::string& line : table.lines()) out().line(line);
  const std::string layers = low_rank_layers_text(trainable);
  if (!layers.empty()) {
    out().line("experts  low-rank ones beside " + std::to_string(trainable.low_rank.size()) +
               " matrices that stay frozen, by layer as number x rank / active: " + layers);
  } else if (!trainable.low_rank.empty()) {
    const low_rank_options& how = trainable.low_rank.begin()->second.how;
    out().line("factors  rank " + std::to_string(how.rank) + ", scale " + significant(how.scale(), 6) +
               ", beside matrices that stay frozen: " + std::to_string(trainable.low_rank.size()) + " parameters of the model");
  }
  out().line("memory   weights " + bytes_text(memory.weights) + "   gradients " + bytes_text(memory.gradients) + "   optimizer " +
             bytes_text(memory.optimizer) + "   activations about " + bytes_text(memory.activations) + "   adapter " +
             bytes_text(memory.adapter));
  return memory;
}

}  // namespace esft::tool
