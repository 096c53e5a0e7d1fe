// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A router that does all the work of a softmax top-k router and then sends the tokens where a case says.

#include <esft/moe/router.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <algorithm>
#include <span>

namespace esft::bench {

/// Models `esft::router` for backends whose memory the host reaches. @shape ids [T, K]
class replayed_router {
 public:
  replayed_router(std::span<const std::int32_t> ids, index active) : ids_(ids), softmax_(active) {}
  [[nodiscard]] index active() const noexcept { return softmax_.active(); }

  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    auto decision = softmax_.route(backend, logits);
    ESFT_EXPECTS(static_cast<std::size_t>(decision.ids.size()) == ids_.size(), "one id for each slot");
    std::copy(ids_.begin(), ids_.end(), decision.ids.data());
    for (index t = 0; t < logits.extent(0); ++t) {
      for (index k = 0; k < active(); ++k) decision.weights.view()(t, k) = decision.probabilities.view()(t, decision.ids.view()(t, k));
    }
    return decision;
  }
  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    softmax_.backward(backend, decision, dweights, dprobabilities, dlogits);
  }

 private:
  std::span<const std::int32_t> ids_;
  softmax_topk_router softmax_;
};

}  // namespace esft::bench
