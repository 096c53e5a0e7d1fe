// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Grouped-query causal self-attention with rotary embedding and optional query/key RMSNorm, biases and sinks; forward, backward,
/// key-value cache.

#include <esft/core/query_key_norm.hpp>
#include <esft/core/reflect.hpp>
#include <esft/nn/attention_sink.hpp>
#include <esft/nn/bias.hpp>
#include <esft/nn/linear.hpp>
#include <esft/nn/rms_norm.hpp>
#include <esft/nn/sequence.hpp>

#include <cmath>
#include <tuple>
#include <utility>

namespace esft {

/// Shape and constants of an attention layer.
struct attention_config {
  index heads = 0;            ///< H
  index key_value_heads = 0;  ///< G, divides H
  index head_width = 0;       ///< F, even
  double rope_theta = 1e4;
  double norm_epsilon = 1e-6;
  query_key_norm norm = query_key_norm::none;
  rotary_scaling scaling{};   ///< of the rotary embedding
  bool biased = false;        ///< queries, keys and values have biases
  double score_factor = 1;    ///< on 1 / sqrt(head_width): DeepSeek's mscale squared
  bool output_biased = false; ///< the output has a bias
  bool sinks = false;         ///< each head has a sink: GPT-OSS

  [[nodiscard]] double score_scale() const { return score_factor / std::sqrt(static_cast<double>(head_width)); }
};

/// Parameters: query [H F, D], key and value [G F, D], output [D, H F], norms [F] or [H F] / [G F],
/// biases [H F], [G F], [G F], [D], sinks [H].
template <class Backend>
struct attention_parameters {
  using query_weight = weight<Backend, 2, parameter_role::query>;
  using key_weight = weight<Backend, 2, parameter_role::key>;
  using value_weight = weight<Backend, 2, parameter_role::value>;
  using output_weight = weight<Backend, 2, parameter_role::attention_output>;
  using query_norm_weight = weight<Backend, 1, parameter_role::query_norm>;
  using key_norm_weight = weight<Backend, 1, parameter_role::key_norm>;
  using query_bias_weight = weight<Backend, 1, parameter_role::query_bias>;
  using key_bias_weight = weight<Backend, 1, parameter_role::key_bias>;
  using value_bias_weight = weight<Backend, 1, parameter_role::value_bias>;
  using output_bias_weight = weight<Backend, 1, parameter_role::attention_output_bias>;
  using sink_weight = weight<Backend, 1, parameter_role::attention_sink>;
  ESFT_DEFINE_STRUCT(attention_parameters, (query_weight, query), (key_weight, key), (value_weight, value), (output_weight, output),
                     (query_norm_weight, query_norm), (key_norm_weight, key_norm), (query_bias_weight, query_bias),
                     (key_bias_weight, key_bias), (value_bias_weight, value_bias), (output_bias_weight, output_bias),
                     (sink_weight, sinks));

