// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The load-balance loss over the tokens of all layers together, as transformers computes it.

#include <esft/moe/balance_loss.hpp>

#include <vector>

namespace esft {

/// Sums of the layers of one batch. The loss couples the layers: an expert's number may be busy in one layer and idle in another, and
/// then nothing is wrong with it. So the slope needs the choices of all layers, and the forward pass has to come first.
/// @eq loss = coefficient E sum_i F_i P_i, F_i and P_i means over all tokens of all layers of (choices of i) and s_i; F is constant
/// @source Mixtral, Qwen2-MoE and others in transformers, `load_balancing_loss_func`
/// @deviation choices of a token are counted as the router made them, also where its affinities are no softmax
class balance_across_layers {
 public:
  /// Adds a layer's decision. @shape sample [T] as for `balance_loss` @pre all layers have the same number of experts
  template <backend Backend>
  void add(Backend& backend, const routing<Backend>& decision, view_t<Backend, const std::int32_t, 1> sample) {
    const auto experts = static_cast<std::size_t>(decision.probabilities.extent(1));
    choices_.resize(experts);
    affinities_.resize(experts);
    const detail::host_choices counted = detail::counted_choices(backend, decision);
    const std::vector<double> s = detail::affinities_of(backend, decision);
    detail::for_each_real_token(backend, decision.probabilities.extent(0), sample, [&](std::size_t t, std::int32_t) {
      tokens_ += 1;
      counted.visit(t, [&](std::size_t id) { choices_[id] += 1; });
      for (std::size_t e = 0; e < experts; ++e) affinities_[e] += s[t * experts + e];
    });
  }

  /// 0 where no token counts.
  [[nodiscard]] double loss(double coefficient) const {
    const std::vector<double> here = slope(coefficient);
    double sum = 0;
    for (std::size_t e = 0; e < here.size(); ++e) sum += here[e] * affinities_[e];
    return sum;
  }
  /// Its gradient with respect to the affinities of any real token in any layer. @shape [E], empty where no layer was added
  [[nodiscard]] std::vector<double> slope(double coefficient) const {
    std::vector<double> result(choices_.size());
    if (tokens_ == 0) return result;
    const double factor = coefficient * static_cast<double>(choices_.size()) / (tokens_ * tokens_);
    for (std::size_t e = 0; e < result.size(); ++e) result[e] = factor * choices_[e];
    return result;
  }

 private:
  std::vector<double> choices_;     ///< @shape [E] of the experts, in all layers
  std::vector<double> affinities_;  ///< @shape [E] sums of s
  double tokens_ = 0;               ///< tokens times layers
};

}  // namespace esft
