// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Low-rank experts beside a frozen matrix: a router sends each token to a few pairs of factors, whose products are added to the matrix's.

#include <esft/moe/balance_loss.hpp>
#include <esft/moe/low_rank_experts.hpp>
#include <esft/moe/routers/null_experts.hpp>
#include <esft/nn/linear.hpp>

#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

/// Of one routed row with t = s x A^T and dt = s dy B: its gate's gradient <dy, t B^T> = <dt, t> / s; then both get the gate's factor.
template <class Backend>
struct weigh_inner_rows {
  view_t<Backend, const std::int32_t, 1> slot;
  view_t<Backend, const accum_t<Backend>, 1> weights;
  double scale;
  view_t<Backend, value_t<Backend>, 2> t, dt;
  view_t<Backend, accum_t<Backend>, 1> dweights;
  ESFT_HOST_DEVICE void operator()(index r) const {
    using T = value_t<Backend>;
    using A = accum_t<Backend>;
    if (slot[r] == no_expert) return;
    const A weight = weights[slot[r]];
    A sum{};
    for (index c = 0; c < t.extent(1); ++c) {
      const A here = static_cast<A>(t(r, c));
      const A there = static_cast<A>(dt(r, c));
      sum += here * there;
      t(r, c) = static_cast<T>(weight * here);
      dt(r, c) = static_cast<T>(weight * there);
    }
    dweights[slot[r]] = sum / static_cast<A>(scale);
  }
};

/// The products are those of routed experts that have factors (`low_rank_experts.hpp`), over rows that all share one matrix.
template <moe_backend Backend>
class routed_low_rank final : public low_rank_mixture<Backend> {
 public:
  using typename low_rank_mixture<Backend>::rows;
  using typename low_rank_mixture<Backend>::const_rows;

  void forward(Backend& backend, const_rows x, rows y) const override {
    with_router([&](const auto& choose) {
      const auto [decision, plan] = choose_pairs(backend, choose, x);
      auto outputs = backend.template make_tensor<value_t<Backend>>(extents<2>{plan.row_slot.size(), y.extent(1)});
      backend.fill(outputs.view(), value_t<Backend>{});
      static_cast<void>(routed_low_rank_forward<Backend>(backend, input(x, plan), plan.offsets.view(), this->pairs, outputs.view()));
      backend.combine(std::as_const(outputs).view(), plan.slot_row.view(), decision.weights.view(), y, write_mode::accumulate);
    });
  }

  void backward(Backend& backend, const_rows dy, const_rows x, rows* dx) override {
    with_router([&](const auto& choose) {
      const auto [decision, plan] = choose_pairs(backend, choose, x);  // once more: cheap, and the forward pass need keep nothing
      const auto offsets = plan.offsets.view();
      const auto slots = plan.row_slot.view();
      const routed_rows<Backend> routed_dy(backend, dy, plan, this->how.active);
      auto t = routed_low_rank_inner<Backend>(backend, input(x, plan), offsets, this->pairs);
      auto dt = routed_low_rank_dt(backend, routed_dy(), slots.size(), offsets, this->pairs);
      auto dweights = backend.template make_tensor<accum_t<Backend>>(decision.weights.shape());
      backend.for_each(slots.size(), weigh_inner_rows<Backend>{slots, decision.weights.view().flat(), this->pairs.how.scale(), t.view(),
                                                               dt.view(), dweights.view().flat()});
      if (this->pairs.trained()) {
        routed_low_rank_dw<Backend>(backend, routed_dy(), std::as_const(dt).view(), std::as_const(t).view(), input(x, plan), offsets,
                                    this->pairs);
      }
      if (dx != nullptr) {
        auto row_dx = backend.template make_tensor<value_t<Backend>>(extents<2>{slots.size(), x.extent(1)});
        backend.fill(row_dx.view(), value_t<Backend>{});
        routed_low_rank_dx<Backend>(backend, std::as_const(dt).view(), slots, offsets, this->pairs, row_dx.view());
        backend.gather_sum(std::as_const(row_dx).view(), plan.slot_row.view(), *dx, write_mode::accumulate);
      }
      balance_gradient<Backend> extra;
      if (this->how.balance > 0) {
        extra = balance_loss(backend, decision, balance_terms{.expert = this->how.balance}, this->pass.sample, this->pass.balance_scale);
        this->pass.balance_loss += extra.loss;
      }
      auto dlogits = backend.template make_tensor<accum_t<Backend>>(decision.probabilities.shape());
      choose.backward(backend, decision, std::as_const(dweights).view(), std::as_const(extra.dprobabilities).view(), dlogits.view());
      logits_backward<Backend>(backend, std::as_const(dlogits).view(), x, this->router, dx, write_mode::accumulate);
    });
  }

 private:
  template <class Use>
  void with_router(Use&& use) const {
    if (this->how.null_experts > 0) return use(null_experts_router(this->how.active, this->how.null_experts));
    use(softmax_topk_router(this->how.active, this->how.active > 1));
  }
  template <class Router>
  [[nodiscard]] std::pair<routing<Backend>, dispatch_plan<Backend>> choose_pairs(Backend& backend, const Router& choose,
                                                                                 const_rows x) const {
    auto logits = backend.template make_tensor<accum_t<Backend>>(extents<2>{x.extent(0), this->router.value.extent(0)});
    logits_forward(backend, x, this->router, logits.view());
    auto decision = choose.route(backend, std::as_const(logits).view());
    auto plan = plan_dispatch(backend, std::as_const(decision.ids).view(), this->how.experts);
    return {std::move(decision), std::move(plan)};
  }
  [[nodiscard]] input_rows<Backend> input(const_rows x, const dispatch_plan<Backend>& plan) const {
    return {x, plan.row_slot.view(), this->how.active, 0};
  }
};

}  // namespace detail

/// Puts `mixture.experts` pairs of factors and their router beside a matrix. A and the router are uniform in +-1/sqrt(K), B is zero, so
/// that the sum begins as W x. Values are a pure function of (seed, stream, pair); pair 0 is the one that `make_low_rank` would make.
/// @pre 1 <= k <= N + M, N >= 1 (the plans make routers from 2 on), and k > 1 where there are null experts: the gate of a lone choice
///      would be 1 whatever the router says
template <moe_backend Backend, parameter_role Role>
void make_low_rank_mixture(Backend& backend, weight<Backend, 2, Role>& w, const low_rank_options& how,
                           const low_rank_mixture_options& mixture, std::uint64_t stream) {
  const int choices = mixture.experts + mixture.null_experts;
  ESFT_EXPECTS(mixture.experts >= 1 && mixture.null_experts >= 0 && mixture.active >= 1 && mixture.active <= choices,
               "a token uses between 1 and N + M low-rank experts");
  ESFT_EXPECTS(mixture.null_experts == 0 || mixture.active > 1, "null experts need more than one choice a token");
  auto made = std::make_unique<detail::routed_low_rank<Backend>>();
  std::vector<std::int32_t> all(static_cast<std::size_t>(mixture.experts));
  std::iota(all.begin(), all.end(), 0);
  const auto [rows, columns] = w.part_shape();
  detail::begin_low_rank(backend, made->pairs, {rows, columns}, how, std::move(all), stream);
  made->how = mixture;
  allocate(backend, made->router, extents<2>{choices, columns});
  const std::vector<float> values = detail::low_rank_values(choices * columns, columns, how.seed, stream, 0xffffffffU);
  copy_in(backend, std::span<const float>(values), made->router);
  w.mixture = std::move(made);
}

}  // namespace esft
