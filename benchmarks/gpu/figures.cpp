// SPDX-License-Identifier: Apache-2.0
// Figures of the GPU backend in bfloat16 as rows of a Markdown table, beside ceilings measured in the same run and the floors that they
// must reach; exit code 3 where one is missed. `--tiny` only tries it out.
#include "floors.hpp"

#include <esft/backends/cuda.hpp>
#include <esft/core/rng.hpp>
#include <esft/moe/layer.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using esft::bf16;
using esft::extents;
using esft::index;
using backend = esft::cuda_backend<bf16>;
template <class T, std::size_t R>
using device_tensor = esft::tensor<T, R, esft::cuda_space>;

/// Median over seven samples by the clock of the device, each long enough to hide what launching costs.
template <class Run>
double seconds(backend& b, Run&& run) {
  const auto sample = [&](int repeats) {
    b.synchronise();
    return b.seconds([&] {
      for (int i = 0; i < repeats; ++i) run();
    }) / repeats;
  };
  static_cast<void>(sample(2));  // fresh memory, the libraries' choice of kernels
  const int repeats = std::clamp(static_cast<int>(0.05 / std::max(sample(1), 1e-6)), 1, 1000);
  std::vector<double> times(7);
  for (double& t : times) t = sample(repeats);
  std::nth_element(times.begin(), times.begin() + 3, times.end());
  return times[3];
}

/// Normal numbers; a block of them over and over.
template <class T, std::size_t R>
device_tensor<T, R> random_tensor(backend& b, extents<R> shape, std::uint64_t seed, float deviation = 1) {
  auto result = b.make_tensor<T>(shape);
  const index size = result.size();
  std::vector<float> block(static_cast<std::size_t>(std::min<index>(size, 1 << 20)));
  const esft::counter_rng rng(seed, esft::rng_stream::test);
  for (std::size_t i = 0; i < block.size(); ++i) block[i] = deviation * static_cast<float>(rng.normal(i));
  auto flat = result.view().flat();
  for (index begin = 0; begin < size; begin += static_cast<index>(block.size())) {
    const index end = std::min(size, begin + static_cast<index>(block.size()));
    b.copy_in(std::span<const float>(block.data(), static_cast<std::size_t>(end - begin)), flat.slice(begin, end));
  }
  return result;
}

/// A row, and a share of a ceiling beside it. @unit floor: that of the value, or percent where it is of the share
class table {
  using side = esft::bench::floor_side;

 public:
  explicit table(bool tiny) : rows_(!tiny) {}
  void row(const char* what, double value, const char* unit, double share, const char* of) { print(what, value, unit, share, of, 0, {}); }
  void at_least(double floor, const char* what, double value, const char* unit, double share, const char* of) {
    print(what, value, unit, share, of, value, {side::at_least, floor, unit});
  }
  void share_at_least(double floor, const char* what, double value, const char* unit, double share, const char* of) {
    print(what, value, unit, share, of, 100 * share, {side::at_least, floor, std::string("% of ") + of});
  }
  [[nodiscard]] int exit_code() const noexcept { return rows_.exit_code(); }

 private:
  void print(const char* what, double value, const char* unit, double share, const char* of, double figure,
             const esft::bench::floor_of& floor) {
    char cell[64];
    char note[96];
    std::snprintf(cell, sizeof(cell), "%.4g %s", value, unit);
    std::snprintf(note, sizeof(note), "%.1f %% of %s", 100 * share, of);
    rows_.row(what, cell, note, figure, floor);
  }
  esft::bench::floor_table rows_;
};

double moe_layer_flops(backend& b, bool tiny) {
  const index tokens = tiny ? 16 : 8192;
  const index width = tiny ? 32 : 2048;
  const index inner = tiny ? 16 : 1408;
  const index experts = tiny ? 8 : 64;
  const index active = tiny ? 2 : 6;
  esft::moe_parameters<backend> p;
  p.router.value = random_tensor<bf16>(b, extents<2>{experts, width}, 1);
  p.gate_up.value = random_tensor<bf16>(b, extents<3>{experts, 2 * inner, width}, 2, 0.02F);
  p.down.value = random_tensor<bf16>(b, extents<3>{experts, width, inner}, 3, 0.02F);
  const auto x = random_tensor<bf16>(b, extents<2>{tokens, width}, 4);
  auto y = random_tensor<bf16>(b, extents<2>{tokens, width}, 5);
  const esft::softmax_topk_router router(active);
  const double time = seconds(b, [&] {
    esft::moe_saved<backend> saved;
    esft::moe_forward(b, router, p, x.view(), y.view(), saved);
  });
  return 6.0 * static_cast<double>(tokens * active * width * inner) / time;
}

