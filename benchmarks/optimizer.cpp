// SPDX-License-Identifier: Apache-2.0
// One AdamW update of the selected experts: a pure stream of memory, whose cost must follow the selection.
#include "ceilings.hpp"
#include "random.hpp"
#include "routing.hpp"
#include "weights.hpp"

#include <esft/optim/optimizers/adamw.hpp>

#include <benchmark/benchmark.h>

namespace esft::bench {
namespace {

/// Slices of one stack, one for each trained expert.
template <class T, class Weight>
void add_slices(Weight& weight, std::vector<trained_slice<eigen_backend<T>>>& slices) {
  const index size = weight.value.extent(1) * weight.value.extent(2);
  for (std::size_t s = 0; s < weight.selected.size(); ++s) {
    const index e = weight.selected[s];
    slices.push_back({{},
                      weight.selected[s],
                      true,
                      {weight.value.data() + e * size, {size}},
                      {weight.gradient.data() + static_cast<index>(s) * size, {size}}});
  }
}

template <class T>
void adamw_selected(benchmark::State& state, const bench_case& c) {
  eigen_backend<T> b(c.threads);
  auto& layer = layer_weights<T>(*c.shape);
  const auto selected = selected_experts(*c.shape, routed_ids(*c.shape, c.tokens, c.routing), c.selection);
  layer.gate_up.train(b, selected);
  layer.down.train(b, selected);
  fill_random(layer.gate_up.gradient.data(), layer.gate_up.gradient.size(), 41, 1e-3F);
  fill_random(layer.down.gradient.data(), layer.down.gradient.size(), 42, 1e-3F);
  std::vector<trained_slice<eigen_backend<T>>> slices;
  add_slices<T>(layer.gate_up, slices);
  add_slices<T>(layer.down, slices);
  adamw_optimizer<eigen_backend<T>> optimizer(b, slices, {});
  optimizer.update(b, 1e-6, 1);
  const auto parameters = static_cast<double>(layer.gate_up.gradient.size() + layer.down.gradient.size());
  // master and moments are read and written, the gradient is read, the weight is written
  const double bytes = parameters * (7 * sizeof(float) + sizeof(T));
  state.counters["bytes/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_roofline"] =
      benchmark::Counter(bytes / ceiling_of(ceiling::adamw_bytes, c.threads), benchmark::Counter::kIsIterationInvariantRate);
  state.counters["bytes"] = bytes;
  state.counters["parameters"] = parameters;
  state.counters["state_bytes"] = static_cast<double>(optimizer.state_bytes());
  const ceiling_watch watch(state, ceiling::adamw_bytes, c.threads);
  for (auto _ : state) {
    optimizer.update(b, 1e-6, 1);
    benchmark::ClobberMemory();
  }
  layer.gate_up.freeze();
  layer.down.freeze();
}

const bool registered = [] {
  for (const layer_shape& shape : layer_shapes()) {
    std::vector<std::string> selections = {"p8"};
    if (shape.experts * shape.inner * shape.width < (index{1} << 28)) selections.emplace_back("all");  // state of 16 bytes a parameter
    if (shape.published) {
      for (const char* count : {"first1", "first2", "first4", "first8", "first16", "first32", "first64"}) selections.emplace_back(count);
      selections.insert(selections.end(), published_layers().begin(), published_layers().end());
    }
    for (const element type : {element::float32, element::bf16}) {
      for (const auto& selection : selections) {
        for (const int threads : {1, 2}) {
          if (type == element::float32 && shape.bf16_only) continue;
          const bench_case c{&shape, type, 1024, "uniform", selection, threads};
          benchmark::RegisterBenchmark(c.name("adamw_selected", "esft").c_str(), [=](benchmark::State& state) {
            c.type == element::bf16 ? adamw_selected<bf16>(state, c) : adamw_selected<float>(state, c);
          })->UseRealTime()->Unit(benchmark::kMillisecond);
        }
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace esft::bench
