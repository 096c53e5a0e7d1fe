// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The MoE layer: router, routed experts (any subset trained), shared experts. Forward beside backward; needs only a `moe_backend`.

#include <esft/core/reflect.hpp>
#include <esft/moe/balance_loss.hpp>
#include <esft/moe/clamped_swiglu.hpp>
#include <esft/moe/dense_router_gradient.hpp>
#include <esft/moe/expert_bias.hpp>
#include <esft/moe/low_rank_experts.hpp>
#include <esft/moe/placed_routes.hpp>
#include <esft/moe/router.hpp>
#include <esft/moe/shared_gate.hpp>
#include <esft/nn/bias.hpp>
#include <esft/nn/buffer.hpp>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace esft {

/// Parameters: router [E, D], and a further row for each null expert of a router that has such; experts stacked, gate_up [E, 2I, D]
/// (gate rows first, or rows of gate and up in turn where the activation is clamped), down [E, D, I]; shared experts as one block;
/// biases of the router [E] and of the experts [E, 2I, 1], [E, D, 1].
template <class Backend>
struct moe_parameters {
  using router_weight = weight<Backend, 2, parameter_role::router>;
  using gate_up_weight = weight<Backend, 3, parameter_role::expert_gate_up>;
  using down_weight = weight<Backend, 3, parameter_role::expert_down>;
  using shared_block = swiglu_parameters<Backend, parameter_role::shared_gate_up, parameter_role::shared_down>;
  using shared_gate_weight = weight<Backend, 2, parameter_role::shared_gate>;       // [1, D], where the shared experts have a gate
  using router_bias_weight = weight<Backend, 1, parameter_role::router_bias>;
  using gate_up_bias_weight = weight<Backend, 3, parameter_role::expert_gate_up_bias>;
  using down_bias_weight = weight<Backend, 3, parameter_role::expert_down_bias>;
  using choice_bias_buffer = buffer<Backend, parameter_role::choice_bias>;  // [E], for a `biased_router`
  ESFT_DEFINE_STRUCT(moe_parameters, (router_weight, router), (gate_up_weight, gate_up), (down_weight, down), (shared_block, shared),
                     (shared_gate_weight, shared_gate), (choice_bias_buffer, choice_bias), (router_bias_weight, router_bias),
                     (gate_up_bias_weight, gate_up_bias), (down_bias_weight, down_bias));
  swiglu_clamp clamp{};  ///< of the experts' activation: a constant of the model

  [[nodiscard]] bool exists() const noexcept { return router.exists(); }
  [[nodiscard]] bool trained() const noexcept {
    return router_learns() || experts_learn() || shared.trained() || shared_gate.learns();
  }
  [[nodiscard]] bool router_learns() const noexcept { return router.learns() || router_bias.trained(); }
  [[nodiscard]] bool experts_learn() const noexcept {
    return gate_up.learns() || down.learns() || gate_up_bias.trained() || down_bias.trained();
  }
  /// Whether nothing but SwiGLU and factors without dropout comes between what enters an expert and what leaves it.
  [[nodiscard]] bool experts_are_plain() const noexcept {
    const auto drops = [](const auto& pair) { return pair && detail::drops(*pair); };
    return !gate_up_bias.exists() && !clamp.exists() && !drops(gate_up.low_rank) && !drops(down.low_rank);
  }
};

/// What the backward needs beside the layer's input: the decision, and the experts' pre-activations.
template <class Backend>
struct moe_saved {
  routing<Backend> decision;
  bool constant_weights = false;  ///< the decision's weights were forced: nothing is learned from them
  dispatch_plan<Backend> plan;
  tensor_t<Backend, value_t<Backend>, 2> gate_up;  ///< @shape [R, 2I], rows sorted by expert
  tensor_t<Backend, value_t<Backend>, 2> gate_up_inner, down_inner;  ///< scale * input A^T where the experts have factors; [R, r]
  swiglu_saved<Backend> shared;
  shared_gate_saved<Backend> shared_gate;
};

/// Auxiliary losses of one layer, and how its router learns.
template <class Backend>
struct balance_options {
  balance_terms terms{};
  double z = 0;                                     ///< coefficient of `z_loss`
  view_t<Backend, const std::int32_t, 1> sample{};  ///< [T], -1 marks padding; empty: all tokens count
  double gradient_scale = 1;                        ///< on the auxiliary gradient
  bool dense_router_gradient = false;               ///< a trained router learns from all experts: `add_dense_router_gradient`
  std::span<const double> slope{};                  ///< [E] as for `balance_loss`: of a loss over several layers, which is not returned
};

