// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Sigmoid affinities, choice by affinity plus bias inside the best groups, renormalised gate weights: DeepSeek-V3.

#include <esft/moe/choice.hpp>
#include <esft/moe/router.hpp>
#include <esft/moe/weigh_given_row.hpp>

#include <cmath>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Options of `sigmoid_topk_router`.
struct sigmoid_topk_options {
  group_limit groups{1, 1, group_rank::sum_of_two_best};
  bool normalise = true;
  double scale = 1;
  /// Added to the affinities for the choice alone, not to the weights. @shape [E], or empty for none
  std::vector<float> bias{};
  /// Score of experts outside the best groups: minus infinity in DeepSeek's own code, 0 in transformers. They differ where the bias makes
  /// all scores inside the best groups negative.
  double excluded = -std::numeric_limits<double>::infinity();
};

/// s = sigmoid(z); the K largest s + bias in the best groups are chosen; g = scale * s / (sum of the selected s + 1e-20), or scale * s
/// where `normalise` is off. `routing::probabilities` holds s, which does not sum to one.
/// @source DeepSeek-V3, arXiv 2412.19437, equations 12-16
class sigmoid_topk_router {
 public:
  static constexpr std::string_view name = "sigmoid-topk";

  /// @pre scale > 0; 1 <= kept <= groups <= 64
  explicit sigmoid_topk_router(index active, sigmoid_topk_options options = {}) : active_(active), options_(std::move(options)) {
    ESFT_EXPECTS(options_.scale > 0, "the factor on the gate weights is positive");
    ESFT_EXPECTS(options_.groups.kept >= 1 && options_.groups.kept <= options_.groups.groups && options_.groups.groups <= 64,
                 "between 1 and all of at most 64 groups are kept");
  }

  [[nodiscard]] index active() const noexcept { return active_; }