int figures(bool tiny) {
  table t(tiny);
  backend b;
  const index side = tiny ? 32 : 8192;
  const auto left = random_tensor<bf16>(b, extents<2>{side, side}, 1);
  const auto right = random_tensor<bf16>(b, extents<2>{side, side}, 2);
  auto product = b.make_tensor<bf16>(extents<2>{side, side});
  const double multiply = 2.0 * static_cast<double>(side * side * side) /
                          seconds(b, [&] { b.linear(left.view(), right.view(), product.view(), esft::write_mode::overwrite); });
  t.row("matrix product, 8192 x 8192 x 8192: the ceiling", multiply / 1e12, "TFLOP/s", 1, "itself");

  const index elements = tiny ? 1000 : index{1} << 28;
  const auto gradient = random_tensor<float>(b, extents<1>{elements}, 3);
  auto master = random_tensor<float>(b, extents<1>{elements}, 4);
  auto m = random_tensor<float>(b, extents<1>{elements}, 5);
  auto v = b.make_tensor<float>(extents<1>{elements});
  b.fill(v.view(), 1.0F);
  const double copy = 8.0 * static_cast<double>(elements) / seconds(b, [&] { b.copy(gradient.view(), master.view()); });
  t.row("copy, bytes read and written: the ceiling", copy / 1e9, "GB/s", 1, "itself");

  auto weight = b.make_tensor<bf16>(extents<1>{elements});
  const esft::update_slice<backend> piece{weight.view(), master.view(), true};  // any floats will do as the gradient
  const auto list = b.make_update_list({&piece, 1});
  auto state = random_tensor<float>(b, extents<1>{elements}, 6);
  const double update = 30.0 * static_cast<double>(elements) /
                        seconds(b, [&] { b.adamw(list, state.view(), m.view(), v.view(), {.learning_rate = 1e-6}); });
  t.share_at_least(75, "compact AdamW, 30 bytes an element", update / 1e9, "GB/s", update / copy, "the copy");

  const double streams = moe_layer_flops(b, tiny);
  t.row("MoE layer forward, 8192 tokens, a product an expert", streams / 1e12, "TFLOP/s", streams / multiply, "the product");
  backend batched({.grouped = esft::cuda_grouped::batched});
  const double together = moe_layer_flops(batched, tiny);
  t.row("MoE layer forward, 8192 tokens, grouped batched products", together / 1e12, "TFLOP/s", together / multiply, "the product");

  const double faster = std::max(streams, together);
  t.at_least(200, "MoE layer forward, the faster of the two that cuBLAS computes", faster / 1e12, "TFLOP/s", faster / multiply,
             "the product");

  backend own({.grouped = esft::cuda_grouped::device});
  const double here = moe_layer_flops(own, tiny);
  t.row("MoE layer forward, 8192 tokens, own kernels, sizes on the device", here / 1e12, "TFLOP/s", here / multiply, "the product");

  const index tokens = tiny ? 40 : 4096;
  const auto q = random_tensor<bf16>(b, extents<3>{tokens, 16, 128}, 7);
  auto o = b.make_tensor<bf16>(q.shape());
  auto lse = b.make_tensor<float>(extents<2>{tokens, 16});
  auto begin = b.make_tensor<std::int32_t>(extents<1>{tokens});
  auto end = b.make_tensor<std::int32_t>(extents<1>{tokens});
  b.fill(begin.view(), 0);
  std::vector<std::int32_t> ends(static_cast<std::size_t>(tokens));
  for (std::size_t t = 0; t < ends.size(); ++t) ends[t] = static_cast<std::int32_t>(t) + 1;
  b.copy_in(std::span<const std::int32_t>(ends), end.view());
  const double attention =
      2.0 * static_cast<double>(tokens * (tokens + 1) * 16 * 128) / seconds(b, [&] {
        b.attention(q.view(), q.view(), q.view(), std::as_const(begin).view(), std::as_const(end).view(), 0.088, o.view(), lse.view());
      });
  t.share_at_least(40, "attention forward, causal, 4096 tokens, 16 heads of 128", attention / 1e12, "TFLOP/s", attention / multiply,
                   "the product");
  return t.exit_code();
}

}  // namespace

int main(int argc, char** argv) {
  if (backend::devices() == 0) {
    std::puts("SKIP: cuda: no device");
    return 77;
  }
  try {
    return figures(argc > 1 && std::string_view(argv[1]) == "--tiny");
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "%s\n", failure.what());
    return 1;
  }
}
