// SPDX-License-Identifier: Apache-2.0
// The figures of docs/benchmarks/kokkos.md: grouped products and the update of the Kokkos backend, turn by turn with what they are compared
// with, so that a busy machine slows all of them; counters are medians over the turns. For any execution space: on cores they are compared
// with Eigen and with streams of memory, on a GPU with copies, and with cuBLAS where that is linked; everywhere with GEMVs of teams.
#include "../baselines/expert_loop.hpp"
#include "../ceilings.hpp"
#include "../random.hpp"

#include <esft/backends/kokkos.hpp>

#include <benchmark/benchmark.h>
#if defined(ESFT_BENCH_CUBLAS)
#include <cublas_v2.h>
#endif

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace esft::bench {
namespace {

using execution = Kokkos::DefaultExecutionSpace;
using team = Kokkos::TeamPolicy<execution>::member_type;
using space = kokkos_backend<>::memory_space;
constexpr bool cores = detail::kokkos::on_cores<execution>;
constexpr index width = 2048, columns = 2816,
                experts = 8;  // the gate and up matrices of a DeepSeek-V2-Lite layer, an eighth of its experts

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}
/// Until all of it has run; what was queued before has run by the start.
template <class Work>
double seconds(const Work& work) {
  Kokkos::fence();
  const auto start = std::chrono::steady_clock::now();
  work();
  Kokkos::fence();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The numbers of a host tensor where kernels run.
template <class Backend, class U, std::size_t R>
tensor<U, R, space> there(Backend& backend, const host_tensor<U, R>& host) {
  auto made = backend.template make_tensor<U>(host.shape());
  backend.copy_in(std::span<const U>(host.data(), static_cast<std::size_t>(host.size())), made.view());
  return made;
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
          const index outputs = columns, terms = width;  // ranges take references
          Kokkos::parallel_for(Kokkos::TeamThreadRange(t, outputs), [&](index n) {
            const float* const row = m.w + (e * columns + n) * width;
            float sum = 0;
            Kokkos::parallel_reduce(
                Kokkos::ThreadVectorRange(t, terms), [&](index k, float& s) { s += from[k] * row[k]; }, sum);
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
          const index outputs = width;
          Kokkos::parallel_for(Kokkos::TeamVectorRange(t, outputs), [&](index k) { to[k] = 0; });
          t.team_barrier();
          for (index n = 0; n < columns; ++n) {
            const float* const row = m.w + (e * columns + n) * width;
            const float factor = from[n];
            Kokkos::parallel_for(Kokkos::TeamVectorRange(t, outputs), [&](index k) { to[k] += factor * row[k]; });
          }
        });
  }
  void weight_gradient(index e, index slice) const {
    const team_gemv m = *this;
    Kokkos::parallel_for(
        "gemv dw", Kokkos::TeamPolicy<execution>(static_cast<int>(columns), Kokkos::AUTO), KOKKOS_LAMBDA(const team& t) {
          float* const to = m.dw + (slice * columns + t.league_rank()) * width;
          const index outputs = width;
          for (index r = e * m.rows; r < (e + 1) * m.rows; ++r) {
            const float* const from = m.x + r * width;
            const float factor = m.dy[r * columns + t.league_rank()];
            Kokkos::parallel_for(Kokkos::TeamVectorRange(t, outputs), [&](index k) { to[k] += factor * from[k]; });
          }
        });
  }
};

/// The library that the products are compared with: a loop over the experts.
struct library {
#if defined(ESFT_BENCH_CUBLAS)
  static constexpr const char* name = "against_cublas_loop";
  const float *x, *w, *dy;
  float *y, *dx, *dw;
  index rows;
  cublasHandle_t handle{};

  library(const float* x_, const float* w_, const float* dy_, float* y_, float* dx_, float* dw_, index rows_, const std::int32_t*)
      : x(x_), w(w_), dy(dy_), y(y_), dx(dx_), dw(dw_), rows(rows_) {
    if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) throw std::runtime_error("cuBLAS does not start");
    cublasSetStream(handle, execution().cuda_stream());
  }
  library(const library&) = delete;
  library& operator=(const library&) = delete;
  ~library() { cublasDestroy(handle); }
  void multiply(bool left, bool right, index m, index n, index k, const float* a, index a_step, const float* b, index b_step, float more,
                float* c) const {
    const float one = 1;
    const auto size = [](index i) { return static_cast<int>(i); };
    const auto turned = [](bool yes) { return yes ? CUBLAS_OP_T : CUBLAS_OP_N; };
    cublasSgemm(handle, turned(left), turned(right), size(m), size(n), size(k), &one, a, size(a_step), b, size(b_step), &more, c, size(m));
  }
  void forward() const {  // columns of cuBLAS are our rows
    for (index e = 0; e < experts; ++e)
      multiply(true, false, columns, rows, width, w + e * columns * width, width, x + e * rows * width, width, 0, y + e * rows * columns);
  }
  void input_gradient() const {
    for (index e = 0; e < experts; ++e)
      multiply(false, false, width, rows, columns, w + e * columns * width, width, dy + e * rows * columns, columns, 0,
               dx + e * rows * width);
  }
  void weight_gradient(const std::vector<std::int32_t>& selected) const {
    for (std::size_t s = 0; s < selected.size(); ++s)
      multiply(false, true, width, columns, rows, x + selected[s] * rows * width, width, dy + selected[s] * rows * columns, columns, 1,
               dw + static_cast<index>(s) * columns * width);
  }
#else
  static constexpr const char* name = "against_eigen_loop";
  const float *x, *dy;
  float *y, *dx, *dw;
  const std::int32_t* offsets;
  std::unique_ptr<expert_loop> loop;

  library(const float* x_, const float* w, const float* dy_, float* y_, float* dx_, float* dw_, index, const std::int32_t* offsets_)
      : x(x_), dy(dy_), y(y_), dx(dx_), dw(dw_), offsets(offsets_) {
    if constexpr (cores) {
      loop = eigen_loop({experts, columns, width, false, w});
      loop->use(static_cast<int>(execution().concurrency()), true);
    }
  }
  void forward() const { loop->forward(x, offsets, y); }
  void input_gradient() const { loop->input_gradient(dy, offsets, dx); }
  void weight_gradient(const std::vector<std::int32_t>& selected) const { loop->weight_gradient(dy, x, offsets, selected, dw); }
#endif
};
#if defined(ESFT_BENCH_CUBLAS)
constexpr bool has_library = true;
#else
constexpr bool has_library = cores;
#endif