namespace detail {
/// Logits of the router with its bias. @shape result [T, E]
template <class Backend>
[[nodiscard]] auto router_logits(Backend& backend, const moe_parameters<Backend>& p, view_t<Backend, const value_t<Backend>, 2> x) {
  auto logits = backend.template make_tensor<accum_t<Backend>>(extents<2>{x.extent(0), p.router.value.extent(0)});
  logits_forward(backend, x, p.router, logits.view());
  add_bias(backend, p.router_bias, logits.view());
  return logits;
}

/// Experts of which a weight or the inner bias is trained, or a weight has factors, ascending.
template <class Backend>
[[nodiscard]] std::vector<std::int32_t> experts_that_learn(const moe_parameters<Backend>& p) {
  std::vector<std::int32_t> result;
  const auto join = [&](const std::vector<std::int32_t>& more) {
    std::vector<std::int32_t> before;
    before.swap(result);
    std::set_union(before.begin(), before.end(), more.begin(), more.end(), std::back_inserter(result));
  };
  join(p.gate_up.selected);
  join(p.down.selected);
  join(p.gate_up_bias.selected);
  if (p.gate_up.low_rank) join(p.gate_up.low_rank->experts);
  if (p.down.low_rank) join(p.down.low_rank->experts);
  return result;
}
/// The factors beside a stack as an operand of grouped products, and room in `inner` for what passes through them; nothing for no factors.
template <class Backend, class Weight>
[[nodiscard]] std::optional<factors_t<Backend>> factors_beside(Backend& backend, const Weight& w, index rows,
                                                               tensor_t<Backend, value_t<Backend>, 2>& inner) {
  if (!w.low_rank) return std::nullopt;
  const auto& f = *w.low_rank;
  inner = backend.template make_tensor<value_t<Backend>>(extents<2>{rows, f.how.rank});
  return factors_t<Backend>{f.a.matrix(), f.b.matrix(), f.experts, static_cast<float>(f.how.scale()), inner.view()};
}
template <class T>
[[nodiscard]] const T* pointer_to(const std::optional<T>& value) noexcept {
  return value ? &*value : nullptr;
}

/// The routed experts' outputs before their gate weights and biases of down; fills what `saved` keeps of them.
/// @shape x [T, D], y [R, D] @pre saved.gate_up has its extents
template <moe_backend Backend>
void routed_experts_forward(Backend& backend, const moe_parameters<Backend>& p, view_t<Backend, const value_t<Backend>, 2> x, index active,
                            moe_saved<Backend>& saved, view_t<Backend, value_t<Backend>, 2> y) {
  const auto offsets = std::as_const(saved.plan.offsets).view();
  const auto slots = std::as_const(saved.plan.row_slot).view();
  if constexpr (has_grouped_mlp<Backend>) {
    if (p.experts_are_plain()) {
      const routed_rows<Backend> routed(backend, x, saved.plan, active);
      const auto gate_up_factors = factors_beside(backend, p.gate_up, y.extent(0), saved.gate_up_inner);
      const auto down_factors = factors_beside(backend, p.down, y.extent(0), saved.down_inner);
      if (backend.grouped_mlp(routed(), p.gate_up.matrix(), p.down.matrix(), offsets, pointer_to(gate_up_factors),
                              pointer_to(down_factors), saved.gate_up.view(), y)) {
        return;
      }
    }
  }
  auto h = backend.template make_tensor<value_t<Backend>>(extents<2>{y.extent(0), p.down.value.extent(2)});
  {
    const routed_rows<Backend> routed(backend, x, saved.plan, active);
    bool activated = false;
    if constexpr (has_grouped_swiglu<Backend>) {
      activated = !p.gate_up.low_rank && !p.gate_up_bias.exists() && !p.clamp.exists();
      if (activated) backend.grouped_swiglu(routed(), p.gate_up.matrix(), offsets, saved.gate_up.view(), h.view());
    }
    if (!activated) backend.grouped_linear(routed(), p.gate_up.matrix(), offsets, saved.gate_up.view());
    if (p.gate_up.low_rank) {
      saved.gate_up_inner = routed_low_rank_forward<Backend>(backend, {x, slots, active, 0}, offsets, *p.gate_up.low_rank,
                                                             saved.gate_up.view());
    }
    add_expert_bias(backend, p.gate_up_bias, offsets, saved.gate_up.view());
    if (!activated) activate_experts<Backend>(backend, p.clamp, std::as_const(saved.gate_up).view(), h.view());
  }
  backend.grouped_linear(h.view(), p.down.matrix(), offsets, y);
  if (p.down.low_rank) {
    saved.down_inner = routed_low_rank_forward<Backend>(backend, {std::as_const(h).view(), slots, 0, 0}, offsets, *p.down.low_rank, y);
  }
}

/// From what comes back to the experts' outputs to their pre-activations: dgate_up, weighted_h and dweights. Where nothing is asked for but
/// gradients of experts, only the rows of those that learn are computed, if the offsets can be read without waiting for a device; the
/// others' are unspecified. @param down_dt what `routed_low_rank_dt` gives for down's factors, if any @shape dy [R, D]
template <moe_backend Backend, class Rows>
void routed_experts_backward(Backend& backend, const moe_parameters<Backend>& p, const Rows& dy, const moe_saved<Backend>& saved,
                             bool every_row, tensor_t<Backend, value_t<Backend>, 2>& down_dt, view_t<Backend, value_t<Backend>, 2> dgate_up,
                             view_t<Backend, value_t<Backend>, 2> weighted_h, view_t<Backend, accum_t<Backend>, 2> dweights) {
  const auto offsets = saved.plan.offsets.view();
  const auto slots = saved.plan.row_slot.view();
  const auto weights = saved.decision.weights.view();
  auto dh = backend.template make_tensor<value_t<Backend>>(weighted_h.shape());
  const bool whole = every_row || !std::same_as<typename Backend::memory_space, host_space>;
  const auto learning = whole ? std::vector<std::int32_t>{} : experts_that_learn(p);
  if (whole) {
    backend.grouped_linear_dx(dy, p.down.matrix(), offsets, dh.view());
  } else {
    for_selected_rows(backend, offsets, learning, [&](index s, index begin, index end) {
      const auto expert = part_of(p.down.matrix(), learning[static_cast<std::size_t>(s)]);
      const contiguous_part<Backend> part(backend, dy, begin, end);
      backend.linear_dx(part.rows, expert, dh.view().slice(begin, end), write_mode::overwrite);
    });
  }
  if (p.down.low_rank) {
    down_dt = routed_low_rank_dt(backend, dy, dh.extent(0), offsets, *p.down.low_rank);
    routed_low_rank_dx<Backend>(backend, down_dt.view(), slots, offsets, *p.down.low_rank, dh.view());
  }
  const auto activate = [&](index begin, index end) {
    const auto into = std::as_const(dh).view().slice(begin, end);
    activate_experts_backward<Backend>(backend, p.clamp, saved.gate_up.view().slice(begin, end), into, weights, slots.slice(begin, end),
                                       dgate_up.slice(begin, end), weighted_h.slice(begin, end), dweights);
  };
  if (whole) return activate(0, dh.extent(0));
  backend.fill(dweights, accum_t<Backend>{});
  for_selected_rows(backend, offsets, learning, [&](index, index begin, index end) { activate(begin, end); });
}
}  // namespace detail

