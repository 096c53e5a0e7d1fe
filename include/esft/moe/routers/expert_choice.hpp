// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Experts choose tokens instead of tokens experts: each takes its best ones, so that all are equally busy.

#include <esft/moe/capacity.hpp>
#include <esft/moe/choice.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <string_view>
#include <utility>

namespace esft {

/// s = softmax(z) over the experts; each expert takes the ceil(factor T / E) tokens with its largest s, ties by token; g = s. A token may
/// be taken by none; by more than K experts it keeps the K with the largest s. A token's choice depends on later ones: not for decoding.
/// @source Expert Choice, arXiv 2202.09368, section 3.2
class expert_choice_router {
 public:
  static constexpr std::string_view name = "expert-choice";

  /// @param active K, most experts of a token: E loses nothing @param factor mean experts of a token @pre active >= 1, factor > 0
  explicit expert_choice_router(index active, double factor = 2) : gates_(active), factor_(factor) {
    ESFT_EXPECTS(active >= 1 && factor > 0, "a token takes one expert at least; the factor is positive");
  }

  [[nodiscard]] index active() const noexcept { return gates_.active(); }

  /// @pre K <= E
  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    using A = accum_t<Backend>;
    const index tokens = logits.extent(0);
    const index experts = logits.extent(1);
    ESFT_EXPECTS(active() <= experts, "a token takes between 1 and E experts");
    routing<Backend> result{backend.template make_tensor<std::int32_t>(extents<2>{tokens, active()}),
                            backend.template make_tensor<A>(extents<2>{tokens, active()}), backend.template make_tensor<A>(logits.shape())};
    auto taken = backend.template make_tensor<std::int32_t>(logits.shape());
    const index capacity = std::min(tokens, expert_capacity(tokens, 1, experts, factor_));
    backend.for_each(tokens, affinities<Backend>{logits, result.probabilities.view()});
    backend.for_each(experts, take_tokens<Backend>{std::as_const(result.probabilities).view(), taken.view(), capacity});
    backend.for_each(tokens, fill_slots<Backend>{std::as_const(result.probabilities).view(), std::as_const(taken).view(), result.ids.view(),
                                                 result.weights.view()});
    return result;
  }

  /// Weights of experts that someone else chose: `weighing_router`.
  template <backend Backend>
  void weigh(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> probabilities, view_t<Backend, const std::int32_t, 2> ids,
             view_t<Backend, accum_t<Backend>, 2> weights) const {
    gates_.weigh(backend, probabilities, ids, weights);
  }

  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    gates_.backward(backend, decision, dweights, dprobabilities, dlogits);
  }

  // The function objects are public because a device compiler must be able to name them.

  template <class Backend>
  struct affinities {
    view_t<Backend, const accum_t<Backend>, 2> logits;
    view_t<Backend, accum_t<Backend>, 2> probabilities;
    ESFT_HOST_DEVICE void operator()(index t) const { detail::softmax_row(&logits(t, 0), logits.extent(1), &probabilities(t, 0)); }
  };

  /// Marks the tokens of expert e. Affinities lie in [0, 1], so the smallest one that is taken is found by halving the interval; NaN counts
  /// as less than all.
  template <class Backend>
  struct take_tokens {
    view_t<Backend, const accum_t<Backend>, 2> probabilities;
    view_t<Backend, std::int32_t, 2> taken;
    index capacity;

    ESFT_HOST_DEVICE void operator()(index e) const {
      using A = accum_t<Backend>;
      const index tokens = probabilities.extent(0);
      const auto affinity = [&](index t) { return probabilities(t, e) >= A{} ? probabilities(t, e) : A{-1}; };
      A low = -1;  // at least `capacity` tokens reach it
      A high = 2;  // fewer do
      while (true) {
        const A middle = low + (high - low) / 2;
        if (!(middle > low && middle < high)) break;
        index reach = 0;
        for (index t = 0; t < tokens; ++t) reach += affinity(t) >= middle ? 1 : 0;
        (reach >= capacity ? low : high) = middle;
      }
      index above = 0;
      for (index t = 0; t < tokens; ++t) above += affinity(t) > low ? 1 : 0;
      index equal = capacity - above;  // the first ones among those that just reach it
      for (index t = 0; t < tokens; ++t) {
        const bool mine = affinity(t) > low || (affinity(t) == low && equal > 0);
        if (affinity(t) == low) --equal;
        taken(t, e) = mine ? 1 : 0;
      }
    }
  };

  template <class Backend>
  struct fill_slots {
    view_t<Backend, const accum_t<Backend>, 2> probabilities;
    view_t<Backend, const std::int32_t, 2> taken;
    view_t<Backend, std::int32_t, 2> ids;
    view_t<Backend, accum_t<Backend>, 2> weights;

    ESFT_HOST_DEVICE void operator()(index t) const {
      using A = accum_t<Backend>;
      const auto score = [&](index e) { return taken(t, e) != 0 ? probabilities(t, e) : A{-1}; };
      detail::choose_top(score, taken.extent(1), &ids(t, 0), ids.extent(1));
      for (index k = 0; k < ids.extent(1); ++k) {
        const std::int32_t e = ids(t, k);
        const bool serves = taken(t, e) != 0;
        weights(t, k) = serves ? probabilities(t, e) : A{};
        if (!serves) ids(t, k) = no_expert;
      }
    }
  };

 private:
  softmax_topk_router gates_;  ///< whose backward this is
  double factor_;
};

}  // namespace esft
