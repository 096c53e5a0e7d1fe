// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Multi-head latent attention: keys and values of all heads are made from one narrow latent per token. Forward, backward, cache.

#include <esft/nn/attention.hpp>
#include <esft/nn/columns.hpp>

namespace esft {

/// Shape of a latent attention layer beside `attention_config`, whose head width is `plain_width + position_width`.
struct latent_attention_config {
  index query_rank = 0;         ///< width of the queries' latent; 0: queries come from the layer's input
  index key_value_rank = 0;     ///< C, width of the latent of keys and values; 0: the model has plain attention
  index plain_width = 0;        ///< columns of a query or key head without position
  index position_width = 0;     ///< columns that are rotated; in keys all heads share them
  index value_width = 0;        ///< at most the head width
  double norm_epsilon = 1e-6;   ///< of the latents' norms: the authors' code never passes the model's own
  [[nodiscard]] bool exists() const noexcept { return key_value_rank > 0; }
};

/// Parameters: query [H F, D] or [H F, query_rank] behind query_a [query_rank, D]; key_value_a [C + position_width, D];
/// key_value_b [H (plain_width + value_width), C]; output [D, H value_width].
template <class Backend>
struct latent_attention_parameters {
  using query_a_weight = weight<Backend, 2, parameter_role::query_a>;
  using query_a_norm_weight = weight<Backend, 1, parameter_role::query_a_norm>;
  using query_weight = weight<Backend, 2, parameter_role::query>;
  using key_value_a_weight = weight<Backend, 2, parameter_role::key_value_a>;
  using key_value_a_norm_weight = weight<Backend, 1, parameter_role::key_value_a_norm>;
  using key_value_b_weight = weight<Backend, 2, parameter_role::key_value_b>;
  using output_weight = weight<Backend, 2, parameter_role::attention_output>;
  ESFT_DEFINE_STRUCT(latent_attention_parameters, (query_a_weight, query_a), (query_a_norm_weight, query_a_norm),
                     (query_weight, query), (key_value_a_weight, key_value_a), (key_value_a_norm_weight, key_value_a_norm),
                     (key_value_b_weight, key_value_b), (output_weight, output));

