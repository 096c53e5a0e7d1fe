// SPDX-License-Identifier: Apache-2.0
// Lesson 4. Your own router, held against the laws of its concept, then differentiated through by the MoE layer.
#include <esft/backend.hpp>
#include <esft/core/ranking.hpp>
#include <esft/moe.hpp>

#include <cmath>
#include <cstdio>

/// s = sigmoid(z); the K largest s + b are chosen; g = s of the chosen. The bias b steers the load, without a gradient (arXiv 2408.15664).
template <esft::moe_backend B, class A = esft::accum_t<B>>
struct sigmoid_router {
  using sums = esft::view_t<B, const A, 2>;
  esft::index chosen;   // K
  std::vector<A> bias;  // [E]
  esft::index active() const { return chosen; }
  esft::routing<B> route(B& backend, sums z) const {
    auto ids = backend.template make_tensor<std::int32_t>(esft::extents<2>{z.extent(0), chosen});  // [T, K]
    auto g = backend.template make_tensor<A>(ids.shape());                                         // [T, K]
    auto s = backend.template make_tensor<A>(z.shape());                                           // [T, E]
    backend.for_each(z.extent(0), [&, ids = ids.view(), g = g.view(), s = s.view()](esft::index t) {
      std::vector<A> rank = bias;
      for (esft::index e = 0; e < z.extent(1); ++e) {
        s(t, e) = z(t, e) == z(t, e) ? 1 / (1 + std::exp(-z(t, e))) : A(0);  // NaN comes last
        rank[static_cast<std::size_t>(e)] += s(t, e);
      }
      const auto order = esft::descending_order(std::span<const A>(rank));  // ties go to the lower id
      for (esft::index k = 0; k < chosen; ++k) {
        ids(t, k) = order[static_cast<std::size_t>(k)].value;
        g(t, k) = s(t, ids(t, k));
      }
    });
    return {std::move(ids), std::move(g), std::move(s)};
  }
  // dz = ds s (1 - s), where ds = dg for the chosen + `extra`, the gradient of an auxiliary loss (may be empty)
  void backward(B& backend, const esft::routing<B>& d, sums dg, sums extra, esft::view_t<B, A, 2> dz) const {
    backend.for_each(dz.extent(0), [=, ids = d.ids.view(), s = d.probabilities.view()](esft::index t) {
      for (esft::index e = 0; e < dz.extent(1); ++e) dz(t, e) = extra.empty() ? A(0) : extra(t, e);
      for (esft::index k = 0; k < ids.extent(1); ++k) dz(t, ids(t, k)) += dg(t, k);
      for (esft::index e = 0; e < dz.extent(1); ++e) dz(t, e) *= s(t, e) * (1 - s(t, e));
    });
  }
};

int main() {
  using cpu = esft::reference_backend<double>;
  static_assert(esft::router<sigmoid_router<cpu>, cpu>);  // if not, the compiler names what is missing
  cpu backend;
  const sigmoid_router<cpu> router{2, {0, 0, 0, 0.5}};
  const double bits[] = {NAN, 1, -INFINITY, 0};  // law: any bits give K distinct ids; here s + b = 0, 0.73, 0, 1
  const auto chosen = router.route(backend, {bits, {1, 4}}).ids;
  double x = 0;  // T = D = I = 1
  double y = 0;
  double dx = 0;
  double dy = 1;
  double w[] = {1, -2, 0.5, 0.25};
  double up[] = {.3, .4, .5, .6, .7, .8, .9, 1};
  double down[] = {1, 2, 3, 4};
  const auto lent = [](void*, void*) {};  // the memory is ours, the layer's tensors borrow it
  esft::moe_parameters<cpu> layer;
  layer.router.value = {w, {4, 1}, lent};
  layer.gate_up.value = {up, {4, 2, 1}, lent};
  layer.down.value = {down, {4, 1, 1}, lent};
  esft::moe_saved<cpu> saved;
  const auto f = [&](double at) {
    x = at;
    y = 0;
    esft::moe_forward<cpu>(backend, router, layer, {&x, {1, 1}}, {&y, {1, 1}}, saved);
    return y;
  };
  const double difference = (f(0.4 + 1e-5) - f(0.4 - 1e-5)) / 2e-5;  // law: the backward equals central differences
  const double value = f(0.4);                                       // and what `saved` holds is of this point
  esft::host_view<double, 2> out(&dx, {1, 1});
  esft::moe_backward<cpu>(backend, router, layer, {&dy, {1, 1}}, {&x, {1, 1}}, saved, &out);
  std::printf("y %.6f, dy/dx: backward %.9f, central difference %.9f\n", value, dx, difference);
  return std::abs(dx - difference) < 1e-9 && chosen.view()(0, 0) == 3 && chosen.view()(0, 1) == 1 ? 0 : 1;
}