  /// @pre K experts fit into the kept groups; the bias is empty or has E entries
  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    using A = accum_t<Backend>;
    const std::vector<A> host(options_.bias.begin(), options_.bias.end());
    auto bias = backend.template make_tensor<A>(extents<1>{static_cast<index>(host.size())});
    backend.copy_in(std::span<const A>(host), bias.view());
    return route(backend, logits, std::as_const(bias).view());
  }
  /// The same with the bias of a layer in the backend's memory in place of the options'.
  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits,
                                       view_t<Backend, const accum_t<Backend>, 1> bias) const {
    using A = accum_t<Backend>;
    const index experts = logits.extent(1);
    const group_limit& limit = options_.groups;
    ESFT_EXPECTS(experts % limit.groups == 0, "groups have the same number of experts");
    ESFT_EXPECTS(active_ >= 1 && active_ <= experts / limit.groups * limit.kept,
                 "a token takes between 1 and all experts of the kept groups");
    ESFT_EXPECTS(bias.size() == 0 || bias.size() == experts, "the bias has one entry per expert");
    routing<Backend> result{backend.template make_tensor<std::int32_t>(extents<2>{logits.extent(0), active_}),
                            backend.template make_tensor<A>(extents<2>{logits.extent(0), active_}),
                            backend.template make_tensor<A>(logits.shape())};
    backend.for_each(logits.extent(0),
                     forward_row<Backend>{logits, bias, result.ids.view(), result.weights.view(),
                                          result.probabilities.view(), limit, options_.normalise, static_cast<A>(options_.scale),
                                          static_cast<A>(options_.excluded)});
    return result;
  }

  /// Weights of experts that someone else chose: `weighing_router`.
  template <backend Backend>
  void weigh(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> probabilities, view_t<Backend, const std::int32_t, 2> ids,
             view_t<Backend, accum_t<Backend>, 2> weights) const {
    using A = accum_t<Backend>;
    backend.for_each(ids.extent(0), detail::weigh_given_row<Backend>{probabilities, ids, weights, options_.normalise,
                                                                     static_cast<A>(options_.scale), static_cast<A>(tiny)});
  }

  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    backend.for_each(dlogits.extent(0), backward_row<Backend>{decision.ids.view(), decision.probabilities.view(), dweights, dprobabilities,
                                                              dlogits, options_.normalise, static_cast<accum_t<Backend>>(options_.scale)});
  }

  // The function objects are public because a device compiler must be able to name them.

  static constexpr double tiny = 1e-20;  ///< keeps a row whose affinities are all zero finite

  template <class Backend>
  struct forward_row {
    view_t<Backend, const accum_t<Backend>, 2> logits;
    view_t<Backend, const accum_t<Backend>, 1> bias;
    view_t<Backend, std::int32_t, 2> ids;
    view_t<Backend, accum_t<Backend>, 2> weights;
    view_t<Backend, accum_t<Backend>, 2> probabilities;
    group_limit limit;
    bool normalise;
    accum_t<Backend> scale;
    accum_t<Backend> excluded;

    ESFT_HOST_DEVICE void operator()(index t) const {
      using A = accum_t<Backend>;
      const index experts = logits.extent(1);
      const index active = ids.extent(1);
      A* s = &probabilities(t, 0);
      for (index e = 0; e < experts; ++e) s[e] = A{1} / (A{1} + std::exp(-logits(t, e)));
      const auto score = [&](index e) { return bias.size() > 0 ? s[e] + bias[e] : s[e]; };
      detail::choose_in_groups(score, experts, limit, excluded, &ids(t, 0), active);
      detail::weigh_chosen(s, &ids(t, 0), active, normalise, scale, static_cast<A>(tiny), &weights(t, 0));
    }
  };

  /// @eq ds_e = scale dw_e, or scale (dw_e - sum_j s_j dw_j / Z) / Z renormalised; dz = s (1 - s) ds
  template <class Backend>
  struct backward_row {
    view_t<Backend, const std::int32_t, 2> ids;
    view_t<Backend, const accum_t<Backend>, 2> probabilities;
    view_t<Backend, const accum_t<Backend>, 2> dweights;
    view_t<Backend, const accum_t<Backend>, 2> dprobabilities;
    view_t<Backend, accum_t<Backend>, 2> dlogits;
    bool normalise;
    accum_t<Backend> scale;

    ESFT_HOST_DEVICE void operator()(index t) const {
      using A = accum_t<Backend>;
      const index experts = dlogits.extent(1);
      const index active = ids.extent(1);
      A* ds = &dlogits(t, 0);
      const A* s = &probabilities(t, 0);
      for (index e = 0; e < experts; ++e) ds[e] = dprobabilities.size() > 0 ? dprobabilities(t, e) : A{};
      A sum = static_cast<A>(tiny);
      A mean{};
      const auto empty = [&](index k) { return ids(t, k) == no_expert; };  // the router leaves no slot empty, forced routes may
      for (index k = 0; k < active; ++k) {
        if (!empty(k)) sum += s[ids(t, k)];
      }
      for (index k = 0; k < active; ++k) {
        if (!empty(k)) mean += s[ids(t, k)] / sum * dweights(t, k);
      }
      for (index k = 0; k < active; ++k) {
        if (!empty(k)) ds[ids(t, k)] += normalise ? scale * (dweights(t, k) - mean) / sum : scale * dweights(t, k);
      }
      for (index e = 0; e < experts; ++e) ds[e] *= s[e] * (A{1} - s[e]);
    }
  };

 private:
  index active_;
  sigmoid_topk_options options_;
};

/// Balance without a loss: moves each expert's bias by `step` towards the mean load.
/// @eq b_e += step * sign(mean load - load_e) @shape bias, load [E]: rows that each expert served in the last step
/// @source DeepSeek-V3, arXiv 2412.19437, section 2.1.2 @pre both have the same size
inline void balance_bias(std::span<float> bias, std::span<const std::int64_t> load, double step) {
  ESFT_EXPECTS(bias.size() == load.size(), "a load for each expert");
  double mean = 0;
  for (const std::int64_t rows : load) mean += static_cast<double>(rows) / static_cast<double>(load.size());
  for (std::size_t e = 0; e < bias.size(); ++e) {
    const double missing = mean - static_cast<double>(load[e]);
    bias[e] += static_cast<float>(missing > 0 ? step : missing < 0 ? -step : 0.0);
  }
}

}  // namespace esft