/// y += sum over the K chosen experts of weight * expert(x), + shared(x). @shape x, y [T, D]
/// @param forced the experts that the tokens take in place of the router's choice; null: it chooses
/// @pre `forced` was checked for the tokens, active experts and experts of this layer
/// @throws usage_error for forced experts without weights and a router that does not weigh
/// @source DeepSeekMoE, arXiv 2401.06066, equations 9-11
/// @cost 6 R D I flops for the routed part, R = T K
template <moe_backend Backend, router<Backend> Router>
void moe_forward(Backend& backend, const Router& choose, const moe_parameters<Backend>& p, view_t<Backend, const value_t<Backend>, 2> x,
                 view_t<Backend, value_t<Backend>, 2> y, moe_saved<Backend>& saved,
                 const std::type_identity_t<placed_routes<Backend>>* forced = nullptr) {
  using T = value_t<Backend>;
  const index tokens = x.extent(0);
  const index rows = tokens * choose.active();
  const auto logits = detail::router_logits(backend, p, x);
  if (forced == nullptr) {
    saved.decision = route_with_bias<Backend>(backend, choose, logits.view(), p.choice_bias.value.view());
  } else {
    ESFT_EXPECTS(forced->experts() == p.gate_up.value.extent(0), "forced routes were checked for this many experts");
    saved.decision = route_forced<Backend>(backend, choose, logits.view(), p.choice_bias.value.view(), *forced);
  }
  saved.constant_weights = forced != nullptr && forced->weighed();
  saved.plan = plan_dispatch(backend, std::as_const(saved.decision.ids).view(), p.gate_up.value.extent(0));

  const auto offsets = std::as_const(saved.plan.offsets).view();
  saved.gate_up = backend.template make_tensor<T>(extents<2>{rows, p.gate_up.value.extent(1)});
  auto outputs = backend.template make_tensor<T>(extents<2>{rows, x.extent(1)});
  detail::routed_experts_forward(backend, p, x, choose.active(), saved, outputs.view());
  add_expert_bias(backend, p.down_bias, offsets, outputs.view());
  backend.combine(outputs.view(), saved.plan.slot_row.view(), saved.decision.weights.view(), y, write_mode::accumulate);
  if (p.shared_gate.exists()) {
    gated_shared_forward(backend, p.shared, p.shared_gate, x, y, saved.shared, saved.shared_gate);
  } else if (p.shared.exists()) {
    swiglu_forward(backend, p.shared, x, y, write_mode::accumulate, saved.shared);
  }
}

