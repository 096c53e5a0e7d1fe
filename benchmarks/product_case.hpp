// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the grouped products of all libraries have in common: their operands, their useful work, and a check of what came out.

#include "random.hpp"
#include "routing.hpp"
#include "weights.hpp"

#include <benchmark/benchmark.h>

namespace esft::bench {

enum class product { gate_up, down, dx, dw_selected };
inline constexpr const char* product_names[] = {"gate_up", "down", "dX", "dW_selected"};

/// Which stack of weights a product multiplies by (dX and dW_selected are those of gate_up).
constexpr matrix matrix_of(product op) { return op == product::down ? matrix::down : matrix::gate_up; }

/// Rows of a case, sorted by expert, and the operands that go with them.
template <class T>
struct product_operands {
  product_operands(const bench_case& c, product op);

  index rows, n, k;                     ///< R, and the extents of one expert's matrix
  std::vector<std::int32_t> offsets;    ///< [E + 1]
  std::vector<std::int32_t> selected;
  host_tensor<T, 2> x, dy;              ///< [R, K], [R, N]; which of them are inputs depends on the product
  host_tensor<float, 3> dw;             ///< [S, N, K], zero; only for dW_selected
};

/// Counters of a benchmark: FLOP/s on useful work, its share of the arithmetic ceiling and of the roofline, rows an expert.
void count_product(benchmark::State& state, const bench_case& c, product op, index rows_in_use, index experts_in_use);

/// Compares some elements of the result with sums in double; empty where they agree.
template <class T>
std::string check_product(product op, const product_operands<T>& operands, const T* weights, matrix_layout layout, const float* dw,
                          matrix_layout dw_layout);

}  // namespace esft::bench
