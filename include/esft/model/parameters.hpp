// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The decoder's parameters as plain structs, and the one visit that serves names, gradients, optimizer state, counting and printing.

#include <esft/core/error.hpp>
#include <esft/core/f16.hpp>
#include <esft/core/reflect.hpp>
#include <esft/core/rng.hpp>
#include <esft/model/config.hpp>
#include <esft/moe/layer.hpp>
#include <esft/moe/low_rank_mixture.hpp>
#include <esft/nn/low_rank.hpp>

#include <string>
#include <vector>

namespace esft {

/// Parameters of one decoder layer: either `attention` or `latent` exists, and either `dense` or `moe`.
template <class Backend>
struct block_parameters {
  using attention_norm_weight = weight<Backend, 1, parameter_role::attention_norm>;
  using mlp_norm_weight = weight<Backend, 1, parameter_role::mlp_norm>;
  using attention_type = attention_parameters<Backend>;
  using latent_type = latent_attention_parameters<Backend>;
  using dense_type = swiglu_parameters<Backend, parameter_role::dense_gate_up, parameter_role::dense_down>;
  using moe_type = moe_parameters<Backend>;
  ESFT_DEFINE_STRUCT(block_parameters, (attention_norm_weight, attention_norm), (attention_type, attention),
                     (latent_type, latent), (mlp_norm_weight, mlp_norm), (dense_type, dense), (moe_type, moe));
};

/// Parameters of the model. `head` is empty where it is tied to `embedding`.
template <class Backend>
struct decoder_parameters {
  using embedding_weight = weight<Backend, 2, parameter_role::embedding>;
  using final_norm_weight = weight<Backend, 1, parameter_role::final_norm>;
  using head_weight = weight<Backend, 2, parameter_role::head>;
  using block_list = std::vector<block_parameters<Backend>>;
  ESFT_DEFINE_STRUCT(decoder_parameters, (embedding_weight, embedding), (block_list, blocks), (final_norm_weight, final_norm),
                     (head_weight, head));
};

namespace detail {
template <class Node, class Visit>
void visit_weights(Node& node, layer_index layer, Visit& visit) {
  using plain = std::remove_const_t<Node>;
  if constexpr (is_weight<plain>) {
    if (node.exists()) visit(parameter_key{plain::role, layer}, node);
  } else if constexpr (is_buffer<plain>) {
    return;
  } else if constexpr (requires { node.size(); }) {  // the list of blocks
    for (std::size_t l = 0; l < node.size(); ++l) visit_weights(node[l], layer_index{static_cast<std::int32_t>(l)}, visit);
  } else {
    for_each_member(node, [&](std::string_view, auto& member) { visit_weights(member, layer, visit); });
  }
}
}  // namespace detail

/// Calls `visit(parameter_key, weight&)` for every existing parameter, in declaration order, bottom to top.
template <class Parameters, class Visit>
void for_each_parameter(Parameters& parameters, Visit&& visit) {
  detail::visit_weights(parameters, layer_index{-1}, visit);
}

/// Calls `visit(parameter_key, buffer&)` for every existing buffer, bottom to top: what a checkpoint holds beside parameters.
template <class Parameters, class Visit>
void for_each_buffer(Parameters& parameters, Visit&& visit) {
  for (std::size_t l = 0; l < parameters.blocks.size(); ++l) {
    auto& bias = parameters.blocks[l].moe.choice_bias;
    if (bias.exists()) visit(parameter_key{bias.role, layer_index{static_cast<std::int32_t>(l)}}, bias);
  }
}

/// Fills all parameters for training from scratch: norms 1, biases and sinks 0, matrices normal(0, 1/sqrt(fan in)), matrices that write to the
/// residual stream divided by sqrt(2 L), save the routed experts', whose output the gate already scales down. Values are rounded to the
/// storage type, so that a saved and reloaded model is the same model.
template <backend Backend>
void initialise(Backend& backend, decoder_parameters<Backend>& parameters, const decoder_config& config, std::uint64_t seed) {
  std::uint64_t substream = 0;
  for_each_parameter(parameters, [&](parameter_key key, auto& w) {
    const counter_rng rng(seed, rng_stream::initialisation, substream++);
    const bool bias = is_bias(key.role);
    std::vector<float> values(static_cast<std::size_t>(w.value.size()), bias ? 0.0F : 1.0F);
    if (w.value.shape().size() > 1 && !bias) {
      const index fan_in = w.value.extent(w.value.shape().size() - 1);
      double deviation = key.role == parameter_role::embedding ? 0.5 : 1.0 / std::sqrt(static_cast<double>(fan_in));
      const bool residual = key.role == parameter_role::attention_output || key.role == parameter_role::dense_down ||
                            key.role == parameter_role::shared_down;
      if (residual) deviation /= std::sqrt(2.0 * static_cast<double>(config.layers));
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(deviation * rng.normal(i));
    }
    for (float& value : values) value = as_stored(value, config.storage);
    copy_in(backend, std::span<const float>(values), w);
  });
}

/// What a plan needs to know about the model.
template <class Backend>
[[nodiscard]] parameter_inventory inventory(const decoder_parameters<Backend>& parameters) {
  parameter_inventory result;
  for_each_parameter(parameters, [&](parameter_key key, const auto& w) {
    const bool stacked = std::remove_cvref_t<decltype(w)>::stacked;
    const bool matrix = w.value.shape().size() > 1 && !is_bias(key.role);
    const extents<2> shape = w.part_shape();
    result.push_back(
        {key, w.value.size(), stacked ? static_cast<int>(w.value.extent(0)) : 0, matrix ? shape[0] : 0, matrix ? shape[1] : 0});
  });
  return result;
}

namespace detail {
/// Stops a plan that was made for another model.
inline void expect_experts(layer_index layer, const std::vector<expert_index>& experts, index available) {
  for (const expert_index e : experts) {
    if (e.value >= 0 && e.value < available) continue;
    throw usage_error("layer " + std::to_string(layer.value) + " has experts 0.." + std::to_string(available - 1) + ", but expert " +
                      std::to_string(e.value) + " is to be trained: select experts with this model's own scores");
  }
}
inline std::vector<std::int32_t> ids_of(const std::vector<expert_index>& experts) {
  std::vector<std::int32_t> ids;
  for (const expert_index e : experts) ids.push_back(e.value);
  return ids;
}
/// Whether a matrix that gets factors is trained itself.
template <class Weight>
bool overlaps(const Weight& w, const std::vector<expert_index>& experts) {
  if constexpr (!Weight::stacked) return w.trained();
  return std::any_of(experts.begin(), experts.end(),
                     [&](expert_index e) { return std::binary_search(w.selected.begin(), w.selected.end(), e.value); });
}
/// Whether several routed pairs can stand beside a weight: what routes already does not route twice, and the head computes logits in parts.
template <class Weight>
inline constexpr bool takes_mixture =
    Weight::rank == 2 && Weight::role != parameter_role::router && Weight::role != parameter_role::head &&
    Weight::role != parameter_role::embedding;
/// Puts trained factors beside a weight. The random streams depend on role and layer only: what else is adapted changes no number.
template <class Backend, class Weight>
void train_low_rank(Backend& backend, parameter_key key, Weight& w, const low_rank_target& target) {
  const auto stream = static_cast<std::uint64_t>(key.layer.value + 1) * 64 + static_cast<std::uint64_t>(key.role);
  if constexpr (takes_mixture<Weight>) {
    if (target.mixture.routed()) {
      make_low_rank_mixture(backend, w, target.how, target.mixture, stream);
      w.mixture->router.train(backend);
      w.mixture->pairs.a.train(backend);
      w.mixture->pairs.b.train(backend);
      return;
    }
  }
  if (target.mixture.routed()) {
    throw usage_error("layer " + std::to_string(key.layer.value) +
                      ": several pairs of factors with a router stand beside single linear maps only, not beside routed experts, their "
                      "router or the head");
  }
  make_low_rank(backend, w, target.how, ids_of(target.experts), stream);
  w.low_rank->a.train(backend);
  w.low_rank->b.train(backend);
}
}  // namespace detail

/// Freezes everything, then allocates zero gradients for exactly what the set names, and the factors that it puts beside frozen matrices;
/// buffers that it names may move.
/// @throws usage_error when the set is empty or names a parameter or an expert that the model does not have
template <backend Backend>
void apply(Backend& backend, decoder_parameters<Backend>& parameters, const trainable_set& trainable) {
  std::size_t matched = 0;
  std::size_t adapted = 0;
  std::set<layer_index> expert_layers;
  for_each_parameter(parameters, [&](parameter_key key, auto& w) {
    using weight_type = std::remove_cvref_t<decltype(w)>;
    w.freeze();
    if (trainable.trains(key)) {
      w.train(backend);
      ++matched;
    } else if constexpr (weight_type::stacked) {
      expert_layers.insert(key.layer);
      detail::expect_experts(key.layer, trainable.experts_of(key.layer), w.value.extent(0));
      const std::vector<std::int32_t> experts = detail::ids_of(trainable.experts_of(key.layer));
      if (!experts.empty()) w.train(backend, experts);
    }
    const auto target = trainable.low_rank.find(key);
    if (target == trainable.low_rank.end()) return;
    if constexpr (weight_type::rank > 1) {
      detail::expect_experts(key.layer, target->second.experts, weight_type::stacked ? w.value.extent(0) : 0);
      if (detail::overlaps(w, target->second.experts)) {
        throw usage_error("layer " + std::to_string(key.layer.value) +
                          ": the plan trains a matrix and factors beside it; an adapter could not say which of the two changed it");
      }
      detail::train_low_rank(backend, key, w, target->second);
      ++adapted;
    }
  });
  for_each_buffer(parameters, [&](parameter_key key, auto& b) {
    b.moves = trainable.trains(key);
    matched += b.moves ? 1 : 0;
  });
  if (trainable.empty()) throw usage_error("the plan trains nothing: select at least one expert or parameter");
  if (matched != trainable.whole.size() || adapted != trainable.low_rank.size()) {
    throw usage_error("the plan names " + std::to_string(trainable.whole.size()) + " whole parameters and factors beside " +
                      std::to_string(trainable.low_rank.size()) + " matrices, the model has " + std::to_string(matched) + " and " +
                      std::to_string(adapted) + " of them: make the plan from this model's inventory");
  }
  for (const auto& [layer, experts] : trainable.experts) {
    if (!experts.empty() && !expert_layers.contains(layer)) {
      throw usage_error("layer " + std::to_string(layer.value) + " has no routed experts to train: check the layer keys of the selection");
    }
  }
}

}  // namespace esft