/// Adds the gradients of whatever is trained; overwrites dx unless it is null. Returns the auxiliary loss.
/// The gate's gradient flows into dx even where the router is frozen, save where the weights were forced; experts' weight gradients are
/// computed for the selected ones only. @pre no dense gradient of the router where the weights were forced
/// @shape dy, x, dx [T, D]
/// @eq with a = dy Wd: dgate = <a, h> (+ <dy, bd>), dWd = dy^T (g h), dh = g a (the expert outputs are never stored)
template <moe_backend Backend, router<Backend> Router>
double moe_backward(Backend& backend, const Router& choose, moe_parameters<Backend>& p, view_t<Backend, const value_t<Backend>, 2> dy,
                    view_t<Backend, const value_t<Backend>, 2> x, const moe_saved<Backend>& saved, view_t<Backend, value_t<Backend>, 2>* dx,
                    const balance_options<Backend>& balance = {}) {
  using T = value_t<Backend>;
  const index rows = saved.gate_up.extent(0);
  const index width = p.down.value.extent(2);
  const auto offsets = saved.plan.offsets.view();
  const auto slots = saved.plan.row_slot.view();
  double auxiliary = 0;
  ESFT_EXPECTS(!saved.constant_weights || !balance.dense_router_gradient, "a router learns through weights of its own only");

  if (dx != nullptr || p.experts_learn() || p.router_learns()) {
    std::optional<detail::routed_rows<Backend>> routed(std::in_place, backend, dy, saved.plan, choose.active());
    tensor_t<Backend, T, 2> down_dt;
    tensor_t<Backend, T, 2> gate_up_dt;
    tensor_t<Backend, T, 2> row_dx;
    auto dgate_up = backend.template make_tensor<T>(saved.gate_up.shape());
    auto weighted_h = backend.template make_tensor<T>(extents<2>{rows, width});
    auto dweights = backend.template make_tensor<accum_t<Backend>>(saved.decision.weights.shape());
    bool passed_on = false;  // down to row_dx
    if constexpr (has_grouped_mlp<Backend>) {
      if (p.experts_are_plain() && dx != nullptr) {
        row_dx = backend.template make_tensor<T>(extents<2>{rows, dy.extent(1)});
        const auto gate_up_factors = detail::factors_beside(backend, p.gate_up, rows, gate_up_dt);
        const auto down_factors = detail::factors_beside(backend, p.down, rows, down_dt);
        passed_on = backend.grouped_mlp_backward(
            (*routed)(), p.gate_up.matrix(), p.down.matrix(), offsets, detail::experts_that_learn(p),
            detail::pointer_to(gate_up_factors), detail::pointer_to(down_factors), std::as_const(saved.gate_up).view(),
            saved.decision.weights.view(), slots, dgate_up.view(), weighted_h.view(), row_dx.view(), dweights.view());
      }
    }
    if (!passed_on) {
      const bool every_row = dx != nullptr || p.router_learns();
      detail::routed_experts_backward<Backend>(backend, p, (*routed)(), saved, every_row, down_dt, dgate_up.view(), weighted_h.view(),
                                               dweights.view());
    }
    weighted_expert_bias_backward<Backend>(backend, dy, saved.decision.weights.view(), offsets, slots, p.down_bias, dweights.view());
    expert_bias_backward<Backend>(backend, std::as_const(dgate_up).view(), offsets, p.gate_up_bias);
    if (p.down.trained()) {
      backend.grouped_linear_dw((*routed)(), std::as_const(weighted_h).view(), offsets, p.down.selected, p.down.gradient_matrix());
    }
    if (p.down.low_rank && p.down.learns()) {
      const auto inner = weighted_inner<Backend>(backend, saved.down_inner.view(), saved.decision.weights.view(), slots);
      routed_low_rank_dw<Backend>(backend, (*routed)(), down_dt.view(), inner.view(), {std::as_const(weighted_h).view(), slots, 0, 0},
                                  offsets, *p.down.low_rank);
    }
    routed.reset();
    if (p.gate_up.trained()) {
      routed.emplace(backend, x, saved.plan, choose.active());
      backend.grouped_linear_dw(std::as_const(dgate_up).view(), (*routed)(), offsets, p.gate_up.selected, p.gate_up.gradient_matrix());
      routed.reset();
    }
    const auto dgate_up_rows = std::as_const(dgate_up).view();
    if (p.gate_up.low_rank && !passed_on) gate_up_dt = routed_low_rank_dt(backend, dgate_up_rows, rows, offsets, *p.gate_up.low_rank);
    if (p.gate_up.low_rank && p.gate_up.learns()) {
      routed_low_rank_dw<Backend>(backend, dgate_up_rows, gate_up_dt.view(), saved.gate_up_inner.view(), {x, slots, choose.active(), 0},
                                  offsets, *p.gate_up.low_rank);
    }
    if (dx != nullptr) {
      if (!passed_on) {
        row_dx = backend.template make_tensor<T>(extents<2>{rows, dy.extent(1)});
        backend.grouped_linear_dx(dgate_up.view(), p.gate_up.matrix(), offsets, row_dx.view());
        if (p.gate_up.low_rank) {
          routed_low_rank_dx<Backend>(backend, gate_up_dt.view(), slots, offsets, *p.gate_up.low_rank, row_dx.view());
        }
      }
      backend.gather_sum(row_dx.view(), saved.plan.slot_row.view(), *dx, write_mode::overwrite);
    }
    if (dx != nullptr || p.router_learns()) {
      auto dlogits = backend.template make_tensor<accum_t<Backend>>(saved.decision.probabilities.shape());
      balance_gradient<Backend> extra;
      if (balance.terms.any() || !balance.slope.empty()) {
        extra = balance_loss(backend, saved.decision, balance.terms, balance.sample, balance.gradient_scale, balance.slope);
        auxiliary = extra.loss;
      }
      if (balance.dense_router_gradient && p.router_learns()) {
        if (extra.dprobabilities.size() == 0) {
          extra.dprobabilities = backend.template make_tensor<accum_t<Backend>>(dlogits.shape());
          backend.fill(extra.dprobabilities.view(), accum_t<Backend>{});
        }
        add_dense_router_gradient(backend, p, x, dy, saved.decision, extra.dprobabilities.view());
      }
      if (saved.constant_weights) backend.fill(dweights.view(), accum_t<Backend>{});
      choose.backward(backend, saved.decision, std::as_const(dweights).view(), std::as_const(extra.dprobabilities).view(), dlogits.view());
      if (balance.z > 0) {
        const auto logits = detail::router_logits(backend, p, x);
        auxiliary += z_loss(backend, logits.view(), balance.z, balance.sample, balance.gradient_scale, dlogits.view());
      }
      bias_backward(backend, std::as_const(dlogits).view(), p.router_bias);
      logits_backward<Backend>(backend, std::as_const(dlogits).view(), x, p.router, dx, write_mode::accumulate);
    }
  }
  if (p.shared_gate.exists() && (dx != nullptr || p.shared.trained() || p.shared_gate.learns())) {
    gated_shared_backward(backend, p.shared, p.shared_gate, dy, x, saved.shared, saved.shared_gate, dx);
  } else if (p.shared.exists() && (dx != nullptr || p.shared.trained())) {
    swiglu_backward(backend, p.shared, dy, x, saved.shared, dx, write_mode::accumulate);
  }
  return auxiliary;
}

}  // namespace esft