/// Forward, gradient of the input for all experts, gradient of the weights for 1 of the 8. The GEMVs of many rows an expert take too long
/// to wait for on cores.
void grouped(benchmark::State& state) {
  const index rows = state.range(0);
  kokkos_backend<> backend;
  const auto w = there(backend, random_tensor<float>(extents<3>{experts, columns, width}, 1, 0.02));
  const auto x = there(backend, random_tensor<float>(extents<2>{experts * rows, width}, 2));
  const auto dy = there(backend, random_tensor<float>(extents<2>{experts * rows, columns}, 3));
  struct results {
    tensor<float, 2, space> y, dx;
    tensor<float, 3, space> dw;
  };
  const auto make_results = [&] {
    return results{backend.make_tensor<float>(dy.shape()), backend.make_tensor<float>(x.shape()),
                   backend.make_tensor<float>(extents<3>{1, columns, width})};
  };
  results mine = make_results(), theirs = make_results();
  const std::vector<std::int32_t> selected{3};
  auto ends = make_host_tensor<std::int32_t, 1>({experts + 1});
  for (index e = 0; e <= experts; ++e) ends.data()[e] = static_cast<std::int32_t>(e * rows);
  const auto offsets = there(backend, ends);

  const auto our_forward = [&] { backend.grouped_linear(x.view(), w.view(), offsets.view(), mine.y.view()); };
  const auto ours = [&] {
    our_forward();
    backend.grouped_linear_dx(dy.view(), w.view(), offsets.view(), mine.dx.view());
    backend.grouped_linear_dw(dy.view(), x.view(), offsets.view(), selected, mine.dw.view());
  };
  const library loop(x.data(), w.data(), dy.data(), theirs.y.data(), theirs.dx.data(), theirs.dw.data(), rows, ends.data());
  const auto by_library = [&] {
    loop.forward();
    loop.input_gradient();
    loop.weight_gradient(selected);
  };
  const team_gemv gemv{x.data(), w.data(), dy.data(), theirs.y.data(), theirs.dx.data(), theirs.dw.data(), rows};
  const auto gemvs = [&] {
    for (index e = 0; e < experts; ++e) gemv.forward(e);
    for (index e = 0; e < experts; ++e) gemv.input_gradient(e);
    for (std::size_t s = 0; s < selected.size(); ++s) gemv.weight_gradient(selected[s], static_cast<index>(s));
  };
  // All three results, of weight gradients that begin at zero.
  const auto difference = [&](const auto& a, const auto& b) {
    std::vector<float> left(static_cast<std::size_t>(a.size())), right(left.size());
    backend.copy_out(a.view(), std::span<float>(left));
    backend.copy_out(b.view(), std::span<float>(right));
    double most = 0, sum = 0;
    for (std::size_t i = 0; i < left.size(); ++i) {
      most = std::max(most, std::abs(static_cast<double>(left[i]) - static_cast<double>(right[i])));
      sum += std::abs(static_cast<double>(left[i]));
    }
    return sum > 0 ? most : 1.0;  // nothing was computed
  };
  const auto same_results = [&](const auto& other) {
    for (results* r : {&mine, &theirs}) {
      backend.fill(r->y.view(), 0.0F);
      backend.fill(r->dx.view(), 0.0F);
      backend.fill(r->dw.view(), 0.0F);
    }
    ours();
    backend.synchronise();
    const double time = seconds(other);
    const auto& [y, dx, dw] = std::as_const(mine);
    const results& all = theirs;
    if (!(difference(y, all.y) <= 1e-3 && difference(dx, all.dx) <= 1e-3 && difference(dw, all.dw) <= 1e-3))
      state.SkipWithError("results differ");
    return time;
  };
  if constexpr (has_library) same_results(by_library);
  const bool few = rows <= 96 || !cores;
  const double slow = few ? same_results(gemvs) : 0, beside = seconds(ours);

  std::vector<double> times, shares, forward_shares;
  for (auto _ : state) {
    if constexpr (has_library) {
      const double forward = seconds([&] { loop.forward(); });
      forward_shares.push_back(forward / seconds(our_forward));
    }
    const double other = has_library ? seconds(by_library) : 0, own = seconds(ours);
    state.SetIterationTime(own);
    times.push_back(own), shares.push_back(other / own);
  }
  const double flops = 2.0 * static_cast<double>(rows * columns * width) * (2.0 * experts + 1);
  if (times.empty()) return;
  state.counters["GFLOP/s"] = 1e-9 * flops / median(times);
  if constexpr (has_library) {
    state.counters[library::name] = median(shares);
    state.counters[std::string("forward_") + library::name] = median(forward_shares);
  }
  if (few) state.counters["against_gemv_loop"] = slow / beside;
}
BENCHMARK(grouped)->ArgName("rows")->Arg(16)->Arg(96)->Arg(384)->UseManualTime()->Iterations(5)->Unit(benchmark::kMillisecond);

