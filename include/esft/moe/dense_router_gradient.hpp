// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The router's gradient as if every expert had answered: what an expert that was not chosen would have added counts too.

#include <esft/moe/clamped_swiglu.hpp>
#include <esft/moe/expert_bias.hpp>
#include <esft/moe/low_rank_experts.hpp>
#include <esft/moe/routed_rows.hpp>

#include <algorithm>

namespace esft {

namespace detail {

/// Slot e of a token is expert e, unless the token has it already.
template <class Backend>
struct unselected_row {
  view_t<Backend, const std::int32_t, 2> chosen;  // [T, K]
  view_t<Backend, std::int32_t, 2> others;        // [T, E]
  ESFT_HOST_DEVICE void operator()(index t) const {
    for (index e = 0; e < others.extent(1); ++e) others(t, e) = static_cast<std::int32_t>(e);
    for (index k = 0; k < chosen.extent(1); ++k) {
      if (chosen(t, k) >= 0 && chosen(t, k) < others.extent(1)) others(t, chosen(t, k)) = no_expert;
    }
  }
};

/// dprobabilities[t, e] += (gate weight per unit of affinity) <dy_t, output> for the row of each expert that token t did not take.
template <class Backend>
struct unselected_gradient_row {
  view_t<Backend, const value_t<Backend>, 2> outputs, dy;
  view_t<Backend, const std::int32_t, 1> slot;
  view_t<Backend, const std::int32_t, 2> ids;
  view_t<Backend, const accum_t<Backend>, 2> weights, probabilities;
  view_t<Backend, accum_t<Backend>, 2> dprobabilities;
  index experts;

  ESFT_HOST_DEVICE void operator()(index r) const {
    using A = accum_t<Backend>;
    if (slot[r] == no_expert) return;
    const index t = slot[r] / experts;
    A gates{};
    A affinities{};
    for (index k = 0; k < ids.extent(1); ++k) {
      if (ids(t, k) == no_expert) continue;
      gates += weights(t, k);
      affinities += probabilities(t, ids(t, k));
    }
    if (!(affinities > A{})) return;
    A answer{};
    for (index d = 0; d < dy.extent(1); ++d) answer += static_cast<A>(dy(t, d)) * static_cast<A>(outputs(r, d));
    dprobabilities(t, slot[r] % experts) += gates / affinities * answer;
  }
};

}  // namespace detail

/// Adds to the gradient of the affinities what the experts that a token did not take would have answered:
/// dp[t, e] += c <dy_t, expert_e(x_t)>, where c is the gate weight per unit of affinity, taken as constant (the factor of the gates, over
/// the sum of the chosen affinities where these are renormalised). The layer's output and the gradients of its experts do not change; only
/// the router learns from it.
/// @shape x, dy [T, D], dprobabilities as `decision.probabilities`; p: `moe_parameters`
/// @source DenseMixer, https://fengyao.notion.site/moe-posttraining, and its code: straight-through gradient of the dense mixture
/// @cost the forward of (E - K) / K times as many rows, by blocks of tokens: scratch as for the K experts of all tokens
template <moe_backend Backend, class Parameters>
void add_dense_router_gradient(Backend& backend, const Parameters& p, view_t<Backend, const value_t<Backend>, 2> x,
                               view_t<Backend, const value_t<Backend>, 2> dy, const routing<Backend>& decision,
                               view_t<Backend, accum_t<Backend>, 2> dprobabilities) {
  using T = value_t<Backend>;
  const index tokens = x.extent(0);
  const index experts = p.gate_up.value.extent(0);
  const index block = std::max<index>(1, tokens * decision.ids.extent(1) / experts);
  for (index begin = 0; begin < tokens; begin += block) {
    const index end = std::min(tokens, begin + block);
    const auto ids = decision.ids.view().slice(begin, end);
    auto others = backend.template make_tensor<std::int32_t>(extents<2>{end - begin, experts});
    backend.for_each(end - begin, detail::unselected_row<Backend>{ids, others.view()});
    const auto plan = plan_dispatch(backend, std::as_const(others).view(), experts);
    const auto offsets = plan.offsets.view();
    const auto slots = plan.row_slot.view();
    auto h = backend.template make_tensor<T>(extents<2>{slots.size(), p.down.value.extent(2)});
    {
      auto gate_up = backend.template make_tensor<T>(extents<2>{slots.size(), p.gate_up.value.extent(1)});
      const detail::routed_rows<Backend> routed(backend, x.slice(begin, end), plan, experts);
      backend.grouped_linear(routed(), p.gate_up.matrix(), offsets, gate_up.view());
      if (p.gate_up.low_rank)
        routed_low_rank_forward<Backend>(backend, {x.slice(begin, end), slots, experts, 0}, offsets, *p.gate_up.low_rank, gate_up.view());
      add_expert_bias(backend, p.gate_up_bias, offsets, gate_up.view());
      activate_experts<Backend>(backend, p.clamp, std::as_const(gate_up).view(), h.view());
    }
    auto outputs = backend.template make_tensor<T>(extents<2>{slots.size(), x.extent(1)});
    backend.grouped_linear(std::as_const(h).view(), p.down.matrix(), offsets, outputs.view());
    if (p.down.low_rank)
      routed_low_rank_forward<Backend>(backend, {std::as_const(h).view(), slots, 0, 0}, offsets, *p.down.low_rank, outputs.view());
    add_expert_bias(backend, p.down_bias, offsets, outputs.view());
    const auto weights = decision.weights.view().slice(begin, end);
    const auto probabilities = decision.probabilities.view().slice(begin, end);
    backend.for_each(slots.size(),
                     detail::unselected_gradient_row<Backend>{std::as_const(outputs).view(), dy.slice(begin, end), slots, ids, weights,
                                                              probabilities, dprobabilities.slice(begin, end), experts});
  }
}

}  // namespace esft