  [[nodiscard]] bool exists() const noexcept { return key_value_a.exists(); }
  [[nodiscard]] bool trained_before_scores() const noexcept {
    return query_a.learns() || query_a_norm.trained() || query.learns() || key_value_a.learns() || key_value_a_norm.trained() ||
           key_value_b.learns();
  }
  [[nodiscard]] bool trained() const noexcept { return output.learns() || trained_before_scores(); }
};

/// What the backward needs.
template <class Backend>
struct latent_attention_saved {
  using matrix = tensor_t<Backend, value_t<Backend>, 2>;
  matrix query_latent, query_latent_normed;  ///< @shape [T, query_rank]
  matrix latent, latent_normed;              ///< @shape [T, C]
  rms_norm_saved<Backend> query_norm, norm;
  matrix query, key, value, output;          ///< @shape [T, H F], rotated; values and outputs padded with zeros
  tensor_t<Backend, accum_t<Backend>, 2> lse;
};

namespace detail {
/// The outputs of all heads without their zero columns. @shape result [T, H width]
template <class Backend>
auto without_padding(Backend& backend, view_t<Backend, const value_t<Backend>, 2> output, index heads, index width) {
  auto result = backend.template make_tensor<value_t<Backend>>(extents<2>{output.extent(0), heads * width});
  copy_columns<Backend>(backend, output.reshape(extents<2>{output.extent(0) * heads, output.extent(1) / heads}),
                        result.view().reshape(extents<2>{output.extent(0) * heads, width}), {.count = width});
  return result;
}
/// Heads as rows. @shape result [T H, x.extent(1) / H]
template <class View>
auto head_rows(View x, index heads) {
  return x.reshape(extents<2>{x.extent(0) * heads, x.extent(1) / heads});
}
}  // namespace detail

/// The layer's output as a new tensor, with a cache as in `attention_forward`. @shape x, result [T, D]
/// @source DeepSeek-V2, arXiv 2405.04434, section 2.1
/// @cost values are padded to the head width, so attention costs 2F / (F + value_width) of what it must: docs/decisions
template <transformer_backend Backend>
[[nodiscard]] auto latent_attention_forward(Backend& backend, const attention_config& config, const latent_attention_config& shape,
                                            const latent_attention_parameters<Backend>& p,
                                            view_t<Backend, const value_t<Backend>, 2> x, const context_view<Backend>& context,
                                            latent_attention_saved<Backend>& saved, key_value_cache<Backend>* cache = nullptr,
                                            std::span<const std::int32_t> cache_rows = {}) {
  using T = value_t<Backend>;
  const index tokens = x.extent(0);
  const index heads = config.heads;
  const index width = config.head_width;
  if (p.query_a.exists()) {
    saved.query_latent = linear_forward(backend, x, p.query_a);
    saved.query_latent_normed =
        rms_norm_forward(backend, std::as_const(saved.query_latent).view(), p.query_a_norm, shape.norm_epsilon, saved.query_norm);
    saved.query = linear_forward(backend, std::as_const(saved.query_latent_normed).view(), p.query);
  } else {
    saved.query = linear_forward(backend, x, p.query);
  }
  rotate<Backend>(backend, detail::as_heads(saved.query.view(), width), *context.rotary, shape.plain_width, rotary_pairs::neighbours, 1);

  const auto down = linear_forward(backend, x, p.key_value_a);  // [T, C + position_width]
  saved.latent = backend.template make_tensor<T>(extents<2>{tokens, shape.key_value_rank});
  auto position = backend.template make_tensor<T>(extents<2>{tokens, shape.position_width});
  copy_columns<Backend>(backend, down.view(), saved.latent.view(), {.count = shape.key_value_rank});
  copy_columns<Backend>(backend, down.view(), position.view(), {.from_first = shape.key_value_rank, .count = shape.position_width});
  rotate<Backend>(backend, detail::as_heads(position.view(), shape.position_width), *context.rotary, 0, rotary_pairs::neighbours, 1);
  saved.latent_normed =
      rms_norm_forward(backend, std::as_const(saved.latent).view(), p.key_value_a_norm, shape.norm_epsilon, saved.norm);
  const auto up = linear_forward(backend, std::as_const(saved.latent_normed).view(), p.key_value_b);  // [T, H (plain + value)]

  saved.key = backend.template make_tensor<T>(extents<2>{tokens, heads * width});
  saved.value = backend.template make_tensor<T>(saved.key.shape());
  const auto up_rows = detail::head_rows(up.view(), heads);
  const auto key_rows = detail::head_rows(saved.key.view(), heads);
  copy_columns<Backend>(backend, up_rows, key_rows, {.count = shape.plain_width});
  copy_columns<Backend>(backend, std::as_const(position).view(), key_rows,
                        {.to_first = shape.plain_width, .count = shape.position_width, .share = heads});
  copy_columns<Backend>(backend, up_rows, detail::head_rows(saved.value.view(), heads),
                        {.from_first = shape.plain_width, .count = shape.value_width, .zeros = width - shape.value_width});

  auto keys = detail::as_heads(std::as_const(saved.key).view(), width);
  auto values = detail::as_heads(std::as_const(saved.value).view(), width);
  if (cache != nullptr) std::tie(keys, values) = detail::through_cache<Backend>(backend, keys, values, *cache, cache_rows);
  saved.output = backend.template make_tensor<T>(saved.query.shape());
  saved.lse = backend.template make_tensor<accum_t<Backend>>(extents<2>{tokens, heads});
  backend.attention(detail::as_heads(std::as_const(saved.query).view(), width), keys, values, context.key_begin,
                    context.key_end, config.score_scale(), detail::as_heads(saved.output.view(), width), saved.lse.view());
  const auto mixed = detail::without_padding<Backend>(backend, saved.output.view(), heads, shape.value_width);
  return linear_forward(backend, mixed.view(), p.output);
}

/// Adds the trained weights' gradients; overwrites dx unless it is null. @shape dy, x, dx [T, D]
template <transformer_backend Backend>
void latent_attention_backward(Backend& backend, const attention_config& config, const latent_attention_config& shape,
                               latent_attention_parameters<Backend>& p, view_t<Backend, const value_t<Backend>, 2> dy,
                               view_t<Backend, const value_t<Backend>, 2> x, const context_view<Backend>& context,
                               const latent_attention_saved<Backend>& saved, view_t<Backend, value_t<Backend>, 2>* dx) {
  using T = value_t<Backend>;
  const index tokens = x.extent(0);
  const index heads = config.heads;
  const index width = config.head_width;
  const bool below = dx != nullptr || p.trained_before_scores();
  auto d_mixed = backend.template make_tensor<T>(extents<2>{below ? tokens : 0, heads * shape.value_width});
  auto d_mixed_view = d_mixed.view();
  {
    const auto mixed = detail::without_padding<Backend>(backend, saved.output.view(), heads, shape.value_width);
    linear_backward<Backend>(backend, dy, mixed.view(), p.output, below ? &d_mixed_view : nullptr, write_mode::overwrite);
  }
  if (!below) return;

  auto d_output = backend.template make_tensor<T>(saved.output.shape());
  copy_columns<Backend>(backend, detail::head_rows(std::as_const(d_mixed).view(), heads), detail::head_rows(d_output.view(), heads),
                        {.count = shape.value_width, .zeros = width - shape.value_width});
  auto d_query = backend.template make_tensor<T>(saved.query.shape());
  auto d_key = backend.template make_tensor<T>(saved.key.shape());
  auto d_value = backend.template make_tensor<T>(saved.value.shape());
  backend.attention_backward(detail::as_heads(saved.query.view(), width), detail::as_heads(saved.key.view(), width),
                             detail::as_heads(saved.value.view(), width), detail::as_heads(saved.output.view(), width), saved.lse.view(),
                             detail::as_heads(std::as_const(d_output).view(), width), context.key_begin, context.key_end,
                             config.score_scale(), detail::as_heads(d_query.view(), width), detail::as_heads(d_key.view(), width),
                             detail::as_heads(d_value.view(), width));

  const auto d_key_rows = detail::head_rows(std::as_const(d_key).view(), heads);
  auto d_up = backend.template make_tensor<T>(extents<2>{tokens, heads * (shape.plain_width + shape.value_width)});
  copy_columns<Backend>(backend, d_key_rows, detail::head_rows(d_up.view(), heads), {.count = shape.plain_width});
  copy_columns<Backend>(backend, detail::head_rows(std::as_const(d_value).view(), heads), detail::head_rows(d_up.view(), heads),
                        {.to_first = shape.plain_width, .count = shape.value_width});
  auto d_position = backend.template make_tensor<T>(extents<2>{tokens, shape.position_width});
  sum_heads<Backend>(backend, d_key_rows, d_position.view(), heads, {.from_first = shape.plain_width, .count = shape.position_width});
  rotate<Backend>(backend, detail::as_heads(d_position.view(), shape.position_width), *context.rotary, 0, rotary_pairs::neighbours, -1);

  // Through the latent: its gradient and that of the shared position columns form the gradient of key_value_a's rows.
  const auto through_norm = [&](auto d_projected, auto& w, const auto& normed, auto& norm, const auto& norm_saved, const auto& raw) {
    auto d_normed = backend.template make_tensor<T>(raw.shape());
    auto d_normed_view = d_normed.view();
    linear_backward<Backend>(backend, d_projected, normed.view(), w, &d_normed_view, write_mode::overwrite);
    auto d_raw = backend.template make_tensor<T>(raw.shape());
    auto d_raw_view = d_raw.view();
    rms_norm_backward<Backend>(backend, std::as_const(d_normed).view(), raw.view(), norm, norm_saved, &d_raw_view, write_mode::overwrite);
    return d_raw;
  };
  const auto d_latent = through_norm(std::as_const(d_up).view(), p.key_value_b, saved.latent_normed, p.key_value_a_norm, saved.norm,
                                     saved.latent);
  auto d_down = backend.template make_tensor<T>(extents<2>{tokens, shape.key_value_rank + shape.position_width});
  copy_columns<Backend>(backend, d_latent.view(), d_down.view(), {.count = shape.key_value_rank});
  copy_columns<Backend>(backend, std::as_const(d_position).view(), d_down.view(),
                        {.to_first = shape.key_value_rank, .count = shape.position_width});
  linear_backward<Backend>(backend, std::as_const(d_down).view(), x, p.key_value_a, dx, write_mode::overwrite);

  rotate<Backend>(backend, detail::as_heads(d_query.view(), width), *context.rotary, shape.plain_width, rotary_pairs::neighbours, -1);
  if (p.query_a.exists()) {
    const auto d_query_latent = through_norm(std::as_const(d_query).view(), p.query, saved.query_latent_normed, p.query_a_norm,
                                             saved.query_norm, saved.query_latent);
    linear_backward<Backend>(backend, d_query_latent.view(), x, p.query_a, dx, write_mode::accumulate);
  } else {
    linear_backward<Backend>(backend, std::as_const(d_query).view(), x, p.query, dx, write_mode::accumulate);
  }
}

}  // namespace esft
