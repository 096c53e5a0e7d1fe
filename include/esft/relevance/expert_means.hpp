// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `expert_means`: the mean of one number per expert and observation, for scorers that see whole experts; merged by addition.

#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>
#include <esft/core/expert_records.hpp>
#include <esft/core/score_table.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace esft {

/// Refuses spans that do not fit. @throws contract_violation
inline void check_record(const expert_weights_record& record) {
  ESFT_EXPECTS(record.layer.value >= 0, "a layer index is not negative");
  ESFT_EXPECTS(record.expert.value >= 0 && record.expert.value < record.experts, "an expert is in [0, E)");
  ESFT_EXPECTS(record.width > 0 && record.inner > 0, "an expert has weights");
  ESFT_EXPECTS(record.gate_up.size() == static_cast<std::size_t>(2 * record.inner * record.width), "gate_up is [2I, D]");
  ESFT_EXPECTS(record.down.size() == static_cast<std::size_t>(record.width * record.inner), "down is [D, I]");
}
/// @throws contract_violation
inline void check_record(const expert_gradient_record& record) {
  check_record(record.weights);
  ESFT_EXPECTS(record.gate_up.size() == record.weights.gate_up.size(), "the gradient of gate_up is [2I, D]");
  ESFT_EXPECTS(record.down.size() == record.weights.down.size(), "the gradient of down is [D, I]");
  ESFT_EXPECTS(record.tokens > 0, "a backward pass has learned tokens");
}

/// Sums per layer and expert.
class expert_means {
 public:
  /// Adds one number of an expert. @pre the record was checked
  /// @throws numerics_error if the number is not finite and >= 0; nothing was changed then
  void add(const expert_weights_record& record, double value, std::int64_t tokens) {
    if (!std::isfinite(value) || value < 0) {
      throw numerics_error(place(record.layer) + ", expert " + std::to_string(record.expert.value) + " gives the score " +
                           std::to_string(value) +
                           ", not a finite number >= 0; its weights or gradients are broken, scores from them would mislead");
    }
    layer_sum& layer = entry(record.layer, static_cast<std::size_t>(record.experts));
    const auto e = static_cast<std::size_t>(record.expert.value);
    layer.sum[e] += value;
    layer.count[e] += 1;
    layer.tokens[e] += tokens;
  }

  /// Adds another stream. @throws error (bad_input) if the streams are of different models; nothing was changed then
  void merge(const expert_means& other) {
    for (const auto& [which, from] : other.layers_) {
      if (const auto found = layers_.find(which); found != layers_.end()) require_same(which, found->second, from.sum.size());
    }
    for (const auto& [which, from] : other.layers_) {
      layer_sum& to = entry(which, from.sum.size());
      for (std::size_t e = 0; e < from.sum.size(); ++e) {
        to.sum[e] += from.sum[e];
        to.count[e] += from.count[e];
        to.tokens[e] += from.tokens[e];
      }
    }
  }

  /// The means, once every expert of every layer is known to have been observed equally often.
  /// @throws error (bad_input)
  [[nodiscard]] score_table scores() const {
    if (layers_.empty())
      throw error(error_category::bad_input, "no expert was observed, so none can be scored; run the model over the task's data first");
    const std::int64_t wanted = layers_.begin()->second.count.front();
    score_table table;
    table.tokens = layers_.begin()->second.tokens.front();
    for (const auto& [which, layer] : layers_) {
      layer_scores& out = table.layers[which];
      for (std::size_t e = 0; e < layer.sum.size(); ++e) {
        if (layer.count[e] == 0 || layer.count[e] != wanted) {
          throw error(error_category::bad_input, place(which) + ", expert " + std::to_string(e) + " was observed " +
                                                     std::to_string(layer.count[e]) + " times and the first expert " +
                                                     std::to_string(wanted) + " times; a record is missing");
        }
        out.scores.push_back(layer.sum[e] / static_cast<double>(layer.count[e]));
      }
    }
    return table;
  }

 private:
  struct layer_sum {
    std::vector<double> sum;           ///< @shape [E]
    std::vector<std::int64_t> count;   ///< @shape [E], observations
    std::vector<std::int64_t> tokens;  ///< @shape [E], learned tokens behind them
  };
  static std::string place(layer_index which) { return "layer " + std::to_string(which.value); }
  static void require_same(layer_index which, const layer_sum& layer, std::size_t experts) {
    if (layer.sum.size() == experts) return;
    throw error(error_category::bad_input, place(which) + " was observed with E = " + std::to_string(layer.sum.size()) +
                                               " and now with E = " + std::to_string(experts) + "; the records come from different models");
  }
  layer_sum& entry(layer_index which, std::size_t experts) {
    const auto [found, is_new] = layers_.try_emplace(which);
    if (is_new) {
      found->second = {std::vector<double>(experts), std::vector<std::int64_t>(experts), std::vector<std::int64_t>(experts)};
    } else {
      require_same(which, found->second, experts);
    }
    return found->second;
  }

  std::map<layer_index, layer_sum> layers_;
};

/// Sum of `value(weight, gradient)` over every weight of an expert, in a fixed order.
template <class Value>
[[nodiscard]] double sum_over_weights(const expert_gradient_record& record, Value&& value) {
  double sum = 0;
  for (std::size_t i = 0; i < record.gate_up.size(); ++i) {
    sum += value(static_cast<double>(record.weights.gate_up[i]), static_cast<double>(record.gate_up[i]));
  }
  for (std::size_t i = 0; i < record.down.size(); ++i) {
    sum += value(static_cast<double>(record.weights.down[i]), static_cast<double>(record.down[i]));
  }
  return sum;
}

/// Weights of an expert.
[[nodiscard]] inline double weight_count(const expert_gradient_record& record) {
  return static_cast<double>(record.gate_up.size() + record.down.size());
}

}  // namespace esft
