// SPDX-License-Identifier: Apache-2.0
// A MoE layer as a trainer calls it: router, dispatch, experts, combine, and back; the weights of the selected experts get gradients. There
// are no shared experts.
#include "baselines/eigen_layer.hpp"
#include "ceilings.hpp"
#include "layers.hpp"
#include "random.hpp"
#include "replayed_routes.hpp"
#include "routing.hpp"
#include "timing.hpp"
#include "weights.hpp"

#include <esft/moe/routers/softmax_topk.hpp>

#include <benchmark/benchmark.h>

#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace esft::bench {
namespace {

/// Useful work only: 6 R D I forward, the same for the gradient of the rows, and 6 r D I for the r rows of trained experts.
void count_layer(benchmark::State& state, const bench_case& c, const std::vector<std::int32_t>& selected, bool backward) {
  const auto ids = routed_ids(*c.shape, c.tokens, c.routing);
  const double expert = 6 * static_cast<double>(c.shape->width * c.shape->inner);
  const auto rows = static_cast<double>(c.rows());
  const auto trained_rows = static_cast<double>(rows_of(ids, selected));
  const double flops = expert * (backward ? 2 * rows + trained_rows : rows);
  const double peak = ceiling_of(arithmetic_of(c.type), c.threads);
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  if (peak > 0) state.counters["of_peak"] = benchmark::Counter(flops / peak, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["flops"] = flops;
  if (!selected.empty()) {
    state.counters["expert_share"] = static_cast<double>(selected.size()) / static_cast<double>(c.shape->experts);
    state.counters["slot_share"] = trained_rows / rows;
  }
}

/// The layer on a backend of its own, with inputs and results.
template <class T>
class layer_run {
 public:
  layer_run(const bench_case& c, int threads)
      : b_(threads),
        layer_(layer_weights<T>(*c.shape)),
        x_(random_tensor<T>(extents<2>{c.tokens, c.shape->width}, 31)),
        dy_(random_tensor<T>(extents<2>{c.tokens, c.shape->width}, 32, 0.01F)),
        y_(b_.template make_tensor<T>(extents<2>{c.tokens, c.shape->width})),
        dx_(b_.template make_tensor<T>(extents<2>{c.tokens, c.shape->width})),
        choose_(c.shape->active),
        routes_(replayed_routes(b_, c, routed_ids(*c.shape, c.tokens, c.routing))) {}

  void train(const std::vector<std::int32_t>& selected) {
    if (layer_.gate_up.selected == selected) return;
    layer_.gate_up.train(b_, selected);
    layer_.down.train(b_, selected);
  }
  void forward() {
    b_.fill(y_.view(), T(0));
    moe_forward(b_, choose_, layer_, x_.view(), y_.view(), saved_, &routes_);
  }
  void backward() {
    auto dx = dx_.view();
    moe_backward(b_, choose_, layer_, dy_.view(), x_.view(), saved_, &dx);
  }
  [[nodiscard]] std::string isa() const { return std::string(b_.isa()); }
  /// What `dump_layer` says.
  void write(std::ostream& to) const {
    const auto put = [&](const T* from, index count) {
      to.write(reinterpret_cast<const char*>(from), static_cast<std::streamsize>(count) * static_cast<std::streamsize>(sizeof(T)));
    };
    const auto put_rows = [&](const auto& weight, index rows, index columns) {
      const matrix_layout layout = weight.layout();
      std::vector<T> row(static_cast<std::size_t>(columns));
      for (index first = 0; first < weight.value.size(); first += rows * columns) {  // of an expert
        for (index i = 0; i < rows; ++i) {
          for (index j = 0; j < columns; ++j) row[static_cast<std::size_t>(j)] = weight.value.data()[first + layout.offset(i, j, columns)];
          put(row.data(), columns);
        }
      }
    };
    const index width = x_.extent(1);
    put(x_.data(), x_.size());
    put(dy_.data(), dy_.size());
    put_rows(layer_.router, layer_.router.value.extent(0), width);
    put_rows(layer_.gate_up, layer_.gate_up.value.extent(1), width);
    put_rows(layer_.down, width, layer_.down.value.extent(2));
    put(y_.data(), y_.size());
    put(dx_.data(), dx_.size());
  }

 private:
  eigen_backend<T> b_;
  layer_parameters<T>& layer_;
  const host_tensor<T, 2> x_, dy_;
  host_tensor<T, 2> y_, dx_;
  softmax_topk_router choose_;
  placed_routes<eigen_backend<T>> routes_;
  moe_saved<eigen_backend<T>> saved_;
};

template <class T>
void ours(benchmark::State& state, const bench_case& c, bool backward) {
  layer_run<T> layer(c, c.threads);
  const auto selected = selected_experts(*c.shape, routed_ids(*c.shape, c.tokens, c.routing), c.selection);
  layer.train(selected);
  std::vector<double> ratios;
  const auto step = [&] {
    const double forward = seconds_of([&] { layer.forward(); });
    if (backward) ratios.push_back(seconds_of([&] { layer.backward(); }) / forward);
  };
  step();
  ratios.clear();
  count_layer(state, c, selected, backward);
  state.SetLabel(layer.isa());
  const ceiling_watch watch(state, arithmetic_of(c.type), c.threads);
  for (auto _ : state) {
    step();
    benchmark::ClobberMemory();
  }
  if (backward) state.counters["backward_over_forward"] = median(ratios);
}

/// One thread against two in turns: two, one, two. The time is that of two; `two_threads` is the median of the ratio.
template <class T>
void in_turns(benchmark::State& state, const bench_case& c) {
  layer_run<T> one(c, 1);
  layer_run<T> two(c, 2);
  const auto selected = selected_experts(*c.shape, routed_ids(*c.shape, c.tokens, c.routing), c.selection);
  two.train(selected);
  const auto seconds = [](layer_run<T>& layer) {
    return seconds_of([&] {
      layer.forward();
      layer.backward();
    });
  };
  seconds(one), seconds(two);
  std::vector<double> ratios;
  count_layer(state, c, selected, true);
  state.SetLabel(two.isa());
  const ceiling_watch watch(state, arithmetic_of(c.type), 2);
  for (auto _ : state) {
    double both = seconds(two);
    const double alone = seconds(one);
    both = (both + seconds(two)) / 2;
    ratios.push_back(alone / both);
    state.SetIterationTime(both);
  }
  state.counters["two_threads"] = median(ratios);
}

void eigen_loop_layer(benchmark::State& state, const bench_case& c, bool backward) {
  const auto& s = *c.shape;
  const auto ids = routed_ids(s, c.tokens, c.routing);
  const auto x = random_tensor<float>(extents<2>{c.tokens, s.width}, 31);
  const auto dy = random_tensor<float>(extents<2>{c.tokens, s.width}, 32, 0.01F);
  const auto weights = random_tensor<float>(extents<2>{c.tokens, s.active}, 33);
  auto y = make_host_tensor<float, 2>({c.tokens, s.width});
  auto dx = make_host_tensor<float, 2>({c.tokens, s.width});
  auto dweights = make_host_tensor<float, 2>({c.tokens, s.active});
  const auto selected = selected_experts(s, ids, c.selection);
  const auto count = static_cast<index>(selected.size());
  auto d_gate_up = make_host_tensor<float, 3>({count, 2 * s.inner, s.width});
  auto d_down = make_host_tensor<float, 3>({count, s.width, s.inner});
  std::fill_n(d_gate_up.data(), d_gate_up.size(), 0.0F);
  std::fill_n(d_down.data(), d_down.size(), 0.0F);
  const eigen_layer arguments{c.tokens,
                              s.width,
                              s.inner,
                              s.experts,
                              s.active,
                              x.data(),
                              dy.data(),
                              static_cast<const float*>(row_major_weights(s, element::float32, matrix::gate_up)),
                              static_cast<const float*>(row_major_weights(s, element::float32, matrix::down)),
                              ids.data(),
                              weights.data(),
                              selected,
                              y.data(),
                              dx.data(),
                              d_gate_up.data(),
                              d_down.data(),
                              dweights.data()};
  run_eigen_layer(arguments, backward, c.threads);
  count_layer(state, c, selected, backward);
  const ceiling_watch watch(state, arithmetic_of(c.type), c.threads);
  for (auto _ : state) {
    run_eigen_layer(arguments, backward, c.threads);
    benchmark::ClobberMemory();
  }
}

template <class Body>
void add(const bench_case& c, bool backward, const std::string& backend, Body body) {
  benchmark::RegisterBenchmark(c.name(backward ? "layer_forward_backward" : "layer_forward", backend).c_str(), body)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

void add_case(bench_case c, const std::string& selection, bool backward) {
  c.selection = selection;
  add(c, backward, "esft", [=](benchmark::State& state) {
    c.type == element::bf16 ? ours<bf16>(state, c, backward) : ours<float>(state, c, backward);
  });
  if (c.type == element::float32 && (c.routing == "uniform" || c.routing == "zipf") && selection != "all") {
    add(c, backward, "eigen_loop", [=](benchmark::State& state) { eigen_loop_layer(state, c, backward); });
  }
}

/// `layer_two_threads/.../threads2`
void add_in_turns(bench_case c) {
  c.selection = "p8";
  benchmark::RegisterBenchmark(c.name("layer_two_threads", "esft").c_str(), [=](benchmark::State& state) {
    c.type == element::bf16 ? in_turns<bf16>(state, c) : in_turns<float>(state, c);
  })->UseManualTime()->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  for (const bench_case& c : all_cases()) {
    if (c.threads == 2 && (c.routing == "uniform" || c.routing == "zipf")) add_in_turns(c);
    add_case(c, "none", false);
    for (const char* selection : {"p8", "all"}) add_case(c, selection, true);
    if (is_published(c.routing)) add_case(c, c.routing, true);
  }
  return true;
}();

}  // namespace

void dump_layer(const bench_case& c, const char* path) {
  layer_run<float> layer(c, c.threads);
  layer.train(selected_experts(*c.shape, routed_ids(*c.shape, c.tokens, c.routing), c.selection));
  layer.forward();
  layer.backward();
  std::ofstream file(path, std::ios::binary);
  layer.write(file);
  if (!file.flush()) throw std::runtime_error(std::string("cannot write ") + path);
}

}  // namespace esft::bench
