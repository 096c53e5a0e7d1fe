// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The checks of the GPU backend over the table of ops, on whichever machinery runs its kernels.

#include "../backends/parity.hpp"

#include <esft/backends/cuda.hpp>

#include <string_view>

#include <gtest/gtest.h>

namespace esft::test {

/// Tokens and head widths that tensor cores take, padded or not: less than a tile, several with a rest. Few: the emulator is slow.
inline std::vector<sizes> tensor_core_heads() { return {{5, 1, 8}, {130, 1, 64}, {66, 1, 72}, {66, 1, 128}, {33, 1, 256}}; }

/// Extents of grouped products of bf16 that tensor cores take: less than a tile, and tiles with a rest each way.
inline std::vector<sizes> tensor_core_products() { return {{7, 8, 16}, {150, 136, 72}}; }
inline constexpr cuda_options products_on_the_device{.grouped = cuda_grouped::device};

/// Extents of grouped products of which one or another is odd beside a multiple of 8: results begin where no multiple of 16 bytes is.
inline std::vector<sizes> unaligned_products() {
  return {{7, 8, 3}, {40, 16, 5}, {41, 3, 16}, {40, 5, 8}, {33, 6, 8}, {64, 64, 33}, {60, 16, 8}};
}
inline constexpr cuda_options products_together{.grouped = cuda_grouped::batched};

/// Ops whose names begin with `only`.
inline parity_scope cuda_scope(const std::vector<sizes>& shapes, std::string_view only) {
  return {.shapes = shapes, .takes = [only](std::string_view op) { return op.starts_with(only); }};
}

template <class T>
void check_cuda_parity(const std::vector<sizes>& shapes, std::string_view only = "", const cuda_options& options = {}) {
  cuda_backend<T> backend(options);
  check_parity(backend, cuda_scope(shapes, only), [](std::string_view op, rule r, const sizes& s, precision kind) {
    constexpr bool half = std::same_as<T, bf16>;
    // Tensor cores take weights of bf16.
    if (half && r == rule::attention && s.c % 8 == 0 && kind == precision::stored) return rounded_weights;
    const bool split = half && (op.starts_with("logits_dx") || op == "logits_dw");
    return factor_of(r, s) + (split ? split_operand_factor : 0);
  });
}
template <class T>
void check_cuda_integers(const std::vector<sizes>& shapes, std::string_view only = "", const cuda_options& options = {}) {
  cuda_backend<T> backend(options);
  check_integers(backend, cuda_scope(shapes, only));
}
/// As many runs as said; `prepare(run)` comes before each.
template <class T, class Prepare>
void check_cuda_bits(int runs, sizes s, const Prepare& prepare, std::string_view only = "", const cuda_options& options = {}) {
  cuda_backend<T> backend(options);
  static_cast<void>(check_same_bits(backend, cuda_scope({s}, only), runs, prepare));
}

}  // namespace esft::test
