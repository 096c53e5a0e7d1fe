// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What a model of some shape consists of: its weights and buffers with their extents, listed or allocated.

#include <esft/model/parameters.hpp>

#include <utility>
#include <vector>

namespace esft {

namespace detail {
template <class Backend, class Visit>
void lay_out_latent_attention(latent_attention_parameters<Backend>& p, const decoder_config& config, Visit& visit) {
  const latent_attention_config& shape = config.latent;
  const index heads = config.attention.heads;
  if (shape.query_rank > 0) {
    visit(p.query_a, {shape.query_rank, config.width});
    visit(p.query_a_norm, {shape.query_rank});
  }
  visit(p.query, {heads * config.attention.head_width, shape.query_rank > 0 ? shape.query_rank : config.width});
  visit(p.key_value_a, {shape.key_value_rank + shape.position_width, config.width});
  visit(p.key_value_a_norm, {shape.key_value_rank});
  visit(p.key_value_b, {heads * (shape.plain_width + shape.value_width), shape.key_value_rank});
  visit(p.output, {config.width, heads * shape.value_width});
}
template <class Backend, class Visit>
void lay_out_attention(attention_parameters<Backend>& p, const decoder_config& config, Visit& visit) {
  const attention_config& a = config.attention;
  const index query_width = a.heads * a.head_width;
  const index key_width = a.key_value_heads * a.head_width;
  visit(p.query, {query_width, config.width});
  visit(p.key, {key_width, config.width});
  visit(p.value, {key_width, config.width});
  visit(p.output, {config.width, query_width});
  if (a.biased) {
    visit(p.query_bias, {query_width});
    visit(p.key_bias, {key_width});
    visit(p.value_bias, {key_width});
  }
  if (a.output_biased) visit(p.output_bias, {config.width});
  if (a.sinks) visit(p.sinks, {a.heads});
  if (a.norm != query_key_norm::none) {
    visit(p.query_norm, {a.norm == query_key_norm::per_head ? a.head_width : query_width});
    visit(p.key_norm, {a.norm == query_key_norm::per_head ? a.head_width : key_width});
  }
}
template <class Backend, class Visit>
void lay_out_moe(moe_parameters<Backend>& p, const decoder_config& config, Visit& visit) {
  visit(p.router, {config.experts, config.width});
  if (config.router == router_kind::sigmoid) visit(p.choice_bias, {config.experts});
  visit(p.gate_up, {config.experts, 2 * config.expert_width, config.width});
  visit(p.down, {config.experts, config.width, config.expert_width});
  if (config.expert_biases) {
    visit(p.router_bias, {config.experts});
    visit(p.gate_up_bias, {config.experts, 2 * config.expert_width, 1});
    visit(p.down_bias, {config.experts, config.width, 1});
  }
  if (config.shared_width > 0) {
    if (config.shared_gate) visit(p.shared_gate, {1, config.width});
    visit(p.shared.gate_up, {2 * config.shared_width, config.width});
    visit(p.shared.down, {config.width, config.shared_width});
  }
}
/// Every weight and buffer that a model of this shape has, with its extents. `visit` has a member `layer`, which is set before its calls.
template <class Backend, class Visit>
void lay_out(decoder_parameters<Backend>& p, const decoder_config& config, Visit& visit) {
  visit.layer = layer_index{-1};
  visit(p.embedding, {config.vocabulary, config.width});
  visit(p.final_norm, {config.width});
  if (!config.tied_head) visit(p.head, {config.vocabulary, config.width});
  p.blocks.resize(static_cast<std::size_t>(config.layers));
  for (std::size_t l = 0; l < p.blocks.size(); ++l) {
    auto& block = p.blocks[l];
    visit.layer = layer_index{static_cast<std::int32_t>(l)};
    visit(block.attention_norm, {config.width});
    visit(block.mlp_norm, {config.width});
    if (config.latent.exists()) {
      lay_out_latent_attention(block.latent, config, visit);
    } else {
      lay_out_attention(block.attention, config, visit);
    }
    if (config.moe_layer[l]) {
      lay_out_moe(block.moe, config, visit);
      block.moe.clamp = config.clamp;
    } else {
      visit(block.dense.gate_up, {2 * config.dense_width, config.width});
      visit(block.dense.down, {config.width, config.dense_width});
    }
  }
}

/// Gives weights and buffers memory; buffers are zero.
template <class Backend>
struct parameter_allocation {
  Backend* backend;
  layer_index layer{-1};

  template <std::size_t Rank, parameter_role Role>
  void operator()(weight<Backend, Rank, Role>& w, extents<Rank> shape) {
    allocate(*backend, w, shape);
  }
  template <parameter_role Role>
  void operator()(buffer<Backend, Role>& b, extents<1> shape) {
    b.value = backend->template make_tensor<accum_t<Backend>>(shape);
    backend->fill(b.value.view(), accum_t<Backend>{});
  }
};
}  // namespace detail

/// What a model of some shape consists of: a parameter, or a buffer, and its extents.
struct parameter_shape {
  parameter_key key;
  std::vector<index> shape;
};

namespace detail {
/// Writes extents down. Nothing is allocated for them.
struct shape_listing {
  std::vector<parameter_shape> shapes{};
  layer_index layer{-1};

  template <class Backend, std::size_t Rank, parameter_role Role>
  void operator()(weight<Backend, Rank, Role>&, extents<Rank> shape) {
    shapes.push_back({{Role, layer}, {shape.begin(), shape.end()}});
  }
  template <class Backend, parameter_role Role>
  void operator()(buffer<Backend, Role>&, extents<1> shape) {
    shapes.push_back({{Role, layer}, {shape[0]}});
  }
};
/// Gives weights their extents and no memory.
struct shapes_alone {
  layer_index layer{-1};

  template <class Backend, std::size_t Rank, parameter_role Role>
  void operator()(weight<Backend, Rank, Role>& w, extents<Rank> shape) {
    w.value = decltype(w.value)(nullptr, shape, nullptr);
  }
  template <class Backend, parameter_role Role>
  void operator()(buffer<Backend, Role>&, extents<1>) {}
};
}  // namespace detail

/// All parameters and buffers of a model of this shape, without its memory.
template <backend Backend>
[[nodiscard]] std::vector<parameter_shape> parameter_shapes(const decoder_config& config) {
  decoder_parameters<Backend> nobody;
  detail::shape_listing listing;
  detail::lay_out(nobody, config, listing);
  return std::move(listing.shapes);
}

/// What a plan needs to know of a model of this shape, without its memory: the same as of the model itself.
template <backend Backend>
[[nodiscard]] parameter_inventory inventory(const decoder_config& config) {
  decoder_parameters<Backend> nobody;
  detail::shapes_alone shapes;
  detail::lay_out(nobody, config, shapes);
  return inventory(nobody);
}

/// Allocates all parameters of a model of this shape, uninitialised; buffers are zero.
template <backend Backend>
[[nodiscard]] decoder_parameters<Backend> allocate_parameters(Backend& backend, const decoder_config& config) {
  decoder_parameters<Backend> p;
  detail::parameter_allocation<Backend> allocation{&backend};
  detail::lay_out(p, config, allocation);
  return p;
}

}  // namespace esft
