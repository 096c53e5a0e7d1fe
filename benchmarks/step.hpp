// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A whole training step of a model with random weights: its memory planned before anything is allocated, then measured.

#include <esft/core/rng.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/model/decoder.hpp>
#include <esft/train/memory_estimate.hpp>
#include <esft/train/trainer.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

namespace esft::bench {

/// The shape of DeepSeek-V2-Lite with this many layers, the first one dense: latent attention, rotary embedding stretched 40 times by YaRN.
inline decoder_config v2_lite(index layers = 27) {
  decoder_config c;
  c.vocabulary = 102400;
  c.width = 2048;
  c.layers = layers;
  c.dense_width = 10944;
  c.expert_width = 1408;
  c.experts = 64;
  c.active = 6;
  c.shared_width = 2816;
  c.moe_layer.assign(static_cast<std::size_t>(layers), true);
  c.moe_layer[0] = false;
  c.attention = {16, 16, 192, 1e4, 1e-6, query_key_norm::none};
  c.attention.scaling = {.factor = 40, .original_positions = 4096};
  c.attention.score_factor = std::pow(0.1 * 0.707 * std::log(40.0) + 1, 2);
  c.latent = {.key_value_rank = 512, .plain_width = 128, .position_width = 64, .value_width = 128};
  c.max_positions = 163840;
  c.storage = dtype::bfloat16;
  return c;
}
/// The same in small, to try the program out.
inline decoder_config small(index layers = 3) {
  decoder_config c = v2_lite(layers);
  c.vocabulary = 64;
  c.width = 32;
  c.dense_width = 48;
  c.expert_width = 16;
  c.experts = 8;
  c.active = 2;
  c.shared_width = 16;
  c.attention.heads = c.attention.key_value_heads = 2;
  c.attention.head_width = 16;
  c.latent = {.key_value_rank = 24, .plain_width = 8, .position_width = 8, .value_width = 8};
  return c;
}

/// What `inventory` would say of a model of this shape that is not there. A test compares the two.
inline parameter_inventory planned_inventory(const decoder_config& c) {
  parameter_inventory result;
  const auto add = [&](parameter_role role, index layer, index rows, index columns, index experts = 0) {
    const bool vector = rows == 0;
    result.push_back({{role, layer_index{static_cast<std::int32_t>(layer)}},
                      (vector ? columns : rows * columns) * std::max<index>(experts, 1),
                      static_cast<int>(experts),
                      rows,
                      vector ? 0 : columns});
  };
  using enum parameter_role;
  const attention_config& a = c.attention;
  add(embedding, -1, c.vocabulary, c.width);
  for (index l = 0; l < c.layers; ++l) {
    add(attention_norm, l, 0, c.width);
    add(query, l, a.heads * a.head_width, c.width);
    add(key_value_a, l, c.latent.key_value_rank + c.latent.position_width, c.width);
    add(key_value_a_norm, l, 0, c.latent.key_value_rank);
    add(key_value_b, l, a.heads * (c.latent.plain_width + c.latent.value_width), c.latent.key_value_rank);
    add(attention_output, l, c.width, a.heads * c.latent.value_width);
    add(mlp_norm, l, 0, c.width);
    if (c.moe_layer[static_cast<std::size_t>(l)]) {
      add(router, l, c.experts, c.width);
      add(expert_gate_up, l, 2 * c.expert_width, c.width, c.experts);
      add(expert_down, l, c.width, c.expert_width, c.experts);
      add(shared_gate_up, l, 2 * c.shared_width, c.width);
      add(shared_down, l, c.width, c.shared_width);
    } else {
      add(dense_gate_up, l, 2 * c.dense_width, c.width);
      add(dense_down, l, c.width, c.dense_width);
    }
  }
  add(final_norm, -1, 0, c.width);
  add(head, -1, c.vocabulary, c.width);
  return result;
}

/// Rows of one document each.
inline token_batch random_batch(const decoder_config& c, index rows, index length) {
  token_batch batch;
  const counter_rng rng(17, rng_stream::test);
  for (index t = 0; t < rows * length; ++t) {
    const auto token = [&](index at) {
      return static_cast<std::int32_t>(rng.below(static_cast<std::uint64_t>(at), static_cast<std::uint64_t>(c.vocabulary)));
    };
    const bool last = t % length == length - 1;
    batch.tokens.push_back(token(t));
    batch.labels.push_back(last ? ignored_label : token(t + 1));
    batch.position.push_back(static_cast<std::int32_t>(t % length));
    batch.key_begin.push_back(static_cast<std::int32_t>(t / length * length));
    batch.sample.push_back(static_cast<std::int32_t>(t / length));
  }
  return batch;
}

/// Normal numbers by fan-in, ones for norms: a block of them over and over, copied where the weights lie. They are drawn once: drawing is
/// what takes the time.
template <class Backend>
void fill_at_random(Backend& backend, decoder_parameters<Backend>& parameters) {
  using T = value_t<Backend>;
  constexpr index most = index{1} << 20;
  std::vector<float> drawn(static_cast<std::size_t>(most));
  const counter_rng rng(100, rng_stream::test);
  for (std::size_t i = 0; i < drawn.size(); ++i) drawn[i] = static_cast<float>(rng.normal(i));
  std::size_t first = 0;  // another place for each parameter
  for_each_parameter(parameters, [&](parameter_key, auto& w) {
    auto all = w.elements();
    const bool matrix = w.value.shape().size() > 1;
    const index block = std::min(all.size(), most);
    std::vector<T> numbers(static_cast<std::size_t>(block), T(1.0F));
    const float deviation = matrix ? 0.5F / std::sqrt(static_cast<float>(w.part_shape()[1])) : 0;
    first += 7919;
    for (std::size_t i = 0; matrix && i < numbers.size(); ++i) numbers[i] = T(deviation * drawn[(first + i) % drawn.size()]);
    backend.copy_in(std::span<const T>(numbers), all.slice(0, block));
    for (index begin = block; begin < all.size(); begin += block) {
      const index end = std::min(all.size(), begin + block);
      backend.copy(all.slice(0, end - begin), all.slice(begin, end));
    }
  });
}

struct step_figures {
  memory_estimate planned;
  std::int64_t weights_and_state = 0;  ///< @unit bytes
  std::int64_t resident = 0;           ///< what the device held between two steps, as it says itself @unit bytes
  std::int64_t trained = 0;            ///< elements
  double seconds_per_token = 0;
  double loss = 0;
};

/// @unit bytes
template <class Backend>
memory_estimate plan_step(const decoder_config& c, const trainable_set& trainable, index tokens) {
  return estimate_memory(c, planned_inventory(c), trainable, {tokens, true}, sizeof(value_t<Backend>), sizeof(accum_t<Backend>));
}

/// Trains `steps` steps on one batch, activations recomputed, and takes the median. A recorded step is recorded before it is timed.
/// @param wait waits for the device @param held says how many bytes it holds; called after the last step, while the model exists
/// @pre what `plan_step` says fits the device
template <class Backend, class Wait, class Held>
step_figures measure_step(Backend& backend, const decoder_config& c, const trainable_set& trainable, index rows, index length, int steps,
                          bool record, const Wait& wait, const Held& held) {
  step_figures result;
  result.planned = plan_step<Backend>(c, trainable, rows * length);
  decoder<Backend> model(backend, c);
  fill_at_random(backend, model.parameters);
  apply(backend, model.parameters, trainable);
  trainer<decoder<Backend>> run(backend, model, {.learning_rate = 1e-6, .recompute = true, .record = record});
  const token_batch batch = random_batch(c, rows, length);
  std::vector<double> times;
  const int untimed = record ? 2 : 1;
  for (int i = 0; i < steps + untimed; ++i) {
    wait();
    const auto start = std::chrono::steady_clock::now();
    result.loss = run.step(std::span<const token_batch>(&batch, 1)).loss;
    wait();
    if (i >= untimed) times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  result.seconds_per_token = times[times.size() / 2] / static_cast<double>(rows * length);
  result.trained = trained_elements(trainable, inventory(model.parameters));
  result.weights_and_state = result.planned.weights + run.training_state_bytes();
  result.resident = held();
  return result;
}

}  // namespace esft::bench
