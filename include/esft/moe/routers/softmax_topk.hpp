// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Softmax over all experts, then top-k: DeepSeekMoE, OLMoE (no renormalisation), Mixtral and Qwen3-MoE (renormalised). GPT-OSS takes the
/// softmax of the K largest logits, which is the same function as renormalised.

#include <esft/moe/choice.hpp>
#include <esft/moe/router.hpp>
#include <esft/moe/weigh_given_row.hpp>

#include <limits>
#include <string_view>

namespace esft {

/// g = scale * s for the K largest s = softmax(z), or s / sum of the selected s where `normalise` is set; 0 elsewhere.
/// @source DeepSeekMoE, arXiv 2401.06066, equations 9-11; renormalised form: Mixtral, arXiv 2401.04088
class softmax_topk_router {
 public:
  static constexpr std::string_view name = "softmax-topk";

  /// @pre 1 <= active <= E, scale > 0. Renormalisation and a scale other than 1 exclude each other in DeepSeek's code; here both apply.
  explicit softmax_topk_router(index active, bool normalise = false, double scale = 1)
      : active_(active), normalise_(normalise), scale_(scale) {
    ESFT_EXPECTS(scale > 0, "the factor on the gate weights is positive");
  }

  [[nodiscard]] index active() const noexcept { return active_; }

  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    ESFT_EXPECTS(active_ >= 1 && active_ <= logits.extent(1), "a token takes between 1 and E experts");
    routing<Backend> result{backend.template make_tensor<std::int32_t>(extents<2>{logits.extent(0), active_}),
                            backend.template make_tensor<accum_t<Backend>>(extents<2>{logits.extent(0), active_}),
                            backend.template make_tensor<accum_t<Backend>>(logits.shape())};
    const auto scale = static_cast<accum_t<Backend>>(scale_);
    if constexpr (has_softmax_topk<Backend>) {
      backend.softmax_topk(logits, normalise_, scale, result.ids.view(), result.weights.view(), result.probabilities.view());
    } else {
      backend.for_each(logits.extent(0), forward_row<Backend>{logits, result.ids.view(), result.weights.view(),
                                                              result.probabilities.view(), normalise_, scale});
    }
    return result;
  }

  /// Weights of experts that someone else chose: `weighing_router`.
  template <backend Backend>
  void weigh(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> probabilities, view_t<Backend, const std::int32_t, 2> ids,
             view_t<Backend, accum_t<Backend>, 2> weights) const {
    backend.for_each(ids.extent(0), detail::weigh_given_row<Backend>{probabilities, ids, weights, normalise_,
                                                                     static_cast<accum_t<Backend>>(scale_), {}});
  }

  /// @param group_size of the groups of neighbouring experts that share the mean of their affinities
  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits,
                index group_size = 1) const {
    backend.for_each(dlogits.extent(0),
                     backward_row<Backend>{decision.ids.view(), decision.weights.view(), decision.probabilities.view(), dweights,
                                           dprobabilities, dlogits, normalise_, static_cast<accum_t<Backend>>(scale_), group_size});
  }

  // The function objects are public because a device compiler must be able to name them.

  /// One token: softmax, then the K best experts of the best groups.
  template <class Backend>
  struct forward_row {
    view_t<Backend, const accum_t<Backend>, 2> logits;
    view_t<Backend, std::int32_t, 2> ids;
    view_t<Backend, accum_t<Backend>, 2> weights;
    view_t<Backend, accum_t<Backend>, 2> probabilities;
    bool normalise;
    accum_t<Backend> scale;
    group_limit limit{};

    ESFT_HOST_DEVICE void operator()(index t) const {
      using A = accum_t<Backend>;
      const A* z = &logits(t, 0);
      A* s = &probabilities(t, 0);
      detail::softmax_row(z, logits.extent(1), s);
      const auto score = [z](index e) { return z[e]; };  // the order of the affinities, but exact where they are too small to differ
      detail::choose_in_groups(score, logits.extent(1), limit, -std::numeric_limits<A>::infinity(), &ids(t, 0), ids.extent(1));
      detail::weigh_chosen(s, &ids(t, 0), ids.extent(1), normalise, scale, A{}, &weights(t, 0));
    }
  };

  /// @eq no renormalisation: ds_e = scale dw_e; renormalised: ds_e = scale (dw_e - sum_j w_j dw_j) / Z; dz_i = s_i (ds_i - sum_j s_j ds_j)
  template <class Backend>
  struct backward_row {
    view_t<Backend, const std::int32_t, 2> ids;
    view_t<Backend, const accum_t<Backend>, 2> weights;
    view_t<Backend, const accum_t<Backend>, 2> probabilities;
    view_t<Backend, const accum_t<Backend>, 2> dweights;
    view_t<Backend, const accum_t<Backend>, 2> dprobabilities;
    view_t<Backend, accum_t<Backend>, 2> dlogits;
    bool normalise;
    accum_t<Backend> scale;
    index group_size;

    ESFT_HOST_DEVICE void operator()(index t) const {
      using A = accum_t<Backend>;
      const index experts = dlogits.extent(1);
      const index active = ids.extent(1);
      A* ds = &dlogits(t, 0);
      const A* s = &probabilities(t, 0);
      for (index e = 0; e < experts; ++e) ds[e] = dprobabilities.size() > 0 ? dprobabilities(t, e) : A{};
      A selected_sum{};
      A mean{};
      if (normalise) {
        for (index k = 0; k < active; ++k) {
          if (ids(t, k) == no_expert) continue;
          selected_sum += s[ids(t, k)];
          mean += weights(t, k) / scale * dweights(t, k);
        }
      }
      for (index k = 0; k < active; ++k) {
        if (ids(t, k) == no_expert) continue;
        const A da = normalise ? scale * (dweights(t, k) - mean) / selected_sum : scale * dweights(t, k);
        const index group = ids(t, k) / group_size * group_size;
        for (index e = group; e < group + group_size; ++e) ds[e] += da / static_cast<A>(group_size);
      }
      detail::softmax_gradient_row(s, experts, ds);
    }
  };

 private:
  index active_;
  bool normalise_;
  double scale_;
};

}  // namespace esft
