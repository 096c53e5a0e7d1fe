// SPDX-License-Identifier: Apache-2.0
#include "product_case.hpp"
#include "ceilings.hpp"

#include <cmath>

namespace esft::bench {

template <class T>
product_operands<T>::product_operands(const bench_case& c, product op) : rows(c.rows()), offsets(static_cast<std::size_t>(c.shape->experts) + 1) {
  const bool first = matrix_of(op) == matrix::gate_up;
  n = first ? 2 * c.shape->inner : c.shape->width;
  k = first ? c.shape->width : c.shape->inner;
  const auto ids = routed_ids(*c.shape, c.tokens, c.routing);
  for (const std::int32_t e : ids) ++offsets[static_cast<std::size_t>(e) + 1];
  for (std::size_t e = 1; e < offsets.size(); ++e) offsets[e] += offsets[e - 1];
  selected = selected_experts(*c.shape, ids, c.selection);
  x = random_tensor<T>(extents<2>{rows, k}, 21);
  dy = random_tensor<T>(extents<2>{rows, n}, 22);  // also what is only written: its pages must exist before the clock runs
  if (op == product::dw_selected) {
    dw = make_host_tensor<float, 3>({static_cast<index>(selected.size()), n, k});
    std::fill_n(dw.data(), dw.size(), 0.0F);
  }
}
template struct product_operands<float>;
template struct product_operands<bf16>;

void count_product(benchmark::State& state, const bench_case& c, product op, index rows_in_use, index experts_in_use) {
  const double matrix_elements = static_cast<double>((matrix_of(op) == matrix::gate_up ? 2 : 1) * c.shape->inner * c.shape->width);
  const double flops = 2 * static_cast<double>(rows_in_use) * matrix_elements;
  const double peak = ceiling_of(arithmetic_of(c.type), c.threads);
  // What must cross the memory bus: each weight once, or each gradient there and back. Activations are left out: that flatters nobody.
  const double element_bytes = op == product::dw_selected ? 8 : c.type == element::bf16 ? 2 : 4;
  const double bytes = static_cast<double>(experts_in_use) * matrix_elements * element_bytes;
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["FLOP/s"] = benchmark::Counter(flops, rate);
  if (peak > 0) {
    state.counters["of_peak"] = benchmark::Counter(flops / peak, rate);
    state.counters["of_roofline"] = benchmark::Counter(roofline_seconds(flops, peak, bytes, ceiling_of(ceiling::read_bytes, c.threads)), rate);
  }
  state.counters["flops"] = flops;
  state.counters["bytes"] = bytes;
  state.counters["rows_used"] = static_cast<double>(rows_in_use);
  state.counters["rows_an_expert"] = static_cast<double>(rows_in_use) / static_cast<double>(std::max<index>(1, experts_in_use));
}

namespace {
/// Sum of products in double with the size of its rounding: sqrt of the sum of squares.
struct exact {
  double sum = 0;
  double squares = 0;
  void add(double a, double b) {
    sum += a * b;
    squares += a * b * a * b;
  }
  [[nodiscard]] bool agrees(double value, bool stored_as_bf16) const {
    return std::abs(value - sum) <= (stored_as_bf16 ? 0.01 : 1e-4) * (std::sqrt(squares) + std::abs(sum));
  }
};
}  // namespace

template <class T>
std::string check_product(product op, const product_operands<T>& o, const T* weights, matrix_layout layout, const float* dw,
                          matrix_layout dw_layout) {
  const counter_rng rng(5, rng_stream::test);
  for (std::uint64_t trial = 0; trial < 64; ++trial) {
    const auto draw = [&](std::uint64_t which, index bound) {
      return static_cast<index>(rng.below(4 * trial + which, static_cast<std::uint64_t>(bound)));
    };
    const index n = draw(1, o.n);
    const index k = draw(2, o.k);
    exact expected;
    double found = 0;
    if (op == product::dw_selected) {
      const index s = draw(3, static_cast<index>(o.selected.size()));
      const auto e = static_cast<std::size_t>(o.selected[static_cast<std::size_t>(s)]);
      for (index r = o.offsets[e]; r < o.offsets[e + 1]; ++r) {
        expected.add(static_cast<double>(o.dy.view()(r, n)), static_cast<double>(o.x.view()(r, k)));
      }
      found = static_cast<double>(dw[s * o.n * o.k + dw_layout.offset(n, k, o.k)]);
      if (!expected.agrees(found, false)) return "wrong weight gradient";
      continue;
    }
    const index r = draw(3, o.rows);
    std::size_t e = 0;
    while (o.offsets[e + 1] <= r) ++e;
    const T* const w = weights + static_cast<index>(e) * o.n * o.k;
    if (op == product::dx) {
      for (index i = 0; i < o.n; ++i) {
        expected.add(static_cast<double>(o.dy.view()(r, i)), static_cast<double>(w[layout.offset(i, k, o.k)]));
      }
      found = static_cast<double>(o.x.view()(r, k));
    } else {
      for (index i = 0; i < o.k; ++i) {
        expected.add(static_cast<double>(o.x.view()(r, i)), static_cast<double>(w[layout.offset(n, i, o.k)]));
      }
      found = static_cast<double>(o.dy.view()(r, n));
    }
    if (!expected.agrees(found, sizeof(T) == 2)) {
      return "wrong result at row " + std::to_string(r) + ": " + std::to_string(found) + ", must be " + std::to_string(expected.sum);
    }
  }
  return {};
}
template std::string check_product(product, const product_operands<float>&, const float*, matrix_layout, const float*, matrix_layout);
template std::string check_product(product, const product_operands<bf16>&, const bf16*, matrix_layout, const float*, matrix_layout);

}  // namespace esft::bench
