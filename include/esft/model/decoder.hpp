// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `decoder`: the whole language model. Forward, loss, backward down to the lowest trained layer, and cached decoding.

#include <esft/core/expert_records.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/model/block.hpp>
#include <esft/model/configured_router.hpp>
#include <esft/model/parameter_layout.hpp>
#include <esft/model/placed_batch.hpp>
#include <esft/moe/balance_across_layers.hpp>
#include <esft/moe/expert_outputs.hpp>
#include <esft/nn/cross_entropy.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// Receives the routing of every MoE layer, bottom to top, during a forward pass.
using routing_observer = std::function<void(const routing_record&)>;
/// The same with the norms of the experts' outputs, which then are computed once more.
using expert_output_observer = std::function<void(const expert_output_record&)>;

/// How a training pass runs.
struct backward_options {
  double loss_scale = 1;            ///< factor on the summed loss in the gradient, usually 1 / labelled tokens of the step
  bool recompute = false;           ///< keep only each layer's input and run its forward again in the backward
  balance_terms balance{};          ///< auxiliary balance losses, all off
  double z_loss = 0;                ///< coefficient of the loss on the size of the router's logits; 0 switches it off
  double balance_scale = 1;         ///< 1 / micro-batches of the step
  std::uint64_t dropout_draw = 0;   ///< which dropout masks: another number for every batch of a run
  bool dense_router_gradient = false;  ///< trained routers learn from the experts that they did not choose as well
  bool count_load = false;             ///< count the load of experts whose router's bias moves
};

/// Sums of a pass over a batch.
struct pass_result {
  double loss = 0;              ///< sum of cross-entropy over labelled tokens @unit nats
  std::int64_t labelled = 0;    ///< labelled tokens
  double balance_loss = 0;      ///< sum over layers, and the loss across layers once
  std::map<layer_index, std::vector<std::int64_t>> load{};  ///< [E] `expert_load` of layers whose bias moves, where it was asked for
};

/// A decoder-only MoE language model over any `transformer_backend` and `router`. The parameters are public plain structs:
/// `apply(backend, model.parameters, trainable_set)` decides what `backward` computes.
template <transformer_backend Backend, router<Backend> Router = configured_router>
class decoder {
 public:
  using backend_type = Backend;

  /// A model of this shape with uninitialised parameters and a router of your own. @pre `choose.active() == shape.active`
  decoder(Backend& backend, decoder_config shape, Router choose)
      : config(checked_shape(std::move(shape))), parameters(allocate_parameters(backend, config)), router_(std::move(choose)) {
    ESFT_EXPECTS(router_.active() == config.active, "the router takes as many experts as the configuration says");
  }
  /// The same with the router that the configuration describes.
  decoder(Backend& backend, const decoder_config& shape)
    requires std::constructible_from<Router, const decoder_config&>
      : decoder(backend, shape, Router(shape)) {}

  const decoder_config config;
  decoder_parameters<Backend> parameters;

  /// Summed loss of a packed batch without gradients. @throws contract_violation on token ids outside [0, V); usage_error as `place`
  pass_result evaluate(Backend& backend, const token_batch& batch, const routing_observer& observer = {},
                       const expert_output_observer& outputs = {}) const {
    const placed_batch<Backend> placed = place(backend, batch);
    auto x = embed(backend, placed.tokens.view());
    for (std::size_t l = 0; l < parameters.blocks.size(); ++l) {
      block_saved<Backend> saved;
      saved.input = std::move(x);
      x = block_forward(backend, config, router_, parameters.blocks[l], at_layer(placed.context, l), saved, placed.forced_at(l));
      if (observer || outputs) report(backend, l, saved, batch, observer, outputs);
    }
    rms_norm_saved<Backend> norm;
    const auto normed = rms_norm_forward(backend, std::as_const(x).view(), parameters.final_norm, config.norm_epsilon, norm);
    return {head_loss(backend, normed.view(), head_value(), placed.labels.view(), parameters.head.low_rank.get()), placed.labelled, 0};
  }

