// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Records that own their memory, for tests: routing alone, and everything that any scorer may read.

#include <esft/core/rng.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/relevance/scorer.hpp>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace esft_test {

/// One (expert, weight) per active slot.
using token = std::vector<std::pair<std::int32_t, float>>;

/// A record with storage.
struct owned_record {
  esft::layer_index layer{0};
  int experts = 0;
  int active = 0;
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  std::vector<std::int32_t> sample;

  void add(const token& routed, std::int32_t of_sample) {
    for (const auto& [id, weight] : routed) {
      ids.push_back(id);
      weights.push_back(weight);
    }
    sample.push_back(of_sample);
  }
  [[nodiscard]] esft::routing_record view() const { return {layer, experts, active, ids, weights, sample}; }
};

/// Random tokens of `samples` samples, about one in eight of them padding.
inline owned_record random_record(std::uint64_t seed, esft::layer_index layer, int experts, int active, int tokens, int samples) {
  const esft::counter_rng rng(seed, esft::rng_stream::test, static_cast<std::uint64_t>(layer.value));
  owned_record record{layer, experts, active, {}, {}, {}};
  std::uint64_t counter = 0;
  for (int t = 0; t < tokens; ++t) {
    std::vector<std::int32_t> ids;
    for (int e = 0; e < experts; ++e) ids.push_back(e);
    token routed;
    for (int k = 0; k < active; ++k) {
      const auto at = static_cast<std::size_t>(rng.below(counter++, ids.size()));
      routed.emplace_back(ids[at], static_cast<float>(rng.uniform(counter++)));
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at));
    }
    const bool padding = t > 0 && rng.below(counter++, 8) == 0;
    record.add(routed, padding ? -1 : static_cast<std::int32_t>(rng.below(counter++, static_cast<std::uint64_t>(samples))));
  }
  return record;
}

/// The six tokens of the worked example: N = 4 experts, K = 2, samples of 2 and 4 tokens.
inline owned_record worked_example() {
  owned_record record{esft::layer_index(3), 4, 2, {}, {}, {}};
  record.add({{0, .50F}, {1, .30F}}, 0);
  record.add({{0, .60F}, {2, .20F}}, 0);
  record.add({{1, .40F}, {3, .40F}}, 1);
  record.add({{1, .70F}, {0, .10F}}, 1);
  record.add({{1, .50F}, {2, .25F}}, 1);
  record.add({{3, .45F}, {1, .35F}}, 1);
  return record;
}

/// Weights and gradients of one expert, D = 3, I = 2.
struct owned_expert {
  std::vector<float> gate_up, down, gate_up_gradient, down_gradient;
};

/// What any scorer may read of one layer in one pass.
struct observation {
  owned_record routing;
  std::vector<float> norms;           ///< [T, K]
  std::vector<owned_expert> tensors;  ///< [E]
  std::int64_t learned = 1;

  [[nodiscard]] esft::expert_output_record outputs() const { return {routing.view(), norms}; }
  [[nodiscard]] esft::expert_weights_record weights(std::size_t e) const {
    return {routing.layer,  esft::expert_index(static_cast<std::int32_t>(e)), static_cast<int>(tensors.size()), 3, 2, tensors[e].gate_up,
            tensors[e].down};
  }
  [[nodiscard]] esft::expert_gradient_record gradients(std::size_t e) const {
    return {weights(e), tensors[e].gate_up_gradient, tensors[e].down_gradient, learned};
  }
};

/// Shows a scorer the records that it observes.
template <esft::relevance_scorer Scorer>
void show(Scorer& scorer, const observation& seen) {
  if constexpr (esft::observes<Scorer, esft::routing_record>) scorer.observe(seen.routing.view());
  if constexpr (esft::observes<Scorer, esft::expert_output_record>) scorer.observe(seen.outputs());
  for (std::size_t e = 0; e < seen.tensors.size(); ++e) {
    if constexpr (esft::observes<Scorer, esft::expert_gradient_record>) scorer.observe(seen.gradients(e));
    if constexpr (esft::observes<Scorer, esft::expert_weights_record>) scorer.observe(seen.weights(e));
  }
}

inline observation random_observation(std::uint64_t seed, esft::layer_index layer, int experts, int active, int tokens, int samples) {
  observation seen{random_record(seed, layer, experts, active, tokens, samples), {}, {}};
  const esft::counter_rng rng(seed, esft::rng_stream::test, 1000 + static_cast<std::uint64_t>(layer.value));
  std::uint64_t counter = 0;
  for (std::size_t slot = 0; slot < seen.routing.ids.size(); ++slot) seen.norms.push_back(static_cast<float>(rng.uniform(counter++)));
  const auto normals = [&](std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(rng.normal(counter++));
    return values;
  };
  for (int e = 0; e < experts; ++e) seen.tensors.push_back({normals(12), normals(6), normals(12), normals(6)});
  seen.learned = 1 + static_cast<std::int64_t>(rng.below(counter, 9));
  return seen;
}

}  // namespace esft_test