  [[nodiscard]] bool trained_before_scores() const noexcept {
    return query.learns() || key.learns() || value.learns() || query_norm.trained() || key_norm.trained() ||
           query_bias.trained() || key_bias.trained() || value_bias.trained() || sinks.trained();
  }
  [[nodiscard]] bool trained() const noexcept {
    return output.learns() || output_bias.trained() || trained_before_scores();
  }
};

/// What the backward needs. `*_raw` only where there is a query/key norm.
template <class Backend>
struct attention_saved {
  tensor_t<Backend, value_t<Backend>, 2> query_raw, key_raw;          ///< before the norm; [T, H F], [T, G F]
  rms_norm_saved<Backend> query_norm, key_norm;
  tensor_t<Backend, value_t<Backend>, 2> query, key, value, output;   ///< after norm and rope; the output with the sinks
  tensor_t<Backend, accum_t<Backend>, 2> lse;                         ///< with the sinks; @shape [T, H]
};

/// Keys and values of earlier tokens, for decoding. Row r of sequence b is at b * capacity + r.
template <class Backend>
struct key_value_cache {
  tensor_t<Backend, value_t<Backend>, 3> key, value;  ///< @shape [sequences * capacity, G, F]
};

namespace detail {
/// Rows over which the query or key norm runs.
template <class View>
auto norm_rows(View x, query_key_norm norm, index head_width) {
  return norm == query_key_norm::per_head ? x.reshape(extents<2>{x.size() / head_width, head_width}) : x;
}
/// Writes new keys and values to their rows of the cache and returns all of it.
template <class Backend, class View>
std::pair<View, View> through_cache(Backend& backend, View keys, View values, key_value_cache<Backend>& cache,
                                    std::span<const std::int32_t> rows) {
  for (index t = 0; t < keys.extent(0); ++t) {
    const index row = rows[static_cast<std::size_t>(t)];
    backend.copy(keys.slice(t, t + 1).flat(), cache.key.view().slice(row, row + 1).flat());
    backend.copy(values.slice(t, t + 1).flat(), cache.value.view().slice(row, row + 1).flat());
  }
  return {std::as_const(cache.key).view(), std::as_const(cache.value).view()};
}
template <class View>
auto as_heads(View x, index head_width) {
  return x.reshape(extents<3>{x.extent(0), x.extent(1) / head_width, head_width});
}
/// Rotary embedding by the backend's op, or by the table where the model scales it.
template <class Backend>
void turn(Backend& backend, view_t<Backend, value_t<Backend>, 3> x, const attention_config& config,
          const context_view<Backend>& context, int direction) {
  if (context.rotary->cosine.size() > 0) return rotate<Backend>(backend, x, *context.rotary, 0, rotary_pairs::halves, direction);
  ESFT_EXPECTS(!config.scaling.scales(), "scaled rotary embedding needs the table of the context");
  backend.rope(x, context.positions, config.rope_theta, direction);
}
}  // namespace detail

/// The layer's output as a new tensor. With a cache, new keys and values go to `cache_rows[t]` and the key ranges index the cache.
/// @shape x, result [T, D] @source arXiv 2305.13245 (grouped queries), 2104.09864 (rotary embedding)
template <transformer_backend Backend>
[[nodiscard]] auto attention_forward(Backend& backend, const attention_config& config, const attention_parameters<Backend>& p,
                                     view_t<Backend, const value_t<Backend>, 2> x, const context_view<Backend>& context,
                                     attention_saved<Backend>& saved, key_value_cache<Backend>* cache = nullptr,
                                     std::span<const std::int32_t> cache_rows = {}) {
  using T = value_t<Backend>;
  const index tokens = x.extent(0);
  const index width = config.head_width;
  saved.query = linear_forward(backend, x, p.query);
  saved.key = linear_forward(backend, x, p.key);
  saved.value = linear_forward(backend, x, p.value);
  add_bias(backend, p.query_bias, saved.query.view());
  add_bias(backend, p.key_bias, saved.key.view());
  add_bias(backend, p.value_bias, saved.value.view());
  if (config.norm != query_key_norm::none) {
    const auto normalise = [&](auto& projected, auto& raw, const auto& w, auto& norm_saved) {
      auto normed = rms_norm_forward(backend, detail::norm_rows(std::as_const(projected).view(), config.norm, width), w,
                                     config.norm_epsilon, norm_saved);
      raw = std::move(projected);
      projected = backend.template make_tensor<T>(raw.shape());
      backend.copy(std::as_const(normed).view().flat(), projected.view().flat());
    };
    normalise(saved.query, saved.query_raw, p.query_norm, saved.query_norm);
    normalise(saved.key, saved.key_raw, p.key_norm, saved.key_norm);
  }
  detail::turn<Backend>(backend, detail::as_heads(saved.query.view(), width), config, context, 1);
  detail::turn<Backend>(backend, detail::as_heads(saved.key.view(), width), config, context, 1);

  auto keys = detail::as_heads(std::as_const(saved.key).view(), width);
  auto values = detail::as_heads(std::as_const(saved.value).view(), width);
  if (cache != nullptr) std::tie(keys, values) = detail::through_cache<Backend>(backend, keys, values, *cache, cache_rows);
  saved.output = backend.template make_tensor<T>(extents<2>{tokens, config.heads * width});
  saved.lse = backend.template make_tensor<accum_t<Backend>>(extents<2>{tokens, config.heads});
  backend.attention(detail::as_heads(std::as_const(saved.query).view(), width), keys, values, context.key_begin,
                    context.key_end, config.score_scale(), detail::as_heads(saved.output.view(), width),
                    saved.lse.view());
  sink_forward<Backend>(backend, p.sinks, saved.lse.view(), saved.output.view());
  auto y = linear_forward(backend, std::as_const(saved.output).view(), p.output);
  add_bias(backend, p.output_bias, y.view());
  return y;
}

/// Adds the trained weights' gradients; overwrites dx unless it is null. @shape dy, x, dx [T, D]
template <transformer_backend Backend>
void attention_backward(Backend& backend, const attention_config& config, attention_parameters<Backend>& p,
                        view_t<Backend, const value_t<Backend>, 2> dy, view_t<Backend, const value_t<Backend>, 2> x,
                        const context_view<Backend>& context, const attention_saved<Backend>& saved,
                        view_t<Backend, value_t<Backend>, 2>* dx) {
  using T = value_t<Backend>;
  const index width = config.head_width;
  const bool below = dx != nullptr || p.trained_before_scores();
  bias_backward(backend, dy, p.output_bias);
  auto d_output = backend.template make_tensor<T>(extents<2>{below ? saved.output.extent(0) : 0, saved.output.extent(1)});
  auto d_output_view = d_output.view();
  linear_backward<Backend>(backend, dy, saved.output.view(), p.output, below ? &d_output_view : nullptr, write_mode::overwrite);
  if (!below) return;
  sink_backward<Backend>(backend, saved.lse.view(), saved.output.view(), d_output.view(), p.sinks);

  auto d_query = backend.template make_tensor<T>(saved.query.shape());
  auto d_key = backend.template make_tensor<T>(saved.key.shape());
  auto d_value = backend.template make_tensor<T>(saved.value.shape());
  backend.attention_backward(detail::as_heads(saved.query.view(), width), detail::as_heads(saved.key.view(), width),
                             detail::as_heads(saved.value.view(), width), detail::as_heads(saved.output.view(), width), saved.lse.view(),
                             detail::as_heads(std::as_const(d_output).view(), width), context.key_begin, context.key_end,
                             config.score_scale(), detail::as_heads(d_query.view(), width),
                             detail::as_heads(d_key.view(), width), detail::as_heads(d_value.view(), width));
  detail::turn<Backend>(backend, detail::as_heads(d_query.view(), width), config, context, -1);
  detail::turn<Backend>(backend, detail::as_heads(d_key.view(), width), config, context, -1);
  if (config.norm != query_key_norm::none) {
    const auto through_norm = [&](auto& gradient, const auto& raw, auto& w, const auto& norm_saved) {
      auto d_raw = backend.template make_tensor<T>(raw.shape());
      auto out = detail::norm_rows(d_raw.view(), config.norm, width);
      rms_norm_backward(backend, detail::norm_rows(std::as_const(gradient).view(), config.norm, width),
                        detail::norm_rows(raw.view(), config.norm, width), w, norm_saved, &out, write_mode::overwrite);
      gradient = std::move(d_raw);
    };
    through_norm(d_query, saved.query_raw, p.query_norm, saved.query_norm);
    through_norm(d_key, saved.key_raw, p.key_norm, saved.key_norm);
  }
  bias_backward(backend, std::as_const(d_query).view(), p.query_bias);
  bias_backward(backend, std::as_const(d_key).view(), p.key_bias);
  bias_backward(backend, std::as_const(d_value).view(), p.value_bias);
  linear_backward<Backend>(backend, d_query.view(), x, p.query, dx, write_mode::overwrite);
  linear_backward<Backend>(backend, d_key.view(), x, p.key, dx, write_mode::accumulate);
  linear_backward<Backend>(backend, d_value.view(), x, p.value, dx, write_mode::accumulate);
}

}  // namespace esft