  /// Forward and backward of a packed batch: adds `loss_scale` times the summed loss's gradient to every trained parameter's gradient.
  /// Nothing below the lowest trained layer is stored or differentiated. @throws usage_error as `place`
  pass_result accumulate_gradients(Backend& backend, const token_batch& batch, const backward_options& options) {
    return accumulate_gradients(backend, place(backend, batch), options);
  }
  /// The same with the batch in place. With `numbers` (`has_unattended_steps`) the loss and its scale lie there, and the host waits for
  /// neither: the loss of the result is 0.
  pass_result accumulate_gradients(Backend& backend, const placed_batch<Backend>& batch, const backward_options& options,
                                   view_t<Backend, double, 1> numbers = {}) {
    const auto& context = batch.context;
    const low_rank_pass factors(*this, options, batch.sample.view());
    const bool embedding_trained = parameters.embedding.trained();
    const std::size_t layers = parameters.blocks.size();
    std::size_t lowest = 0;
    while (!embedding_trained && lowest < layers && !trained(parameters.blocks[lowest])) ++lowest;

    std::vector<block_saved<Backend>> saved(layers);
    balance_across_layers together;
    std::map<layer_index, std::vector<std::int64_t>> load;
    auto x = embed(backend, batch.tokens.view());
    for (std::size_t l = 0; l < layers; ++l) {
      block_saved<Backend> here;
      here.input = std::move(x);
      x = block_forward(backend, config, router_, parameters.blocks[l], at_layer(context, l), here, batch.forced_at(l));
      if (options.balance.across_layers > 0 && parameters.blocks[l].moe.exists()) {
        together.add(backend, here.moe.decision, batch.sample.view());
      }
      if (options.count_load && parameters.blocks[l].moe.choice_bias.moves) {
        load[layer_index{static_cast<std::int32_t>(l)}] = expert_load(backend, here.moe.decision, batch.sample.view());
      }
      if (l < lowest) continue;
      if (options.recompute) {
        saved[l].input = std::move(here.input);
      } else {
        saved[l] = std::move(here);
      }
    }
    rms_norm_saved<Backend> norm;
    const auto normed = rms_norm_forward(backend, std::as_const(x).view(), parameters.final_norm, config.norm_epsilon, norm);
    const bool needs_head_dx = lowest < layers || embedding_trained || parameters.final_norm.trained();
    auto gradient = backend.template make_tensor<value_t<Backend>>(normed.shape());
    auto head_dx = gradient.view();
    pass_result result{head_loss_backward(backend, normed.view(), head_value(), batch.labels.view(), options.loss_scale,
                                          needs_head_dx ? &head_dx : nullptr, head_gradient(), parameters.head.low_rank.get(), numbers),
                       batch.labelled, 0, std::move(load)};
    if (!needs_head_dx) return result;

    auto dx = backend.template make_tensor<value_t<Backend>>(normed.shape());
    auto dx_view = dx.view();
    rms_norm_backward(backend, std::as_const(gradient).view(), std::as_const(x).view(), parameters.final_norm, norm, &dx_view,
                      write_mode::overwrite);
    const std::vector<double> slope = together.slope(options.balance.across_layers);
    balance_options<Backend> balance{options.balance, options.z_loss, batch.sample.view(), options.balance_scale,
                                     options.dense_router_gradient, slope};
    balance.terms.across_layers = 0;  // its slope stands for it
    result.balance_loss = together.loss(options.balance.across_layers);
    for (std::size_t l = layers; l-- > lowest;) {
      if (options.recompute) {
        static_cast<void>(block_forward(backend, config, router_, parameters.blocks[l], at_layer(context, l), saved[l],
                                        batch.forced_at(l)));
      }
      result.balance_loss += block_backward(backend, config, router_, parameters.blocks[l], at_layer(context, l), saved[l], dx_view,
                                            embedding_trained || l > lowest, balance);
      saved[l] = {};
    }
    result.balance_loss += factors.balance_loss();
    if (embedding_trained) backend.embedding_dw(batch.tokens.view(), std::as_const(dx).view(), parameters.embedding.gradient.view());
    return result;
  }

  /// Brings a batch into the backend's memory. @throws usage_error that names the layer, and the token, for forced routes that do not fit;
  /// contract_violation as `check_batch`, or for a model that was moved from
  [[nodiscard]] placed_batch<Backend> place(Backend& backend, const token_batch& batch) const {
    ESFT_EXPECTS(parameters.embedding.value.data() != nullptr, "the model has its parameters: one that was moved from has none");
    check_batch(batch);
    return {context_of(backend, batch.position, batch.key_begin, causal_key_end(batch)), upload(backend, batch.tokens),
            upload(backend, batch.labels), upload(backend, batch.sample),
            labelled(batch), place_routes(backend, batch)};
  }

