// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The two best experts with renormalised gates, the second one by chance, both within their capacity: GShard.

#include <esft/core/rng.hpp>
#include <esft/moe/capacity.hpp>
#include <esft/moe/choice.hpp>

#include <string_view>
#include <utility>

namespace esft {

/// Options of `gshard_top2_router`.
struct gshard_top2_options {
  double capacity_factor = 1;  ///< on 2 T / E rows
  bool random_second = true;   ///< the second expert serves with probability min(1, 2 g); otherwise always
  std::uint64_t seed = 0;      ///< of the draw, which depends on the seed and the token's number alone: the same seed routes the same
};

/// s = softmax(z); g = s / (s1 + s2) of the two best experts; slots of second experts that lose the draw, and those beyond an expert's
/// capacity of ceil(factor 2 T / E) rows, stay empty. What a token's other expert gets does not change then. Balance losses count
/// the first choice of every token, served or not.
/// @source GShard, arXiv 2006.16668, algorithm 1 (whose group is here the whole batch)
class gshard_top2_router {
 public:
  static constexpr std::string_view name = "gshard-top2";

  /// @pre capacity_factor > 0
  explicit gshard_top2_router(gshard_top2_options options = {}) : options_(options) {
    ESFT_EXPECTS(options.capacity_factor > 0, "the capacity factor is positive");
  }

  [[nodiscard]] index active() const noexcept { return 2; }

  /// @pre E >= 2
  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    using A = accum_t<Backend>;
    const index tokens = logits.extent(0);
    const index experts = logits.extent(1);
    ESFT_EXPECTS(experts >= 2, "a token takes two experts");
    routing<Backend> result{backend.template make_tensor<std::int32_t>(extents<2>{tokens, 2}),
                            backend.template make_tensor<A>(extents<2>{tokens, 2}), backend.template make_tensor<A>(logits.shape()),
                            backend.template make_tensor<std::int32_t>(extents<2>{tokens, 1})};
    backend.for_each(tokens, forward_row<Backend>{logits, result.ids.view(), result.weights.view(), result.probabilities.view(),
                                                  result.counted.view(), options_});
    const index capacity = expert_capacity(tokens, 2, experts, options_.capacity_factor);
    backend.for_each(experts, detail::empty_beyond_capacity<Backend>{result.ids.view(), result.weights.view(), capacity});
    return result;
  }

  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    backend.for_each(dlogits.extent(0),
                     backward_row<Backend>{decision.ids.view(), decision.probabilities.view(), dweights, dprobabilities, dlogits});
  }

  // The function objects are public because a device compiler must be able to name them.

  template <class Backend>
  struct forward_row {
    view_t<Backend, const accum_t<Backend>, 2> logits;
    view_t<Backend, std::int32_t, 2> ids;
    view_t<Backend, accum_t<Backend>, 2> weights;
    view_t<Backend, accum_t<Backend>, 2> probabilities;
    view_t<Backend, std::int32_t, 2> first;
    gshard_top2_options options;

    ESFT_HOST_DEVICE void operator()(index t) const {
      const index experts = logits.extent(1);
      auto* s = &probabilities(t, 0);
      detail::softmax_row(&logits(t, 0), experts, s);
      detail::choose_top([&](index e) { return s[e]; }, experts, &ids(t, 0), 2);
      first(t, 0) = ids(t, 0);
      detail::weigh_chosen(s, &ids(t, 0), 2, true, accum_t<Backend>{1}, accum_t<Backend>{}, &weights(t, 0));
      const counter_rng draw(options.seed, rng_stream::routing);
      if (!options.random_second || draw.uniform(static_cast<std::uint64_t>(t)) < 2 * static_cast<double>(weights(t, 1))) return;
      ids(t, 1) = no_expert;
      weights(t, 1) = 0;
    }
  };

  /// The sum of the two best s stays in the gates even where one of them serves nothing; so both are found again.
  /// @eq ds_j = (dw_j - sum over served k of s_k dw_k / Z) / Z, dw_j = 0 for an empty slot; dz_i = s_i (ds_i - sum_j s_j ds_j)
  template <class Backend>
  struct backward_row {
    view_t<Backend, const std::int32_t, 2> ids;
    view_t<Backend, const accum_t<Backend>, 2> probabilities;
    view_t<Backend, const accum_t<Backend>, 2> dweights;
    view_t<Backend, const accum_t<Backend>, 2> dprobabilities;
    view_t<Backend, accum_t<Backend>, 2> dlogits;

    ESFT_HOST_DEVICE void operator()(index t) const {
      using A = accum_t<Backend>;
      const index experts = dlogits.extent(1);
      A* ds = &dlogits(t, 0);
      const A* s = &probabilities(t, 0);
      for (index e = 0; e < experts; ++e) ds[e] = dprobabilities.size() > 0 ? dprobabilities(t, e) : A{};
      std::int32_t best[2];
      detail::choose_top([&](index e) { return s[e]; }, experts, best, 2);
      const A sum = s[best[0]] + s[best[1]];
      A dw[2];
      for (index k = 0; k < 2; ++k) dw[k] = ids(t, k) == no_expert ? A{} : dweights(t, k);
      const A mean = (s[best[0]] * dw[0] + s[best[1]] * dw[1]) / sum;
      for (index k = 0; k < 2; ++k) ds[best[k]] += (dw[k] - mean) / sum;
      detail::softmax_gradient_row(s, experts, ds);
    }
  };

 private:
  gshard_top2_options options_;
};

}  // namespace esft
