// SPDX-License-Identifier: Apache-2.0
// The figures of docs/benchmarks/kokkos.md: grouped products and the update of the Kokkos backend, turn by turn with what they are compared
// with, so that a busy machine slows all of them; counters are medians over the turns.
#include "../baselines/expert_loop.hpp"
#include "../ceilings.hpp"
#include "../random.hpp"

#include <esft/backends/kokkos.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>

namespace esft::bench {
namespace {

using execution = Kokkos::DefaultExecutionSpace;
using team = Kokkos::TeamPolicy<execution>::member_type;
constexpr index width = 2048, columns = 2816,
                experts = 8;  // the gate and up matrices of a DeepSeek-V2-Lite layer, an eighth of its experts

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}
template <class Work>
double seconds(const Work& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// What a Kokkos program writes first: expert after expert, a team for each row, or for each row of a weight gradient.
struct team_gemv {
  const float *x, *w, *dy;
  float *y, *dx, *dw;
  index rows;

  void forward(index e) const {
    const team_gemv m = *this;
    Kokkos::parallel_for(
        "gemv", Kokkos::TeamPolicy<execution>(static_cast<int>(rows), Kokkos::AUTO), KOKKOS_LAMBDA(const team& t) {
          const float* const from = m.x + (e * m.rows + t.league_rank()) * width;
          float* const to = m.y + (e * m.rows + t.league_rank()) * columns;
          Kokkos::parallel_for(Kokkos::TeamThreadRange(t, columns), [&](index n) {
            const float* const row = m.w + (e * columns + n) * width;
            float sum = 0;
            Kokkos::parallel_reduce(
                Kokkos::ThreadVectorRange(t, width), [&](index k, float& s) { s += from[k] * row[k]; }, sum);
            Kokkos::single(Kokkos::PerThread(t), [&] { to[n] = sum; });
          });
        });
  }
  void input_gradient(index e) const {
    const team_gemv m = *this;
    Kokkos::parallel_for(
        "gemv dx", Kokkos::TeamPolicy<execution>(static_cast<int>(rows), Kokkos::AUTO), KOKKOS_LAMBDA(const team& t) {
          const float* const from = m.dy + (e * m.rows + t.league_rank()) * columns;
          float* const to = m.dx + (e * m.rows + t.league_rank()) * width;
          Kokkos::parallel_for(Kokkos::TeamVectorRange(t, width), [&](index k) { to[k] = 0; });
          t.team_barrier();
          for (index n = 0; n < columns; ++n) {
            const float* const row = m.w + (e * columns + n) * width;
            const float factor = from[n];
            Kokkos::parallel_for(Kokkos::TeamVectorRange(t, width), [&](index k) { to[k] += factor * row[k]; });
          }
        });
  }
  void weight_gradient(index e, index slice) const {
    const team_gemv m = *this;
    Kokkos::parallel_for(
        "gemv dw", Kokkos::TeamPolicy<execution>(static_cast<int>(columns), Kokkos::AUTO), KOKKOS_LAMBDA(const team& t) {
          float* const to = m.dw + (slice * columns + t.league_rank()) * width;
          for (index r = e * m.rows; r < (e + 1) * m.rows; ++r) {
            const float* const from = m.x + r * width;
            const float factor = m.dy[r * columns + t.league_rank()];
            Kokkos::parallel_for(Kokkos::TeamVectorRange(t, width), [&](index k) { to[k] += factor * from[k]; });
          }
        });
  }
};

double largest_difference(const host_tensor<float, 2>& a, const host_tensor<float, 2>& b) {
  double result = 0;
  for (index i = 0; i < a.size(); ++i)
    result = std::max(result, std::abs(static_cast<double>(a.data()[i]) - static_cast<double>(b.data()[i])));
  return result;
}

/// Forward, gradient of the input for all experts, gradient of the weights for 1 of the 8. The GEMVs of many rows an expert take too long
/// to wait for.
void grouped(benchmark::State& state) {
  const index rows = state.range(0);
  kokkos_backend<> backend;
  const int threads = static_cast<int>(backend.instance().concurrency());
  const auto w = random_tensor<float>(extents<3>{experts, columns, width}, 1, 0.02);
  const auto x = random_tensor<float>(extents<2>{experts * rows, width}, 2);
  const auto dy = random_tensor<float>(extents<2>{experts * rows, columns}, 3);
  auto y = make_host_tensor<float, 2>(dy.shape()), other_y = make_host_tensor<float, 2>(dy.shape());
  auto dx = make_host_tensor<float, 2>(x.shape()), other_dx = make_host_tensor<float, 2>(x.shape());
  const std::vector<std::int32_t> selected{3};
  auto dw = random_tensor<float>(extents<3>{1, columns, width}, 4);
  auto offsets = make_host_tensor<std::int32_t, 1>({experts + 1});
  for (index e = 0; e <= experts; ++e) offsets.data()[e] = static_cast<std::int32_t>(e * rows);

  const auto ours = [&] {
    backend.grouped_linear(x.view(), w.view(), std::as_const(offsets).view(), y.view());
    backend.grouped_linear_dx(dy.view(), w.view(), std::as_const(offsets).view(), dx.view());
    backend.grouped_linear_dw(dy.view(), x.view(), std::as_const(offsets).view(), selected, dw.view());
    backend.synchronise();
  };
  const auto loop = eigen_loop({experts, columns, width, false, w.data()});
  loop->use(threads, true);
  const auto plain_eigen = [&] {
    loop->forward(x.data(), offsets.data(), other_y.data());
    loop->input_gradient(dy.data(), offsets.data(), other_dx.data());
    loop->weight_gradient(dy.data(), x.data(), offsets.data(), selected, dw.data());
  };
  const team_gemv gemv{x.data(), w.data(), dy.data(), other_y.data(), other_dx.data(), dw.data(), rows};
  const auto gemvs = [&] {
    for (index e = 0; e < experts; ++e) gemv.forward(e);
    for (index e = 0; e < experts; ++e) gemv.input_gradient(e);
    for (std::size_t s = 0; s < selected.size(); ++s) gemv.weight_gradient(selected[s], static_cast<index>(s));
    Kokkos::fence();
  };
  ours(), plain_eigen();
  if (largest_difference(y, other_y) > 1e-3 || largest_difference(dx, other_dx) > 1e-3) state.SkipWithError("results differ");
  const bool few = rows <= 96;
  const double slow = few ? seconds(gemvs) : 0, beside = seconds(ours);
  if (largest_difference(y, other_y) > 1e-3 || largest_difference(dx, other_dx) > 1e-3) state.SkipWithError("results of the GEMVs differ");

  std::vector<double> times, against_eigen;
  for (auto _ : state) {
    const double eigen = seconds(plain_eigen), mine = seconds(ours);
    state.SetIterationTime(mine);
    times.push_back(mine), against_eigen.push_back(eigen / mine);
  }
  const double flops = 2.0 * static_cast<double>(rows * columns * width) * (2.0 * experts + 1);
  state.counters["GFLOP/s"] = 1e-9 * flops / median(times);
  state.counters["against_eigen_loop"] = median(against_eigen);
  if (few) state.counters["against_gemv_loop"] = slow / beside;
}
BENCHMARK(grouped)->ArgName("rows")->Arg(16)->Arg(96)->Arg(384)->UseManualTime()->Iterations(5)->Unit(benchmark::kMillisecond);

/// One update of five trained experts of the same layer, against the streams of memory that it cannot do without.
template <class T>
void adamw(benchmark::State& state) {
  using backend_type = kokkos_backend<execution, T>;
  backend_type backend;
  const int threads = std::min(2, static_cast<int>(backend.instance().concurrency()));
  const index count = 5 * columns * width;
  const auto tensor_of = [&](std::uint64_t seed) { return random_tensor<float>(extents<1>{count}, seed, 0.01); };
  auto master = tensor_of(1), m = tensor_of(2), v = tensor_of(3), gradient = tensor_of(4);
  for (index i = 0; i < count; ++i) v.data()[i] *= v.data()[i];
  auto weight = converted<T>(master);
  std::vector<update_slice<backend_type>> slices;
  for (index s = 0; s < 5; ++s) {
    const index first = s * columns * width, end = first + columns * width;
    slices.push_back({weight.view().slice(first, end), gradient.view().slice(first, end), true});
  }
  const auto list = backend.make_update_list(slices);
  const auto update = [&] {
    backend.adamw(list, master.view(), m.view(), v.view(), {.learning_rate = 1e-6, .step = 2});
    backend.synchronise();
  };
  update();
  const double bytes = static_cast<double>(count) * (7 * sizeof(float) + sizeof(T));
  std::vector<double> times, shares;
  for (auto _ : state) {
    const double before = measure_ceiling(ceiling::adamw_bytes, threads, 2), mine = seconds(update);
    state.SetIterationTime(mine);
    times.push_back(mine), shares.push_back(bytes / mine / before);
  }
  state.counters["GB/s"] = 1e-9 * bytes / median(times);
  state.counters["of_streaming"] = median(shares);
}
BENCHMARK(adamw<float>)->UseManualTime()->Iterations(9)->Unit(benchmark::kMillisecond);
BENCHMARK(adamw<bf16>)->UseManualTime()->Iterations(9)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace esft::bench

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  static_assert(esft::detail::kokkos::on_cores<esft::bench::execution>, "these figures compare with libraries of the host");
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("backend", esft::kokkos_backend<>().description());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
