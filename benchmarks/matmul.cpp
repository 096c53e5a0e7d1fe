// SPDX-License-Identifier: Apache-2.0
// Single products of the shapes that training sees, one thread, against Eigen's.
#include "eigen_loop.hpp"
#include "random.hpp"

#include <esft/backends/eigen.hpp>

#include <benchmark/benchmark.h>

#include <string>

namespace {

using esft::extents;
using esft::write_mode;

struct shape {
  long m, n, k;
};
constexpr shape shapes[] = {{512, 128, 128}, {512, 128, 64},   {4096, 128, 128}, {4096, 264, 128},
                            {384, 192, 192}, {16, 1408, 2048}, {64, 1408, 2048}, {384, 1408, 2048}};

void set_rate(benchmark::State& state, shape s) {
  const double flops = 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n) * static_cast<double>(s.k);
  state.counters["FLOP/s"] = benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

template <class T>
void ours(benchmark::State& state, shape s, int which) {
  esft::eigen_backend<T> backend(1);
  const auto x = esft::bench::converted<T>(esft::bench::random_tensor(extents<2>{s.m, s.k}, 1));
  const auto w = esft::bench::converted<T>(esft::bench::random_tensor(extents<2>{s.n, s.k}, 2));
  const auto dy = esft::bench::converted<T>(esft::bench::random_tensor(extents<2>{s.m, s.n}, 3));
  auto y = esft::make_host_tensor<T, 2>({s.m, s.n});
  auto dx = esft::make_host_tensor<T, 2>({s.m, s.k});
  auto dw = esft::make_host_tensor<float, 2>({s.n, s.k});
  backend.fill(dw.view(), 0);
  for (auto _ : state) {
    if (which == 0) backend.linear(x.view(), w.view(), y.view(), write_mode::overwrite);
    if (which == 1) backend.linear_dx(dy.view(), w.view(), dx.view(), write_mode::overwrite);
    if (which == 2) backend.linear_dw(dy.view(), x.view(), dw.view());
    benchmark::ClobberMemory();
  }
  set_rate(state, s);
}

void theirs(benchmark::State& state, shape s, int which) {
  const auto x = esft::bench::random_tensor(extents<2>{s.m, s.k}, 1);
  const auto w = esft::bench::random_tensor(extents<2>{s.n, s.k}, 2);
  const auto dy = esft::bench::random_tensor(extents<2>{s.m, s.n}, 3);
  auto y = esft::make_host_tensor<float, 2>({s.m, s.n});
  auto dx = esft::make_host_tensor<float, 2>({s.m, s.k});
  auto dw = esft::make_host_tensor<float, 2>({s.n, s.k});
  std::fill_n(dw.data(), dw.size(), 0.0F);
  for (auto _ : state) {
    if (which == 0) esft::baseline::forward(s.m, s.n, s.k, x.data(), w.data(), y.data());
    if (which == 1) esft::baseline::input_gradient(s.m, s.n, s.k, dy.data(), w.data(), dx.data());
    if (which == 2) esft::baseline::weight_gradient(s.m, s.n, s.k, dy.data(), x.data(), dw.data());
    benchmark::ClobberMemory();
  }
  set_rate(state, s);
}

const bool registered = [] {
  const char* const ops[] = {"linear", "linear_dx", "linear_dw"};
  for (int op = 0; op < 3; ++op) {
    for (const shape s : shapes) {
      const std::string tail = "/M" + std::to_string(s.m) + "_N" + std::to_string(s.n) + "_K" + std::to_string(s.k);
      const std::string name = ops[op];
      benchmark::RegisterBenchmark((name + "/esft/float" + tail).c_str(), [=](benchmark::State& state) { ours<float>(state, s, op); });
      benchmark::RegisterBenchmark((name + "/esft/bf16" + tail).c_str(), [=](benchmark::State& state) { ours<esft::bf16>(state, s, op); });
      benchmark::RegisterBenchmark((name + "/eigen_loop/float" + tail).c_str(), [=](benchmark::State& state) { theirs(state, s, op); });
    }
  }
  return true;
}();

}  // namespace
