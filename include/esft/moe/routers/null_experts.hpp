// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Softmax over real and null experts, top-k of all: a token that chooses null experts uses fewer real ones (AdaMoE).

#include <esft/moe/routers/softmax_topk.hpp>

#include <string_view>

namespace esft {

/// The logits have a column for each of E real and, behind them, M null experts. Slots of chosen null experts stay empty and cost nothing;
/// g = s / sum of the s of the chosen real experts. A token without a real expert gets none.
/// @source AdaMoE, arXiv 2406.13233
class null_experts_router {
 public:
  static constexpr std::string_view name = "null-experts";

  /// @param active K, null experts counted @param nulls M @pre 1 <= K <= E + M, M < E + M
  null_experts_router(index active, index nulls) : inner_(active, true), nulls_(nulls) {
    ESFT_EXPECTS(nulls >= 0, "the number of null experts is not negative");
  }

  [[nodiscard]] index active() const noexcept { return inner_.active(); }

  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    ESFT_EXPECTS(logits.extent(1) > nulls_, "one expert at least is real");
    routing<Backend> result = inner_.route(backend, logits);
    backend.for_each(logits.extent(0), empty_null_slots<Backend>{result.ids.view(), result.weights.view(),
                                                                 std::as_const(result.probabilities).view(), logits.extent(1) - nulls_});
    return result;
  }

  /// Weights of experts that someone else chose, real ones and empty slots: `weighing_router`.
  template <backend Backend>
  void weigh(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> probabilities, view_t<Backend, const std::int32_t, 2> ids,
             view_t<Backend, accum_t<Backend>, 2> weights) const {
    inner_.weigh(backend, probabilities, ids, weights);
  }

  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    inner_.backward(backend, decision, dweights, dprobabilities, dlogits);
  }

  // The function object is public because a device compiler must be able to name it.

  template <class Backend>
  struct empty_null_slots {
    view_t<Backend, std::int32_t, 2> ids;
    view_t<Backend, accum_t<Backend>, 2> weights;
    view_t<Backend, const accum_t<Backend>, 2> probabilities;
    index real;

    ESFT_HOST_DEVICE void operator()(index t) const {
      accum_t<Backend> sum{};
      for (index k = 0; k < ids.extent(1); ++k) {
        if (ids(t, k) >= real) ids(t, k) = no_expert;
        if (ids(t, k) != no_expert) sum += probabilities(t, ids(t, k));
      }
      for (index k = 0; k < ids.extent(1); ++k) {
        weights(t, k) = ids(t, k) == no_expert ? accum_t<Backend>{} : probabilities(t, ids(t, k)) / sum;
      }
    }
  };

 private:
  softmax_topk_router inner_;
  index nulls_;
};

}  // namespace esft
