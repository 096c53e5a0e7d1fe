// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A decoder small enough to train in milliseconds, with a dense layer, two MoE layers and a shared expert, and batches for it.

#include <esft/core/rng.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/data/batch.hpp>
#include <esft/model/decoder.hpp>
#include <esft/train/trainer.hpp>

#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace tiny {

inline esft::decoder_config config(esft::dtype storage = esft::dtype::float32) {
  esft::decoder_config c;
  c.vocabulary = 24;
  c.width = 16;
  c.layers = 3;
  c.dense_width = 24;
  c.expert_width = 8;
  c.experts = 6;
  c.active = 2;
  c.shared_width = 8;
  c.moe_layer = {false, true, true};
  c.attention = {2, 1, 8, 1e4, 1e-6, esft::query_key_norm::none};
  c.max_positions = 64;
  c.storage = storage;
  return c;
}

/// The same with extents that whole tiles cover, but for the router's 6 experts.
inline esft::decoder_config wide_config(esft::dtype storage = esft::dtype::float32) {
  esft::decoder_config c = config(storage);
  c.vocabulary = 64;
  c.width = 64;
  c.dense_width = 96;
  c.expert_width = 32;
  c.shared_width = 32;
  c.attention = {2, 1, 32, 1e4, 1e-6, esft::query_key_norm::none};
  return c;
}

template <class Backend>
esft::decoder<Backend> model(Backend& backend, esft::dtype storage = esft::dtype::float32, std::uint64_t seed = 5) {
  esft::decoder<Backend> result(backend, config(storage));
  esft::initialise(backend, result.parameters, result.config, seed);
  return result;
}

/// Documents that repeat a short pattern: there is something to learn.
inline std::vector<esft::training_sample> documents(std::size_t count = 24, std::uint64_t seed = 3) {
  std::vector<esft::training_sample> result(count);
  const esft::counter_rng rng(seed, esft::rng_stream::test);
  for (std::size_t d = 0; d < count; ++d) {
    const std::size_t length = 6 + rng.below(4 * d, 7);
    const auto first = static_cast<std::int32_t>(rng.below(4 * d + 1, 20));
    const auto stride = static_cast<std::int32_t>(1 + rng.below(4 * d + 2, 3));
    for (std::size_t i = 0; i < length; ++i) {
      result[d].tokens.push_back((first + stride * static_cast<std::int32_t>(i)) % 20);
      result[d].learned.push_back(i >= 2 ? 1 : 0);
    }
  }
  return result;
}

inline esft::batch_schedule<> schedule(std::uint64_t seed = 11, std::size_t rows = 3) {
  return {esft::packed_dataset<>(documents(), {.length = 16}, seed), rows, 21};
}

/// Batches of 1024 tokens: with `wide_config` threads share the products, forward and backward.
inline constexpr std::size_t large_batch = 1024;
inline esft::batch_schedule<> large_schedule() {
  constexpr std::size_t length = 32;
  return {esft::packed_dataset<>(documents(400), {.length = length}, 11), large_batch / length, 21};
}

/// Experts 1 and 4 of the first MoE layer, expert 0 of the second.
inline esft::trainable_set some_experts() {
  esft::trainable_set set;
  set.experts[esft::layer_index{1}] = {esft::expert_index{1}, esft::expert_index{4}};
  set.experts[esft::layer_index{2}] = {esft::expert_index{0}};
  return set;
}

template <class Backend>
esft::trainable_set everything(const esft::decoder<Backend>& model) {
  esft::trainable_set set;
  for (const auto& entry : esft::inventory(model.parameters)) set.whole.insert(entry.key);
  return set;
}

/// All parameters as bits, by key.
template <class Backend>
std::map<esft::parameter_key, std::vector<esft::value_t<Backend>>> values(Backend& backend, const esft::decoder<Backend>& model) {
  std::map<esft::parameter_key, std::vector<esft::value_t<Backend>>> result;
  esft::for_each_parameter(model.parameters, [&](esft::parameter_key key, const auto& w) {
    auto& host = result[key];
    host.resize(static_cast<std::size_t>(w.value.size()));
    esft::copy_out(backend, w, std::span<esft::value_t<Backend>>(host));
  });
  return result;
}

/// A flat state tensor as a vector.
template <class Backend, class View>
auto on_host(Backend& backend, View view) {
  std::vector<esft::accum_t<Backend>> host(static_cast<std::size_t>(view.size()));
  backend.copy_out(view, std::span<esft::accum_t<Backend>>(host));
  return host;
}

}  // namespace tiny
