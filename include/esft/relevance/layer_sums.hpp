// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `layer_sums`: the streaming sums behind the built-in scorers, one entry per layer, merged by addition.

#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/core/score_table.hpp>
#include <esft/relevance/record_check.hpp>
#include <esft/relevance/scorer.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

namespace esft {

/// Sums of one layer. `Value` is `double` for gate weights, `std::int64_t` for exact selection counts.
template <class Value>
struct layer_sum {
  int experts = 0;                 ///< E
  int active = 0;                  ///< K
  std::int64_t tokens = 0;         ///< real tokens
  std::int64_t samples = 0;        ///< samples with at least one real token
  std::vector<Value> sum;          ///< @shape [E] over all real tokens
  std::vector<double> mean_sum;    ///< @shape [E] or empty: sum over samples of (sample sum / sample tokens)
};

/// Per-layer sums of a value per (token, slot).
template <class Value>
class layer_sums {
 public:
  /// Adds a checked record; `value_of(position)` is the contribution of slot `position` of ids [T, K].
  /// Per-sample means are kept only if `per_sample`.
  template <class ValueOf>
  void observe(const routing_record& record, bool per_sample, ValueOf&& value_of) {
    check_record(record);  // everything is checked before anything is changed
    layer_sum<Value>& layer = entry(record.layer, record.experts, record.active);
    const auto experts = static_cast<std::size_t>(record.experts);
    const auto active = static_cast<std::size_t>(record.active);
    if (per_sample) layer.mean_sum.resize(experts);

    std::unordered_map<std::int32_t, std::size_t> number_of;  // sample -> position in order of first appearance
    std::vector<std::int64_t> lengths;                        // [S]
    std::vector<Value> sums;                                  // [S, E]
    for (std::size_t row = 0; row < row_count(record); ++row) {
      const std::int32_t sample = sample_of(record, row);
      if (sample < 0) continue;
      const auto [found, is_new] = number_of.try_emplace(sample, lengths.size());
      if (is_new) {
        lengths.push_back(0);
        if (per_sample) sums.resize(sums.size() + experts);
      }
      ++lengths[found->second];
      ++layer.tokens;
      for (std::size_t position = row * active; position < (row + 1) * active; ++position) {
        if (record.ids[position] == no_expert) continue;
        const auto expert = static_cast<std::size_t>(record.ids[position]);
        const Value value = value_of(position);
        layer.sum[expert] += value;
        if (per_sample) sums[found->second * experts + expert] += value;
      }
    }
    layer.samples += static_cast<std::int64_t>(lengths.size());
    if (!per_sample) return;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      for (std::size_t e = 0; e < experts; ++e) {
        layer.mean_sum[e] += static_cast<double>(sums[s * experts + e]) / static_cast<double>(lengths[s]);
      }
    }
  }

  /// Adds the sums of another stream, as if its records had been observed here.
  void merge(const layer_sums& other) {
    for (const auto& [which, from] : other.layers_) {  // a mismatch must leave this object as it was
      if (const auto found = layers_.find(which); found != layers_.end()) require_same(which, found->second, from.experts, from.active);
    }
    for (const auto& [which, from] : other.layers_) {
      layer_sum<Value>& to = entry(which, from.experts, from.active);
      to.tokens += from.tokens;
      to.samples += from.samples;
      for (std::size_t e = 0; e < from.sum.size(); ++e) to.sum[e] += from.sum[e];
      to.mean_sum.resize(from.mean_sum.empty() ? to.mean_sum.size() : from.mean_sum.size());
      for (std::size_t e = 0; e < from.mean_sum.size(); ++e) to.mean_sum[e] += from.mean_sum[e];
    }
  }

  /// The sums, once every layer is known to have seen the same real tokens.
  /// @throws error (bad_input) if nothing was observed, a layer saw only padding, or layers saw different numbers of tokens
  [[nodiscard]] const std::map<layer_index, layer_sum<Value>>& complete() const {
    if (layers_.empty()) {
      throw error(error_category::bad_input,
                  "no routing was observed, so no expert can be scored; run the model over the task's data first");
    }
    const auto& [first, reference] = *layers_.begin();
    for (const auto& [which, layer] : layers_) {
      const std::string name = "layer " + std::to_string(which.value);
      if (layer.tokens == 0) {
        throw error(error_category::bad_input, name + " observed no real token (padding only), so its experts cannot be scored");
      }
      if (layer.tokens != reference.tokens) {
        throw error(error_category::bad_input, name + " observed " + std::to_string(layer.tokens) + " tokens but layer " +
                                                   std::to_string(first.value) + " observed " + std::to_string(reference.tokens) +
                                                   "; a record or a part of a log is missing");
      }
    }
    return layers_;
  }

 private:
  static void require_same(layer_index which, const layer_sum<Value>& layer, int experts, int active) {
    if (layer.experts == experts && layer.active == active) return;
    throw error(error_category::bad_input, "layer " + std::to_string(which.value) +
                                               " was observed with E = " + std::to_string(layer.experts) +
                                               ", K = " + std::to_string(layer.active) + " and now with E = " + std::to_string(experts) +
                                               ", K = " + std::to_string(active) + "; the records come from different models");
  }

  layer_sum<Value>& entry(layer_index which, int experts, int active) {
    auto [found, is_new] = layers_.try_emplace(which);
    if (is_new) {
      found->second = {experts, active, 0, 0, std::vector<Value>(static_cast<std::size_t>(experts)), {}};
    } else {
      require_same(which, found->second, experts, active);
    }
    return found->second;
  }

  std::map<layer_index, layer_sum<Value>> layers_;
};

/// The mean over tokens, or over samples, of what was summed. @throws error (bad_input) where `complete` does
[[nodiscard]] inline score_table mean_scores(const layer_sums<double>& sums, sample_mean mean) {
  score_table table;
  const bool pooled = mean == sample_mean::pooled;
  for (const auto& [which, layer] : sums.complete()) {
    const auto divisor = static_cast<double>(pooled ? layer.tokens : layer.samples);
    layer_scores& out = table.layers[which];
    for (const double sum : pooled ? layer.sum : layer.mean_sum) out.scores.push_back(sum / divisor);
    table.tokens = layer.tokens;
  }
  return table;
}

/// Weight of a slot with an expert divided by the sum of its token's weights; 0 where that is 0. @pre the record was checked
[[nodiscard]] inline double share_of_token(const routing_record& record, std::size_t position) {
  const auto active = static_cast<std::size_t>(record.active);
  double sum = 0;
  for (std::size_t slot = position / active * active; slot < (position / active + 1) * active; ++slot) {
    if (record.ids[slot] != no_expert) sum += static_cast<double>(record.weights[slot]);
  }
  return sum > 0 ? static_cast<double>(record.weights[position]) / sum : 0.0;
}

}  // namespace esft
