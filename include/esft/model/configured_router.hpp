// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `configured_router`: the router that a model's configuration asks for, chosen when the model is made.

#include <esft/model/config.hpp>
#include <esft/moe/routers/group_limited.hpp>
#include <esft/moe/routers/grouped_experts.hpp>
#include <esft/moe/routers/sigmoid_topk.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <variant>

namespace esft {

/// One of the routers of published checkpoints. What differs from layer to layer, the bias on the choice, lies with the layer's parameters.
class configured_router {
 public:
  explicit configured_router(const decoder_config& config) : choice_(make(config)) {}

  [[nodiscard]] index active() const {
    return std::visit([](const auto& router) { return router.active(); }, choice_);
  }
  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits) const {
    return std::visit([&](const auto& router) { return router.route(backend, logits); }, choice_);
  }
  /// @pre a bias comes with the sigmoid router
  template <backend Backend>
  [[nodiscard]] routing<Backend> route(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits,
                                       view_t<Backend, const accum_t<Backend>, 1> bias) const {
    return std::visit([&](const auto& router) { return route_with_bias<Backend>(backend, router, logits, bias); }, choice_);
  }
  /// Weights of experts that someone else chose: `weighing_router`. @throws usage_error where the router of the configuration is none
  template <backend Backend>
  void weigh(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> probabilities, view_t<Backend, const std::int32_t, 2> ids,
             view_t<Backend, accum_t<Backend>, 2> weights) const {
    std::visit([&](const auto& router) { weigh_with<Backend>(backend, router, probabilities, ids, weights); }, choice_);
  }
  template <backend Backend>
  void backward(Backend& backend, const routing<Backend>& decision, view_t<Backend, const accum_t<Backend>, 2> dweights,
                view_t<Backend, const accum_t<Backend>, 2> dprobabilities, view_t<Backend, accum_t<Backend>, 2> dlogits) const {
    std::visit([&](const auto& router) { router.backward(backend, decision, dweights, dprobabilities, dlogits); }, choice_);
  }

 private:
  using choice = std::variant<softmax_topk_router, group_limited_router, sigmoid_topk_router, grouped_experts_router>;

  static choice make(const decoder_config& c) {
    switch (c.router) {
      case router_kind::group_limited: return group_limited_router(c.active, c.groups, c.kept_groups, c.normalise_topk, c.routed_scale);
      case router_kind::sigmoid:
        return sigmoid_topk_router(c.active, {.groups = {c.groups, c.kept_groups, group_rank::sum_of_two_best},
                                              .normalise = c.normalise_topk,
                                              .scale = c.routed_scale});
      case router_kind::grouped_experts: return grouped_experts_router(c.active, c.experts / c.groups, c.normalise_topk, c.routed_scale);
      case router_kind::softmax: break;
    }
    return softmax_topk_router(c.active, c.normalise_topk, c.routed_scale);
  }

  choice choice_;
};

}  // namespace esft