  /// Caches for decoding `sequences` sequences of at most `capacity` tokens, one cache per layer.
  [[nodiscard]] std::vector<key_value_cache<Backend>> make_cache(Backend& backend, index sequences, index capacity) const {
    std::vector<key_value_cache<Backend>> caches(parameters.blocks.size());
    const extents<3> shape{sequences * capacity, config.attention.key_value_heads, config.attention.head_width};
    for (auto& cache : caches) {
      cache.key = backend.template make_tensor<value_t<Backend>>(shape);
      cache.value = backend.template make_tensor<value_t<Backend>>(shape);
    }
    return caches;
  }

  /// Feeds new tokens of several sequences and returns the next-token logits of each token, in host memory.
  /// Token t belongs to sequence `sequence[t]` at `position[t]`; earlier positions of that sequence are already in the cache.
  /// @shape tokens, sequence, position [T]; result [T, V]
  /// @pre `caches` are those of `make_cache` with this capacity and at least as many sequences; every position < capacity
  [[nodiscard]] std::vector<float> decode(Backend& backend, std::vector<key_value_cache<Backend>>& caches, index capacity,
                                          const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& sequence,
                                          const std::vector<std::int32_t>& position) const {
    ESFT_EXPECTS(parameters.embedding.value.data() != nullptr, "the model has its parameters: one that was moved from has none");
    ESFT_EXPECTS(sequence.size() == tokens.size() && position.size() == tokens.size(), "tokens, sequence, position [T]");
    ESFT_EXPECTS(capacity > 0 && caches.size() == parameters.blocks.size(), "one cache for each layer, made by `make_cache`");
    const index sequences = caches.empty() ? 0 : caches.front().key.extent(0) / capacity;
    std::vector<std::int32_t> rows(tokens.size());
    std::vector<std::int32_t> begin(tokens.size());
    std::vector<std::int32_t> end(tokens.size());
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      ESFT_EXPECTS(position[t] >= 0 && position[t] < capacity, "a position lies inside the cache");
      ESFT_EXPECTS(sequence[t] >= 0 && sequence[t] < sequences, "the cache has room for as many sequences");
      begin[t] = sequence[t] * static_cast<std::int32_t>(capacity);
      rows[t] = begin[t] + position[t];
      end[t] = rows[t] + 1;
    }
    const auto ids = upload(backend, tokens);
    const auto context = context_of(backend, position, begin, end);
    auto x = embed(backend, std::as_const(ids).view());
    for (std::size_t l = 0; l < parameters.blocks.size(); ++l) {
      block_saved<Backend> saved;
      saved.input = std::move(x);
      x = block_forward(backend, config, router_, parameters.blocks[l], at_layer(context, l), saved, nullptr, &caches[l], rows);
    }
    rms_norm_saved<Backend> norm;
    const auto normed = rms_norm_forward(backend, std::as_const(x).view(), parameters.final_norm, config.norm_epsilon, norm);
    auto logits = backend.template make_tensor<accum_t<Backend>>(extents<2>{normed.extent(0), config.vocabulary});
    backend.logits(normed.view(), head_value(), logits.view());
    if (parameters.head.low_rank) low_rank_logits<Backend>(backend, normed.view(), *parameters.head.low_rank, logits.view());
    std::vector<float> host(static_cast<std::size_t>(logits.size()));
    backend.copy_out(std::as_const(logits).view(), std::span<float>(host));
    return host;
  }

 private:
  /// Tells all factors which training pass runs (dropout, padding, scale of balance losses), and that none does however it ends.
  class low_rank_pass {
   public:
    using sample_view = view_t<Backend, const std::int32_t, 1>;

    low_rank_pass(decoder& model, const backward_options& options, sample_view sample) : model_(&model) {
      set(options.dropout_draw, sample, options.balance_scale);
    }
    low_rank_pass(const low_rank_pass&) = delete;
    low_rank_pass& operator=(const low_rank_pass&) = delete;
    ~low_rank_pass() { set(std::nullopt, {}, 1); }

    /// Of the routers of factors, all together.
    [[nodiscard]] double balance_loss() const {
      double sum = 0;
      for_each_parameter(model_->parameters, [&](parameter_key, const auto& w) {
        if (w.mixture) sum += w.mixture->pass.balance_loss;
      });
      return sum;
    }

   private:
    void set(std::optional<std::uint64_t> draw, sample_view sample, double balance_scale) {
      for_each_parameter(model_->parameters, [&](parameter_key, auto& w) {
        if (w.low_rank) w.low_rank->draw = draw;
        if (!w.mixture) return;
        w.mixture->pairs.draw = draw;
        w.mixture->pass = {sample, balance_scale, 0};
      });
    }
    decoder* model_;
  };

  /// The table of rotary embedding where the backend's own `rope` does not do.
  rotary_table<Backend> rotary(Backend& backend, const std::vector<std::int32_t>& positions) const {
    const attention_config& a = config.attention;
    if (!config.latent.exists() && !a.scaling.scales()) return {};
    const index width = config.latent.exists() ? config.latent.position_width : a.head_width;
    return make_rotary_table(backend, std::span<const std::int32_t>(positions), width, a.rope_theta, a.scaling);
  }
  /// @param end behind the last key of each token
  sequence_context<Backend> context_of(Backend& backend, const std::vector<std::int32_t>& position, const std::vector<std::int32_t>& begin,
                                       const std::vector<std::int32_t>& end) const {
    sequence_context<Backend> context{upload(backend, position), upload(backend, begin), upload(backend, end), rotary(backend, position)};
    if (config.window > 0) context.windowed_begin = upload(backend, window_begin(begin, end, config.window));
    return context;
  }
  sequence_view<Backend> at_layer(const sequence_context<Backend>& context, std::size_t layer) const {
    return {context, config.windowed(layer)};
  }
  auto embed(Backend& backend, view_t<Backend, const std::int32_t, 1> ids) const {
    auto x = backend.template make_tensor<value_t<Backend>>(extents<2>{ids.extent(0), config.width});
    backend.embedding(ids, parameters.embedding.value.view(), x.view());
    return x;
  }
  /// The head's value and gradient: the embedding's where they are tied.
  matrix_t<Backend, const value_t<Backend>, 2> head_value() const {
    return config.tied_head ? parameters.embedding.matrix() : parameters.head.matrix();
  }
  matrix_t<Backend, accum_t<Backend>, 2> head_gradient() {
    return config.tied_head ? parameters.embedding.gradient_matrix() : parameters.head.gradient_matrix();
  }

  std::map<layer_index, placed_routes<Backend>> place_routes(Backend& backend, const token_batch& batch) const {
    std::map<layer_index, placed_routes<Backend>> placed;
    const extents<2> slots{static_cast<index>(batch.tokens.size()), config.active};
    for (const auto& [layer, routes] : batch.routes) {
      const auto l = static_cast<std::size_t>(layer.value);
      if (layer.value < 0 || l >= parameters.blocks.size() || !parameters.blocks[l].moe.exists()) {
        throw usage_error("routes are forced on layer " + std::to_string(layer.value) + ", which is no MoE layer of this model");
      }
      placed.try_emplace(layer, backend, routes, layer, slots, parameters.blocks[l].moe.gate_up.value.extent(0));
    }
    return placed;
  }

  void report(Backend& backend, std::size_t layer, const block_saved<Backend>& saved, const token_batch& batch,
              const routing_observer& observer, const expert_output_observer& outputs) const {
    if (!parameters.blocks[layer].moe.exists()) return;
    const auto& decision = saved.moe.decision;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(decision.ids.size()));
    std::vector<float> weights(ids.size());
    backend.copy_out(decision.ids.view(), std::span<std::int32_t>(ids));
    backend.copy_out(decision.weights.view(), std::span<float>(weights));
    const routing_record record{layer_index{static_cast<std::int32_t>(layer)}, static_cast<int>(config.experts),
                                static_cast<int>(config.active), ids, weights, batch.sample};
    if (observer) observer(record);
    if (outputs) outputs({record, expert_output_norms(backend, parameters.blocks[layer].moe, saved.moe)});
  }

  static std::int64_t labelled(const token_batch& batch) {
    std::int64_t count = 0;
    for (const std::int32_t label : batch.labels) count += label != ignored_label ? 1 : 0;
    return count;
  }

  Router router_;
};

}  // namespace esft
