// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Softmax, then the best expert alone, which serves no more rows than its capacity: Switch Transformer.

#include <esft/moe/capacity.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <string_view>
#include <utility>

namespace esft {

/// g = s of the best expert. Tokens beyond its capacity of ceil(factor T / E) rows get no expert: the layer passes them through.
/// Balance losses count the best expert of every token, served or not: else an overloaded expert would look no busier than its capacity.
/// @source Switch Transformer, arXiv 2101.03961, section 2.2 (which leaves the rounding open; here up), equation 5
class switch_top1_router {
 public:
  static constexpr std::string_view name = "switch-top1";

  /// @param capacity_factor 1 to 1.25 in training and 2 in evaluation in the paper @pre > 0
  explicit switch_top1_router(double capacity_factor = 1.25) : capacity_factor_(capacity_factor) {
    ESFT_EXPECTS(capacity_factor > 0, "the capacity factor is positive");
  }

  [[nodiscard]] index active() const noexcept { return best_.active(); }

  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    routing<Backend> result = best_.route(backend, logits);
    result.counted = backend.template make_tensor<std::int32_t>(result.ids.shape());
    backend.copy(std::as_const(result.ids).view(), result.counted.view());
    const index experts = logits.extent(1);
    const index capacity = expert_capacity(logits.extent(0), 1, experts, capacity_factor_);
    backend.for_each(experts, detail::empty_beyond_capacity<Backend>{result.ids.view(), result.weights.view(), capacity});
    return result;
  }

  /// Weights of experts that someone else chose, whether there is room or not: `weighing_router`.
  template <backend Backend>
  void weigh(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> probabilities, view_t<Backend, const std::int32_t, 2> ids,
             view_t<Backend, accum_t<Backend>, 2> weights) const {
    best_.weigh(backend, probabilities, ids, weights);
  }

  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    best_.backward(backend, decision, dweights, dprobabilities, dlogits);
  }

 private:
  softmax_topk_router best_{1};
  double capacity_factor_;
};

}  // namespace esft
