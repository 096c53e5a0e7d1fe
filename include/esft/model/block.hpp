// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// One pre-norm decoder layer: x + attention(norm(x)), then x + mlp(norm(x)), with dense or MoE feed-forward.

#include <esft/model/parameters.hpp>

#include <type_traits>

namespace esft {

/// What the backward of a layer needs. With recomputation only `input` is filled by the forward pass.
template <class Backend>
struct block_saved {
  using matrix = tensor_t<Backend, value_t<Backend>, 2>;
  matrix input;             ///< @shape [T, D]
  matrix attention_input;   ///< normed
  matrix middle;            ///< after the attention's residual
  matrix mlp_input;         ///< normed
  rms_norm_saved<Backend> attention_norm, mlp_norm;
  attention_saved<Backend> attention;
  latent_attention_saved<Backend> latent;
  swiglu_saved<Backend> dense;
  moe_saved<Backend> moe;
};

namespace detail {
template <class Backend>
auto clone(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x) {
  auto result = backend.template make_tensor<value_t<Backend>>(x.shape());
  backend.copy(x, result.view());
  return result;
}
}  // namespace detail

/// The layer's output as a new tensor; `saved.input` must already hold its input. @shape result [T, D]
/// @param forced experts that the tokens take; null, or a dense layer: no matter
template <transformer_backend Backend, router<Backend> Router>
[[nodiscard]] auto block_forward(Backend& backend, const decoder_config& config, const Router& choose, const block_parameters<Backend>& p,
                                 const sequence_view<Backend>& context, block_saved<Backend>& saved,
                                 const std::type_identity_t<placed_routes<Backend>>* forced = nullptr,
                                 key_value_cache<Backend>* cache = nullptr, std::span<const std::int32_t> cache_rows = {}) {
  const auto input = std::as_const(saved.input).view();
  saved.attention_input = rms_norm_forward(backend, input, p.attention_norm, config.norm_epsilon, saved.attention_norm);
  const auto attention_input = std::as_const(saved.attention_input).view();
  saved.middle = p.latent.exists() ? latent_attention_forward(backend, config.attention, config.latent, p.latent, attention_input, context,
                                                              saved.latent, cache, cache_rows)
                                   : attention_forward(backend, config.attention, p.attention, attention_input, context, saved.attention,
                                                       cache, cache_rows);
  backend.add(input.flat(), saved.middle.view().flat());
  saved.mlp_input = rms_norm_forward(backend, std::as_const(saved.middle).view(), p.mlp_norm, config.norm_epsilon, saved.mlp_norm);
  auto output = detail::clone(backend, std::as_const(saved.middle).view());
  const auto mlp_input = std::as_const(saved.mlp_input).view();
  if (p.moe.exists()) {
    moe_forward(backend, choose, p.moe, mlp_input, output.view(), saved.moe, forced);
  } else {
    swiglu_forward(backend, p.dense, mlp_input, output.view(), write_mode::accumulate, saved.dense);
  }
  return output;
}

/// Whether any parameter of the layer is trained.
template <class Backend>
[[nodiscard]] bool trained(const block_parameters<Backend>& p) {
  return p.attention_norm.trained() || p.attention.trained() || p.latent.trained() || p.mlp_norm.trained() || p.dense.trained() ||
         p.moe.trained();
}

/// Turns d(output) in `gradient` into d(input), in place; with `needs_input_gradient` false it stops as soon as no trained parameter
/// lies below. Returns the auxiliary balance loss. @shape gradient [T, D]
template <transformer_backend Backend, router<Backend> Router>
double block_backward(Backend& backend, const decoder_config& config, const Router& choose, block_parameters<Backend>& p,
                      const sequence_view<Backend>& context, const block_saved<Backend>& saved,
                      view_t<Backend, value_t<Backend>, 2> gradient, bool needs_input_gradient, const balance_options<Backend>& balance) {
  const bool needs_attention = needs_input_gradient || p.attention.trained() || p.latent.trained() || p.attention_norm.trained();
  auto scratch = backend.template make_tensor<value_t<Backend>>(gradient.shape());
  auto scratch_view = scratch.view();
  auto* below = needs_attention || p.mlp_norm.trained() ? &scratch_view : nullptr;
  double auxiliary = 0;
  if (p.moe.exists()) {
    auxiliary = moe_backward(backend, choose, p.moe, gradient, saved.mlp_input.view(), saved.moe, below, balance);
  } else {
    swiglu_backward(backend, p.dense, gradient, saved.mlp_input.view(), saved.dense, below, write_mode::overwrite);
  }
  if (below == nullptr) return auxiliary;
  rms_norm_backward(backend, std::as_const(scratch).view(), saved.middle.view(), p.mlp_norm, saved.mlp_norm,
                    needs_attention ? &gradient : nullptr, write_mode::accumulate);
  if (!needs_attention) return auxiliary;
  below = needs_input_gradient || p.attention_norm.trained() ? &scratch_view : nullptr;
  if (p.latent.exists()) {
    latent_attention_backward(backend, config.attention, config.latent, p.latent, gradient, saved.attention_input.view(), context,
                              saved.latent, below);
  } else {
    attention_backward(backend, config.attention, p.attention, gradient, saved.attention_input.view(), context, saved.attention, below);
  }
  if (below == nullptr) return auxiliary;
  rms_norm_backward(backend, std::as_const(scratch).view(), saved.input.view(), p.attention_norm, saved.attention_norm,
                    needs_input_gradient ? &gradient : nullptr, write_mode::accumulate);
  return auxiliary;
}

}  // namespace esft
