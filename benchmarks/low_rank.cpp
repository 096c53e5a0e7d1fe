// SPDX-License-Identifier: Apache-2.0
// Low-rank factors beside the experts of a layer, rank 8, against the same layer frozen: forward and backward down to the layer's input.
// A turn runs the frozen layer, the adapted one twice, the frozen one; the counter `against_frozen` is the median of their ratio.
#include "ceilings.hpp"
#include "random.hpp"
#include "replayed_routes.hpp"
#include "routing.hpp"
#include "timing.hpp"
#include "weights.hpp"

#include <esft/moe/routers/softmax_topk.hpp>
#include <esft/nn/low_rank.hpp>

#include <benchmark/benchmark.h>

#include <numeric>
#include <utility>
#include <vector>

namespace esft::bench {
namespace {

/// Factors beside the experts that count: gradients, and a B that is not zero.
template <class Backend, parameter_role Role>
void adapt(Backend& b, weight<Backend, 3, Role>& w, const std::vector<std::int32_t>& experts, std::uint64_t seed) {
  make_low_rank(b, w, {}, experts, seed);
  fill_random(w.low_rank->b.value.data(), w.low_rank->b.value.size(), seed, 0.01F);
  w.low_rank->a.train(b);
  w.low_rank->b.train(b);
}

template <class T>
void adapted_layer(benchmark::State& state, const bench_case& c) {
  eigen_backend<T> b(c.threads);
  auto& layer = layer_weights<T>(*c.shape);
  layer.gate_up.freeze();
  layer.down.freeze();
  const auto ids = routed_ids(*c.shape, c.tokens, c.routing);
  std::vector<std::int32_t> experts(static_cast<std::size_t>(c.shape->experts));
  std::iota(experts.begin(), experts.end(), 0);
  if (c.selection != "all") experts = selected_experts(*c.shape, ids, c.selection);
  const auto x = random_tensor<T>(extents<2>{c.tokens, c.shape->width}, 31);
  const auto dy = random_tensor<T>(extents<2>{c.tokens, c.shape->width}, 32, 0.01F);
  auto y = b.template make_tensor<T>(extents<2>{c.tokens, c.shape->width});
  auto dx = b.template make_tensor<T>(extents<2>{c.tokens, c.shape->width});
  auto dx_view = dx.view();
  const softmax_topk_router choose(c.shape->active);
  const auto routes = replayed_routes(b, c, ids);
  const auto seconds = [&] {
    return seconds_of([&] {
      moe_saved<eigen_backend<T>> saved;
      b.fill(y.view(), T(0));
      moe_forward(b, choose, layer, x.view(), y.view(), saved, &routes);
      moe_backward(b, choose, layer, dy.view(), x.view(), saved, &dx_view);
    });
  };
  decltype(layer.gate_up.low_rank) gate_up;
  decltype(layer.down.low_rank) down;
  adapt(b, layer.gate_up, experts, 41);
  adapt(b, layer.down, experts, 42);
  const auto swap = [&] {
    std::swap(gate_up, layer.gate_up.low_rank);
    std::swap(down, layer.down.low_rank);
  };
  seconds(), swap(), seconds();
  std::vector<double> ratios;
  const ceiling_watch watch(state, arithmetic_of(c.type), c.threads);
  for (auto _ : state) {
    const double before = seconds();
    swap();
    const double adapted = seconds() + seconds();
    swap();
    ratios.push_back(adapted / (before + seconds()));  // a machine that slows down meanwhile slows both
    state.SetIterationTime(adapted / 2);
  }
  state.counters["against_frozen"] = median(ratios);
  state.counters["slot_share"] = static_cast<double>(rows_of(ids, experts)) / static_cast<double>(c.rows());
  state.SetLabel(std::string(b.isa()));
  layer.gate_up.freeze();
  layer.down.freeze();
}

void add(bench_case c, const std::string& selection) {
  c.selection = selection;
  benchmark::RegisterBenchmark(c.name("layer_low_rank", "esft").c_str(), [c](benchmark::State& state) {
    c.type == element::bf16 ? adapted_layer<bf16>(state, c) : adapted_layer<float>(state, c);
  })->UseManualTime()->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  for (const bench_case& c : all_cases()) {
    if (c.routing != "uniform" && c.routing != "zipf" && !is_published(c.routing)) continue;
    add(c, "all");
    if (is_published(c.routing)) add(c, c.routing);
  }
  return true;
}();

}  // namespace
}  // namespace esft::bench
