// SPDX-License-Identifier: Apache-2.0
// The ops around the matrix products at the shape of a DeepSeek-V2-Lite layer, beside streams of the same bytes:
// names are op/backend/dtype/tokens/threads. Bytes/s counts each operand once.
#include "random.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/task_pool.hpp>

#include <benchmark/benchmark.h>

#include <cstring>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>

namespace {

using esft::bf16;
using esft::eigen_backend;
using esft::extents;
using esft::index;
using esft::write_mode;
using esft::bench::converted;
using esft::bench::random_tensor;

constexpr index width = 2048;
constexpr index vocabulary = 32000;
constexpr index head = 128;
constexpr index document = 512;
constexpr index active = 6;

template <class T, std::size_t R>
auto random_values(extents<R> shape, std::uint64_t seed) {
  if constexpr (std::is_same_v<T, float>) {
    return random_tensor(shape, seed);
  } else {
    return converted<T>(random_tensor(shape, seed));
  }
}
auto positions_of(index tokens, index period) {
  auto t = esft::make_host_tensor<std::int32_t, 1>({tokens});
  for (index i = 0; i < tokens; ++i) t.data()[i] = static_cast<std::int32_t>(i % period);
  return t;
}
void report(benchmark::State& state, double bytes, double flops) {
  using benchmark::Counter;
  if (bytes > 0) state.counters["B/s"] = Counter(bytes, Counter::kIsIterationInvariantRate);
  if (flops > 0) state.counters["FLOP/s"] = Counter(flops, Counter::kIsIterationInvariantRate);
}
template <class Body>
void measure(benchmark::State& state, double bytes, double flops, Body&& body) {
  body();  // tables, scratch memory and pages
  for (auto _ : state) {
    body();
    benchmark::ClobberMemory();
  }
  report(state, bytes, flops);
}

/// Causal attention over packed documents of 512 tokens; `shared` key-value heads of 16.
template <class T>
void attention(benchmark::State& state, index tokens, int threads, index shared, bool backward) {
  constexpr index heads = width / head;
  eigen_backend<T> backend(threads);
  const auto q = random_values<T>(extents<3>{tokens, heads, head}, 1);
  const auto k = random_values<T>(extents<3>{tokens, shared, head}, 2);
  const auto v = random_values<T>(extents<3>{tokens, shared, head}, 3);
  const auto d_o = random_values<T>(extents<3>{tokens, heads, head}, 4);
  auto o = esft::make_host_tensor<T, 3>(q.shape());
  auto dq = esft::make_host_tensor<T, 3>(q.shape());
  auto dk = esft::make_host_tensor<T, 3>(k.shape());
  auto dv = esft::make_host_tensor<T, 3>(k.shape());
  auto lse = esft::make_host_tensor<float, 2>({tokens, heads});
  auto begin = esft::make_host_tensor<std::int32_t, 1>({tokens});
  auto end = esft::make_host_tensor<std::int32_t, 1>({tokens});
  double seen = 0;
  for (index t = 0; t < tokens; ++t) {
    begin.data()[t] = static_cast<std::int32_t>(t - t % document);
    end.data()[t] = static_cast<std::int32_t>(t + 1);
    seen += static_cast<double>(t % document + 1);
  }
  const double scale = 0.088388;
  const auto forward = [&] {
    backend.attention(q.view(), k.view(), v.view(), std::as_const(begin).view(), std::as_const(end).view(), scale, o.view(), lse.view());
  };
  forward();
  const double flops = seen * static_cast<double>(2 * heads * head);
  if (!backward) return measure(state, 0, 2 * flops, forward);
  measure(state, 0, 5 * flops, [&] {
    backend.attention_backward(q.view(), k.view(), v.view(), std::as_const(o).view(), std::as_const(lse).view(), d_o.view(),
                               std::as_const(begin).view(), std::as_const(end).view(), scale, dq.view(), dk.view(), dv.view());
  });
}

template <class T>
void norms(benchmark::State& state, index tokens, int threads, int which) {
  eigen_backend<T> backend(threads);
  const auto x = random_values<T>(extents<2>{tokens, width}, 1);
  const auto dy = random_values<T>(extents<2>{tokens, width}, 2);
  const auto weight = random_values<T>(extents<1>{width}, 3);
  auto y = esft::make_host_tensor<T, 2>(x.shape());
  auto rstd = esft::make_host_tensor<float, 1>({tokens});
  auto dweight = esft::make_host_tensor<float, 1>({width});
  backend.fill(dweight.view(), 0);
  const auto forward = [&] { backend.rms_norm(x.view(), weight.view(), 1e-6, y.view(), rstd.view()); };
  forward();
  const double plane = static_cast<double>(tokens * width * static_cast<index>(sizeof(T)));
  if (which == 0) return measure(state, 2 * plane, 0, forward);
  measure(state, (which == 1 ? 3 : 2) * plane, 0, [&] {
    if (which == 1) {
      backend.rms_norm_dx(dy.view(), x.view(), weight.view(), std::as_const(rstd).view(), y.view(), write_mode::overwrite);
    } else {
      backend.rms_norm_dw(dy.view(), x.view(), std::as_const(rstd).view(), dweight.view());
    }
  });
}

template <class T>
void rope(benchmark::State& state, index tokens, int threads) {
  eigen_backend<T> backend(threads);
  auto x = random_values<T>(extents<3>{tokens, width / head, head}, 1);
  const auto positions = positions_of(tokens, document);
  measure(state, 2.0 * static_cast<double>(tokens * width * static_cast<index>(sizeof(T))), 0,
          [&] { backend.rope(x.view(), positions.view(), 1e4, 1); });
}

/// The gradient replaces the logits, so later rounds see other numbers; the time does not depend on them.
void cross_entropy(benchmark::State& state, index tokens, int threads) {
  eigen_backend<float> backend(threads);
  auto logits = random_tensor(extents<2>{tokens, vocabulary}, 1);
  const auto labels = positions_of(tokens, vocabulary);
  measure(state, 2.0 * 4 * static_cast<double>(tokens * vocabulary), 0,
          [&] { benchmark::DoNotOptimize(backend.cross_entropy(logits.view(), labels.view(), 1.0)); });
}

template <class T>
void elementwise_add(benchmark::State& state, index tokens, int threads) {
  eigen_backend<T> backend(threads);
  const auto x = random_values<T>(extents<1>{tokens * width}, 1);
  auto y = random_values<T>(extents<1>{tokens * width}, 2);
  measure(state, 3.0 * static_cast<double>(tokens * width * static_cast<index>(sizeof(T))), 0, [&] { backend.add(x.view(), y.view()); });
}

/// Rows of a routed layer: 6 of them for each token, in the order of the experts.
template <class T>
void rows_of_experts(benchmark::State& state, index tokens, int threads, int which) {
  eigen_backend<T> backend(threads);
  const index rows = tokens * active;
  const auto x = random_values<T>(extents<2>{tokens, width}, 1);
  auto y = random_values<T>(extents<2>{rows, width}, 2);
  auto out = random_values<T>(extents<2>{tokens, width}, 3);
  const auto weights = random_tensor(extents<2>{tokens, active}, 4);
  auto row_slot = esft::make_host_tensor<std::int32_t, 1>({rows});
  auto slot_row = esft::make_host_tensor<std::int32_t, 2>({tokens, active});
  for (index s = 0; s < rows; ++s) {  // slot s lies at row s * 769 mod rows, a permutation while rows is no multiple of 769
    const index row = s * 769 % rows;
    slot_row.data()[s] = static_cast<std::int32_t>(row);
    row_slot.data()[row] = static_cast<std::int32_t>(s);
  }
  const double planes = static_cast<double>((rows + tokens) * width * static_cast<index>(sizeof(T)));
  measure(state, planes, 0, [&] {
    if (which == 0) backend.gather(x.view(), std::as_const(row_slot).view(), active, y.view());
    if (which == 1) backend.gather_sum(std::as_const(y).view(), std::as_const(slot_row).view(), out.view(), write_mode::overwrite);
    if (which == 2) {
      backend.combine(std::as_const(y).view(), std::as_const(slot_row).view(), weights.view(), out.view(), write_mode::overwrite);
    }
  });
}

template <class T>
void embedding(benchmark::State& state, index tokens, int threads) {
  eigen_backend<T> backend(threads);
  const auto table = random_values<T>(extents<2>{vocabulary, width}, 1);
  auto ids = esft::make_host_tensor<std::int32_t, 1>({tokens});
  for (index t = 0; t < tokens; ++t) ids.data()[t] = static_cast<std::int32_t>(t * 7919 % vocabulary);
  auto y = esft::make_host_tensor<T, 2>({tokens, width});
  measure(state, 2.0 * static_cast<double>(tokens * width * static_cast<index>(sizeof(T))), 0,
          [&] { backend.embedding(std::as_const(ids).view(), table.view(), y.view()); });
}

constexpr index trained = index{1} << 25;  // parameters of AdamW: too many for any cache, as four experts of the layer are
template <class T>
void adamw(benchmark::State& state, int threads) {
  eigen_backend<T> backend(threads);
  auto weight = random_values<T>(extents<1>{trained}, 1);
  auto master = random_tensor(extents<1>{trained}, 1);
  auto m = random_tensor(extents<1>{trained}, 2, 1e-3);
  auto v = random_tensor(extents<1>{trained}, 3, 1e-4);
  for (index i = 0; i < trained; ++i) v.data()[i] = v.data()[i] * v.data()[i];
  const auto gradient = random_tensor(extents<1>{trained}, 4, 1e-3);
  esft::adamw_step step;
  step.learning_rate = 1e-5;
  step.weight_decay = 0.1;
  measure(state, static_cast<double>(trained) * (28 + sizeof(T)), 0, [&] {
    backend.adamw(weight.view(), master.view(), m.view(), v.view(), gradient.view(), step);
    ++step.step;
  });
}

/// memcpy of planes as large as the activations of the layer: what the elementwise ops are held against.
void copy_ceiling(benchmark::State& state, index tokens, int threads) {
  esft::detail::eigen::task_pool pool(threads);
  const auto from = random_tensor(extents<1>{tokens * width / 2}, 1);
  auto to = esft::make_host_tensor<float, 1>(from.shape());
  measure(state, 4.0 * static_cast<double>(tokens * width), 0, [&] {
    pool.run(8, [&](index part, int) {
      const index size = from.size() / 8;
      std::memcpy(to.data() + part * size, from.data() + part * size, static_cast<std::size_t>(size) * sizeof(float));
    });
  });
}

using body = std::function<void(benchmark::State&)>;
void add_row(const std::string& name, body run) { benchmark::RegisterBenchmark(name.c_str(), std::move(run))->UseRealTime(); }

template <class T>
void add_ops(const std::string& dtype, index tokens, int threads) {
  const std::string tail = "/esft/" + dtype + "/T" + std::to_string(tokens) + "/threads" + std::to_string(threads);
  const auto row = [&](const std::string& op, auto run) { add_row(op + tail, run); };
  for (const index shared : {16, 4}) {
    const std::string heads = shared == 16 ? "" : "_gqa4";
    row("attention" + heads, [=](benchmark::State& s) { attention<T>(s, tokens, threads, shared, false); });
    row("attention_backward" + heads, [=](benchmark::State& s) { attention<T>(s, tokens, threads, shared, true); });
  }
  const char* const norm_ops[] = {"rms_norm", "rms_norm_dx", "rms_norm_dw"};
  for (int op = 0; op < 3; ++op) row(norm_ops[op], [=](benchmark::State& s) { norms<T>(s, tokens, threads, op); });
  row("rope", [=](benchmark::State& s) { rope<T>(s, tokens, threads); });
  row("add", [=](benchmark::State& s) { elementwise_add<T>(s, tokens, threads); });
  const char* const row_ops[] = {"gather", "gather_sum", "combine"};
  for (int op = 0; op < 3; ++op) row(row_ops[op], [=](benchmark::State& s) { rows_of_experts<T>(s, tokens, threads, op); });
  row("embedding", [=](benchmark::State& s) { embedding<T>(s, tokens, threads); });
}

const bool registered = [] {
  for (const int threads : {1, 2}) {
    const std::string tail = "/threads" + std::to_string(threads);
    add_row("adamw/esft/bf16/N33554432" + tail, [=](benchmark::State& s) { adamw<bf16>(s, threads); });
    add_row("adamw/esft/float/N33554432" + tail, [=](benchmark::State& s) { adamw<float>(s, threads); });
    for (const index tokens : {1024, 2048}) {
      add_row("ceiling/copy/T" + std::to_string(tokens) + tail, [=](benchmark::State& s) { copy_ceiling(s, tokens, threads); });
      add_ops<bf16>("bf16", tokens, threads);
      add_ops<float>("float", tokens, threads);
      add_row("cross_entropy/esft/float/T" + std::to_string(tokens) + tail,
              [=](benchmark::State& s) { cross_entropy(s, tokens, threads); });
    }
  }
  return true;
}();

}  // namespace
