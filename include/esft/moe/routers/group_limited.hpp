// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Softmax over all experts, then top-k inside the best groups of experts: DeepSeek-V2's device-limited routing.

#include <esft/moe/routers/softmax_topk.hpp>

#include <string_view>

namespace esft {

/// s = softmax(z); of the groups of neighbouring experts the best are kept, a group ranking by its largest s; the K largest s in them are
/// chosen; g as in `softmax_topk_router`. @source DeepSeek-V2, arXiv 2405.04434, section 2.2.2
class group_limited_router {
 public:
  static constexpr std::string_view name = "group-limited";

  /// @pre 1 <= kept <= groups <= 64; K experts fit into the kept groups; scale > 0
  group_limited_router(index active, index groups, index kept, bool normalise = false, double scale = 1)
      : ungrouped_(active, normalise, scale), limit_{groups, kept, group_rank::largest}, normalise_(normalise), scale_(scale) {
    ESFT_EXPECTS(kept >= 1 && kept <= groups && groups <= 64, "between 1 and all of at most 64 groups are kept");
  }

  [[nodiscard]] index active() const noexcept { return ungrouped_.active(); }

  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    using A = accum_t<Backend>;
    const index experts = logits.extent(1);
    ESFT_EXPECTS(experts % limit_.groups == 0, "groups have the same number of experts");
    ESFT_EXPECTS(active() >= 1 && active() <= experts / limit_.groups * limit_.kept,
                 "a token takes between 1 and all experts of the kept groups");
    routing<Backend> result{backend.template make_tensor<std::int32_t>(extents<2>{logits.extent(0), active()}),
                            backend.template make_tensor<A>(extents<2>{logits.extent(0), active()}),
                            backend.template make_tensor<A>(logits.shape())};
    backend.for_each(logits.extent(0), softmax_topk_router::forward_row<Backend>{logits, result.ids.view(), result.weights.view(),
                                                                                 result.probabilities.view(), normalise_,
                                                                                 static_cast<A>(scale_), limit_});
    return result;
  }

  /// Weights of experts that someone else chose: `weighing_router`.
  template <backend Backend>
  void weigh(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> probabilities, view_t<Backend, const std::int32_t, 2> ids,
             view_t<Backend, accum_t<Backend>, 2> weights) const {
    ungrouped_.weigh(backend, probabilities, ids, weights);
  }

  /// The choice is constant: as without groups.
  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    ungrouped_.backward(backend, decision, dweights, dprobabilities, dlogits);
  }

 private:
  softmax_topk_router ungrouped_;
  group_limit limit_;
  bool normalise_;
  double scale_;
};

}  // namespace esft