/// One update of five trained experts of the same layer, against the streams of memory that it cannot do without; on a GPU against a copy,
/// bytes read and written.
template <class T>
void adamw(benchmark::State& state) {
  using backend_type = kokkos_backend<execution, T>;
  backend_type backend;
  const index count = 5 * columns * width;
  const auto host_of = [&](std::uint64_t seed) { return random_tensor<float>(extents<1>{count}, seed, 0.01); };
  auto squares = host_of(3);
  for (index i = 0; i < count; ++i) squares.data()[i] *= squares.data()[i];
  const auto values = host_of(1);
  auto master = there(backend, values), m = there(backend, host_of(2)), v = there(backend, squares), gradient = there(backend, host_of(4));
  auto weight = there(backend, converted<T>(values));
  std::vector<update_slice<backend_type>> slices;
  for (index s = 0; s < 5; ++s) {
    const index first = s * columns * width, end = first + columns * width;
    slices.push_back({weight.view().slice(first, end), gradient.view().slice(first, end), true});
  }
  const auto list = backend.make_update_list(slices);
  const auto update = [&] { backend.adamw(list, master.view(), m.view(), v.view(), {.learning_rate = 1e-6, .step = 2}); };
  auto target = backend.template make_tensor<float>(extents<1>{cores ? 1 : count});
  const auto ceiling_now = [&] {
    if constexpr (cores) return measure_ceiling(ceiling::adamw_bytes, std::min(2, static_cast<int>(backend.instance().concurrency())), 2);
    return 8.0 * static_cast<double>(count) / seconds([&] { backend.copy(std::as_const(gradient).view(), target.view()); });
  };
  update();
  const double bytes = static_cast<double>(count) * (7 * sizeof(float) + sizeof(T));
  std::vector<double> times, shares;
  for (auto _ : state) {
    const double before = ceiling_now(), mine = seconds(update);
    state.SetIterationTime(mine);
    times.push_back(mine), shares.push_back(bytes / mine / before);
  }
  state.counters["GB/s"] = 1e-9 * bytes / median(times);
  state.counters[cores ? "of_streaming" : "of_copy"] = median(shares);
}
BENCHMARK(adamw<float>)->UseManualTime()->Iterations(9)->Unit(benchmark::kMillisecond);
BENCHMARK(adamw<bf16>)->UseManualTime()->Iterations(9)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace esft::bench

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("backend", esft::kokkos_backend<>().description());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
