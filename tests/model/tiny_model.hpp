// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Models of a few thousand parameters, and packed batches of two documents, for the suites of this folder.

#include "numeric.hpp"

#include <esft/model/decoder.hpp>
#include <esft/peft/plans/full.hpp>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace esft_test {

/// Three layers, the lowest dense; grouped queries; shared experts. Suites change what they are about.
inline esft::decoder_config tiny_config() {
  esft::decoder_config config;
  config.vocabulary = 13;
  config.width = 8;
  config.layers = 3;
  config.dense_width = 5;
  config.expert_width = 3;
  config.experts = 5;
  config.active = 2;
  config.shared_width = 4;
  config.moe_layer = {false, true, true};
  config.attention = {4, 2, 4, 1e4, 1e-6, esft::query_key_norm::none};
  config.norm_epsilon = 1e-6;
  config.max_positions = 64;
  return config;
}

/// Two documents of 4 and 5 tokens and two tokens of padding in one row; one label inside each document is ignored.
inline esft::token_batch tiny_batch() {
  constexpr std::int32_t none = esft::ignored_label;
  return {{1, 7, 3, 12, 5, 0, 7, 9, 2, 4, 4},
          {7, none, 12, 0, 0, 7, none, 2, 11, none, none},
          {0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1},
          {0, 0, 0, 0, 4, 4, 4, 4, 4, 9, 9},
          {0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1}};
}

/// Values for every parameter: the same on every backend up to its storage type. Router rows are large, so that no choice hangs on
/// rounding.
template <class Backend>
void randomise(Backend& backend, esft::decoder_parameters<Backend>& parameters, std::uint64_t seed) {
  esft::for_each_parameter(parameters, [&](esft::parameter_key key, auto& w) {
    const auto& shape = w.value.shape();
    const bool norm = shape.size() == 1;
    double deviation = norm ? 0.2 : 1.0 / std::sqrt(static_cast<double>(shape[shape.size() - 1]));
    if (key.role == esft::parameter_role::embedding) deviation = 1;
    if (key.role == esft::parameter_role::router) deviation *= 3;
    auto values = normal_numbers(static_cast<std::size_t>(w.value.size()), ++seed * 1009, deviation);
    for (double& value : values) value = static_cast<float>(norm ? 1 + value : value);  // the same number in float and double
    esft::copy_in(backend, std::span<const double>(values), w);
  });
}

template <class Backend>
using tiny_decoder = esft::decoder<Backend>;

template <class Backend>
tiny_decoder<Backend> make_tiny(Backend& backend, const esft::decoder_config& config, std::uint64_t seed = 1) {
  tiny_decoder<Backend> model(backend, config);
  randomise(backend, model.parameters, seed);
  return model;
}

/// Makes every parameter trainable.
template <class Backend>
void train_everything(Backend& backend, tiny_decoder<Backend>& model) {
  esft::apply(backend, model.parameters, esft::full_plan{}.trainable(esft::inventory(model.parameters)));
}

inline std::string to_string(esft::parameter_key key) {
  return "role " + std::to_string(static_cast<int>(key.role)) + " of layer " + std::to_string(key.layer.value);
}

/// Gradients of everything that is trained, by parameter; a stack's by trained expert, otherwise expert -1.
using gradient_map = std::map<std::pair<esft::parameter_key, std::int32_t>, std::vector<double>>;
template <class Backend>
gradient_map gradients(Backend& backend, const tiny_decoder<Backend>& model) {
  gradient_map result;
  esft::for_each_parameter(model.parameters, [&](esft::parameter_key key, const auto& w) {
    if (!w.trained()) return;
    const auto all = to_host(backend, w.gradient);
    const std::size_t slices = std::remove_cvref_t<decltype(w)>::stacked ? w.selected.size() : 1;
    const auto slice = static_cast<std::ptrdiff_t>(all.size() / slices);
    for (std::size_t s = 0; s < slices; ++s) {
      const std::int32_t expert = w.selected.empty() ? -1 : w.selected[s];
      const auto begin = all.begin() + static_cast<std::ptrdiff_t>(s) * slice;
      result[{key, expert}] = std::vector<double>(begin, begin + slice);
    }
  });
  return result;
}

}  // namespace esft_test
