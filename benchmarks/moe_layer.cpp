// SPDX-License-Identifier: Apache-2.0
// Routed experts of one MoE layer, forward and backward, weight gradients of the selected experts; against a plain loop over experts.
#include "eigen_loop.hpp"
#include "random.hpp"

#include <esft/backends/eigen.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <utility>

namespace {

using esft::extents;
using esft::index;
using esft::write_mode;

struct shape {
  index tokens, width, inner, experts, active, selected;
  bool skewed;  ///< ids drawn with probability falling as 1 / (rank + 1) instead of evenly

  [[nodiscard]] index rows() const { return tokens * active; }
  [[nodiscard]] std::string name() const {
    return "D" + std::to_string(width) + "_I" + std::to_string(inner) + "_E" + std::to_string(experts) + "_K" + std::to_string(active) +
           "/T" + std::to_string(tokens) + (skewed ? "/zipf/" : "/uniform/") + std::to_string(selected) + "of" + std::to_string(experts);
  }
};

/// K distinct experts per token.
esft::host_tensor<std::int32_t, 2> route(const shape& s) {
  const esft::counter_rng rng(11, esft::rng_stream::test);
  auto ids = esft::make_host_tensor<std::int32_t, 2>({s.tokens, s.active});
  std::vector<double> weight(static_cast<std::size_t>(s.experts), 1);
  for (std::size_t e = 0; e < weight.size(); ++e) {
    if (s.skewed) weight[e] = 1 / static_cast<double>(e + 1);
  }
  std::uint64_t counter = 0;
  for (index t = 0; t < s.tokens; ++t) {
    std::vector<double> left = weight;
    for (index k = 0; k < s.active; ++k) {
      double total = 0;
      for (const double w : left) total += w;
      double at = rng.uniform(counter++) * total;
      std::size_t e = 0;
      while (e + 1 < left.size() && (at >= left[e] || left[e] == 0)) at -= left[e++];
      while (left[e] == 0) --e;
      left[e] = 0;
      ids.view()(t, k) = static_cast<std::int32_t>(e);
    }
  }
  return ids;
}

struct layer {
  explicit layer(const shape& s) : ids(route(s)) {
    x = esft::bench::random_tensor(extents<2>{s.tokens, s.width}, 1);
    dy = esft::bench::random_tensor(extents<2>{s.tokens, s.width}, 2);
    gate_up = esft::bench::random_tensor(extents<3>{s.experts, 2 * s.inner, s.width}, 3, 0.05);
    down = esft::bench::random_tensor(extents<3>{s.experts, s.width, s.inner}, 4, 0.05);
    weights = esft::bench::random_tensor(extents<2>{s.tokens, s.active}, 5);
    for (index e = 0; e < s.selected; ++e) selected.push_back(static_cast<std::int32_t>(e * s.experts / s.selected));
  }
  esft::host_tensor<std::int32_t, 2> ids;
  esft::host_tensor<float, 2> x, dy, weights;
  esft::host_tensor<float, 3> gate_up, down;
  std::vector<std::int32_t> selected;
};

/// Useful work only: 6 R D I forward, the same for the gradient of the rows, and 6 r D I for the r rows of selected experts.
double useful_flops(const shape& s, const layer& l) {
  double selected_rows = 0;
  for (index i = 0; i < l.ids.size(); ++i) {
    selected_rows += std::find(l.selected.begin(), l.selected.end(), l.ids.data()[i]) != l.selected.end() ? 1 : 0;
  }
  return 6.0 * static_cast<double>(s.width * s.inner) * (2 * static_cast<double>(s.rows()) + selected_rows);
}

template <class T>
void ours(benchmark::State& state, const shape& s, int threads) {
  const layer l(s);
  esft::eigen_backend<T> b(threads);
  const auto x = esft::bench::converted<T>(l.x);
  const auto dy = esft::bench::converted<T>(l.dy);
  const auto gate_up_weight = esft::bench::converted<T>(l.gate_up);
  const auto down_weight = esft::bench::converted<T>(l.down);
  auto d_gate_up_weight = esft::make_host_tensor<float, 3>({s.selected, 2 * s.inner, s.width});
  auto d_down_weight = esft::make_host_tensor<float, 3>({s.selected, s.width, s.inner});
  b.fill(d_gate_up_weight.view(), 0);
  b.fill(d_down_weight.view(), 0);
  auto y = b.template make_tensor<T>(extents<2>{s.tokens, s.width});
  auto dx = b.template make_tensor<T>(extents<2>{s.tokens, s.width});
  for (auto _ : state) {
    auto offsets = b.template make_tensor<std::int32_t>(extents<1>{s.experts + 1});
    auto row_slot = b.template make_tensor<std::int32_t>(extents<1>{s.rows()});
    auto slot_row = b.template make_tensor<std::int32_t>(extents<2>{s.tokens, s.active});
    b.dispatch(l.ids.view(), offsets.view(), row_slot.view(), slot_row.view());
    const auto at = std::as_const(offsets).view();
    auto rows = b.template make_tensor<T>(extents<2>{s.rows(), s.width});
    auto gate_up = b.template make_tensor<T>(extents<2>{s.rows(), 2 * s.inner});
    auto h = b.template make_tensor<T>(extents<2>{s.rows(), s.inner});
    auto out = b.template make_tensor<T>(extents<2>{s.rows(), s.width});
    b.gather(x.view(), std::as_const(row_slot).view(), s.active, rows.view());
    b.grouped_linear(std::as_const(rows).view(), gate_up_weight.view(), at, gate_up.view());
    b.swiglu(std::as_const(gate_up).view(), h.view());
    b.grouped_linear(std::as_const(h).view(), down_weight.view(), at, out.view());
    b.combine(std::as_const(out).view(), std::as_const(slot_row).view(), l.weights.view(), y.view(), write_mode::overwrite);

    auto dh = b.template make_tensor<T>(extents<2>{s.rows(), s.inner});
    auto d_gate_up = b.template make_tensor<T>(extents<2>{s.rows(), 2 * s.inner});
    auto dweights = b.template make_tensor<float>(extents<2>{s.tokens, s.active});
    b.gather(dy.view(), std::as_const(row_slot).view(), s.active, out.view());
    b.grouped_linear_dx(std::as_const(out).view(), down_weight.view(), at, dh.view());
    b.weighted_swiglu_backward(std::as_const(gate_up).view(), std::as_const(dh).view(), l.weights.view(), std::as_const(row_slot).view(),
                               d_gate_up.view(), h.view(), dweights.view());
    b.grouped_linear_dw(std::as_const(out).view(), std::as_const(h).view(), at, l.selected, d_down_weight.view());
    b.grouped_linear_dw(std::as_const(d_gate_up).view(), std::as_const(rows).view(), at, l.selected, d_gate_up_weight.view());
    b.grouped_linear_dx(std::as_const(d_gate_up).view(), gate_up_weight.view(), at, out.view());
    b.gather_sum(std::as_const(out).view(), std::as_const(slot_row).view(), dx.view(), write_mode::overwrite);
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] = benchmark::Counter(useful_flops(s, l), benchmark::Counter::kIsIterationInvariantRate);
}

void theirs(benchmark::State& state, const shape& s) {
  const layer l(s);
  auto y = esft::make_host_tensor<float, 2>({s.tokens, s.width});
  auto dx = esft::make_host_tensor<float, 2>({s.tokens, s.width});
  auto d_gate_up = esft::make_host_tensor<float, 3>({s.selected, 2 * s.inner, s.width});
  auto d_down = esft::make_host_tensor<float, 3>({s.selected, s.width, s.inner});
  auto dweights = esft::make_host_tensor<float, 2>({s.tokens, s.active});
  std::fill_n(d_gate_up.data(), d_gate_up.size(), 0.0F);
  std::fill_n(d_down.data(), d_down.size(), 0.0F);
  const esft::baseline::layer arguments{s.tokens,    s.width,          s.inner,          s.experts,     s.active,         l.x.data(),
                                        l.dy.data(), l.gate_up.data(), l.down.data(),    l.ids.data(),  l.weights.data(), l.selected,
                                        y.data(),    dx.data(),        d_gate_up.data(), d_down.data(), dweights.data()};
  for (auto _ : state) {
    esft::baseline::layer_step(arguments);
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] = benchmark::Counter(useful_flops(s, l), benchmark::Counter::kIsIterationInvariantRate);
}

const bool registered = [] {
  std::vector<shape> shapes;
  for (const index tokens : {64, 128, 256, 1536})
    shapes.push_back({tokens, 2048, 1408, 8, 2, 1, false});  // V2-Lite's experts, 16 to 384 rows
  for (const index tokens : {128, 256, 512, 4096}) shapes.push_back({tokens, 128, 64, 32, 4, 3, false});  // the bundled model's
  shapes.push_back({512, 128, 64, 32, 4, 3, true});
  shapes.push_back({256, 2048, 1408, 8, 2, 1, true});
  for (const shape& s : shapes) {
    for (const int threads : {1, 2}) {
      const std::string tail = "/" + s.name() + "/threads" + std::to_string(threads);
      auto* f = benchmark::RegisterBenchmark(("moe_layer/esft/float" + tail).c_str(),
                                             [=](benchmark::State& state) { ours<float>(state, s, threads); });
      auto* h = benchmark::RegisterBenchmark(("moe_layer/esft/bf16" + tail).c_str(),
                                             [=](benchmark::State& state) { ours<esft::bf16>(state, s, threads); });
      if (threads > 1) {
        f->UseRealTime();
        h->UseRealTime();
      }
    }
    benchmark::RegisterBenchmark(("moe_layer/eigen_loop/float/" + s.name() + "/threads1").c_str(),
                                 [=](benchmark::State& state) { theirs(state, s); });
  }
  return true;
}();

}  // namespace
