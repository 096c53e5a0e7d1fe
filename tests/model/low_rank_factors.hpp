// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What tests of low-rank plans ask of a tiny model: its factors, values as after some training, logits, gradients.

#include "tiny_model.hpp"

#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace esft_test {

/// Calls `visit(key, weight)` for whatever stands beside a model's matrices: pairs of factors and the routers among them.
template <class Model, class Visit>
void for_each_factor(Model& model, Visit&& visit) {
  using esft::low_rank_factor;
  using esft::parameter_key;
  esft::for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    const auto pairs = [&](auto& two) {
      visit(parameter_key{key.role, key.layer, low_rank_factor::a}, two.a);
      visit(parameter_key{key.role, key.layer, low_rank_factor::b}, two.b);
    };
    if (w.low_rank) pairs(*w.low_rank);
    if (!w.mixture) return;
    pairs(w.mixture->pairs);
    visit(parameter_key{key.role, key.layer, low_rank_factor::router}, w.mixture->router);
  });
}

/// Values as after some training, the same on every backend. Routers are large, so that no choice hangs on rounding.
template <class Backend, class Model>
void randomise_factors(Backend& backend, Model& model, double deviation = 0.3) {
  std::uint64_t seed = 70;
  for_each_factor(model, [&](esft::parameter_key key, auto& factor) {
    auto values = normal_numbers(static_cast<std::size_t>(factor.value.size()), ++seed,
                                 key.factor == esft::low_rank_factor::router ? 2 : deviation);
    for (double& value : values) value = static_cast<float>(value);
    esft::copy_in(backend, std::span<const double>(values), factor);
  });
}

/// A tiny model with the factors of a plan.
template <class Backend, class Plan>
tiny_decoder<Backend> adapted(Backend& backend, const Plan& how, const esft::decoder_config& config = tiny_config()) {
  auto model = make_tiny(backend, config);
  esft::apply(backend, model.parameters, how.trainable(esft::inventory(model.parameters)));
  return model;
}

/// @shape [5, V]
template <class Backend, class Model>
std::vector<float> logits(Backend& backend, const Model& model) {
  auto caches = model.make_cache(backend, 1, 8);
  return model.decode(backend, caches, 8, {1, 7, 3, 12, 5}, std::vector<std::int32_t>(5, 0), {0, 1, 2, 3, 4});
}

template <class Backend, class Model>
std::map<esft::parameter_key, std::vector<double>> factor_gradients(Backend& b, Model& model) {
  std::map<esft::parameter_key, std::vector<double>> result;
  for_each_factor(model, [&](esft::parameter_key key, auto& factor) { result[key] = to_host(b, factor.gradient); });
  return result;
}

}  // namespace esft_test
