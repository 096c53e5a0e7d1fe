// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `placed_routes`: forced routes of one layer, checked and in the backend's memory; `route_forced` makes a router's decision of them.

#include <esft/core/error.hpp>
#include <esft/core/forced_routes.hpp>
#include <esft/moe/router.hpp>

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

/// @throws usage_error that names the layer, and the token where one is at fault
inline void expect_routes(const layer_routes& routes, layer_index layer, const extents<2>& slots, index experts) {
  const std::string where = "forced routes of layer " + std::to_string(layer.value);
  const auto count = static_cast<std::size_t>(element_count(slots));
  const auto active = static_cast<std::size_t>(slots[1]);
  const bool weighed = !routes.weights.empty();
  if (routes.active != slots[1] || routes.ids.size() != count || (weighed && routes.weights.size() != count)) {
    throw usage_error(where + ": " + std::to_string(routes.ids.size()) + " ids" +
                      (weighed ? " and " + std::to_string(routes.weights.size()) + " weights" : "") + " in rows of " +
                      std::to_string(routes.active) + ", where " + std::to_string(slots[0]) + " tokens take " + std::to_string(slots[1]) +
                      " experts each: give a row for every token of the batch, padding included");
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::int32_t id = routes.ids[i];
    if (id == no_expert) continue;
    const std::string token = where + ", token " + std::to_string(i / active) + ": ";
    if (id < 0 || id >= experts) {
      throw usage_error(token + "expert " + std::to_string(id) + ", where the layer has experts 0.." + std::to_string(experts - 1) +
                        "; an empty slot is " + std::to_string(no_expert));
    }
    for (std::size_t j = i - i % active; j < i; ++j) {
      if (routes.ids[j] == id) throw usage_error(token + "expert " + std::to_string(id) + " stands there twice; a token takes it once");
    }
    if (!weighed || std::isfinite(routes.weights[i])) continue;
    throw usage_error(token + "the weight of expert " + std::to_string(id) + " is not finite");
  }
}

}  // namespace detail

/// What a layer's forward takes to force routes. Whatever has this type passed the checks, so no kernel sees an id that is none.
template <class Backend>
class placed_routes {
 public:
  /// @param layer for messages @param slots T and K of the pass @param experts E, of which ids are
  /// @throws usage_error for another number of ids or weights, ids out of range or twice in a row, weights that are not finite
  placed_routes(Backend& backend, const layer_routes& routes, layer_index layer, const extents<2>& slots, index experts)
      : ids_(backend.template make_tensor<std::int32_t>(slots)), experts_(experts) {
    detail::expect_routes(routes, layer, slots, experts);
    backend.copy_in(std::span<const std::int32_t>(routes.ids), ids_.view());
    if (routes.weights.empty()) return;
    std::vector<float> weights = routes.weights;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (routes.ids[i] == no_expert) weights[i] = 0;
    }
    weights_ = backend.template make_tensor<accum_t<Backend>>(slots);
    backend.copy_in(std::span<const float>(weights), weights_.view());
  }

  [[nodiscard]] auto ids() const noexcept { return ids_.view(); }          ///< @shape [T, K]
  [[nodiscard]] auto weights() const noexcept { return weights_.view(); }  ///< @shape [T, K], or empty: the router computes them
  [[nodiscard]] bool weighed() const noexcept { return weights_.extent(1) > 0; }
  [[nodiscard]] index experts() const noexcept { return experts_; }

  /// Other routes of the same form where these lie, for recorded passes. @pre equal T, K and E, and both or neither have weights
  void take(Backend& backend, const placed_routes& other) {
    ESFT_EXPECTS(other.ids_.shape() == ids_.shape() && other.weights_.shape() == weights_.shape() && other.experts_ == experts_,
                 "routes take the place of others of their form");
    backend.copy(other.ids().flat(), ids_.view().flat());
    backend.copy(other.weights().flat(), weights_.view().flat());
  }

 private:
  tensor_t<Backend, std::int32_t, 2> ids_;
  tensor_t<Backend, accum_t<Backend>, 2> weights_;
  index experts_;
};

/// The router's decision for these logits with the forced experts in place of its choice: affinities are its own, and so are the weights
/// unless they are forced too. A bias on the choice does not count. Renormalised weights are NaN where all affinities of a token's forced
/// experts round to zero. @pre as many tokens and active experts as `forced` was checked for
/// @throws usage_error for a router that does not weigh, unless weights are forced too
template <class Backend, router<Backend> Router>
[[nodiscard]] routing<Backend> route_forced(Backend& backend, const Router& choose, view_t<Backend, const accum_t<Backend>, 2> logits,
                                            view_t<Backend, const accum_t<Backend>, 1> bias, const placed_routes<Backend>& forced) {
  routing<Backend> decision = route_with_bias<Backend>(backend, choose, logits, bias);
  ESFT_EXPECTS(forced.ids().shape() == decision.ids.shape(), "forced routes were checked for this many tokens and active experts");
  backend.copy(forced.ids().flat(), decision.ids.view().flat());
  decision.counted = {};  // of the choice that is not taken
  if (forced.weighed()) {
    backend.copy(forced.weights().flat(), decision.weights.view().flat());
  } else {
    weigh_with<Backend>(backend, choose, std::as_const(decision.probabilities).view(), forced.ids(), decision.weights.view());
  }
  return decision;
}

}  // namespace esft
