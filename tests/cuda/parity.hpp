// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The checks of the GPU backend over the table of ops, on whichever machinery runs its kernels.

#include "../backends/gradient_cases.hpp"
#include "../backends/ops.hpp"

#include <esft/backends/cuda.hpp>

#include <bit>
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

/// `only` chooses ops by the beginning of their names.
template <class T>
void check_cuda_parity(const std::vector<sizes>& shapes, std::string_view only = "", const cuda_options& options = {}) {
  constexpr bool half = std::same_as<T, bf16>;
  cuda_backend<T> backend(options);
  reference_backend<double> reference;
  for_each_op([&](const std::string& name, rule r, auto make, auto run) {
    if (!name.starts_with(only)) return;
    std::uint64_t seed = 1;
    double norm = 0;
    for (const sizes s : shapes) {
      generator g(seed++);
      const inputs in = rounded<cuda_backend<T>>(make(s, g));
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in));
      const outputs terms = r == rule::products ? sizes_of_terms(in, run) : outputs{};
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const std::span<const double> magnitude = terms.empty() ? std::span<const double>() : std::span<const double>(terms[i].values);
        const bool split = half && (name.starts_with("logits_dx") || name == "logits_dw");
        // Tensor cores take weights of bf16.
        const bool rounded_by_8 = half && r == rule::attention && s.c % 8 == 0 && actual[i].kind == precision::stored;
        const double factor = rounded_by_8 ? rounded_weights : factor_of(r, s) + (split ? split_operand_factor : 0);
        const comparison result = compare(actual[i].values, expected[i].values, magnitude, actual[i].kind, half, factor);
        EXPECT_TRUE(result.passed) << name << " " << expected[i].name << " at " << s.a << " x " << s.b << " x " << s.c << ": "
                                   << result.what;
        for (const double x : expected[i].values) norm += std::isnan(x) ? 0 : std::abs(x);
      }
    }
    EXPECT_GT(norm, 0) << name << " was compared on zeros only";
  });
}

/// Sums of small integers have one right answer.
template <class T>
void check_cuda_integers(const std::vector<sizes>& shapes, std::string_view only = "", const cuda_options& options = {}) {
  cuda_backend<T> backend(options);
  reference_backend<double> reference;
  for_each_matrix_op([&](const std::string& name, rule, auto make, auto run) {
    if (!name.starts_with(only)) return;
    std::uint64_t seed = 100;
    for (const sizes s : shapes) {
      generator g(seed++, true);
      const inputs in = make(s, g);
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in));
      for (std::size_t i = 0; i < actual.size(); ++i) {
        for (std::size_t j = 0; j < actual[i].values.size(); ++j) {
          const double exact = expected[i].values[j];
          const double wanted = actual[i].kind == precision::stored ? static_cast<double>(T(static_cast<float>(exact))) : exact;
          ASSERT_EQ(actual[i].values[j], wanted) << name << " " << expected[i].name << " at " << s.a << " x " << s.b << " x " << s.c;
        }
      }
    }
  });
}

/// Every backward op against differences of its forward, by the rule for float.
inline void check_cuda_gradients() {
  cuda_backend<float> backend;
  for (const gradient_case& test : all_cases(backend)) {
    EXPECT_LE(worst_error(test, test.gradient, float_differences), float_differences.allowed) << test.name;
  }
}

/// Three runs of every op on fresh, poisoned buffers; `prepare(run)` comes before each.
template <class T, class Prepare>
void check_same_bits(sizes s, const Prepare& prepare, std::string_view only = "", const cuda_options& options = {}) {
  cuda_backend<T> backend(options);
  for_each_op([&](const std::string& name, rule, auto make, auto run) {
    if (!name.starts_with(only)) return;
    generator g(7);
    const inputs in = rounded<cuda_backend<T>>(make(s, g));
    prepare(0);
    const outputs first = run(lab(backend, in));
    for (const int again : {1, 2}) {
      prepare(again);
      const outputs other = run(lab(backend, in));
      ASSERT_EQ(other.size(), first.size());
      for (std::size_t i = 0; i < first.size(); ++i) {
        ASSERT_EQ(other[i].values.size(), first[i].values.size());
        for (std::size_t j = 0; j < first[i].values.size(); ++j) {
          ASSERT_EQ(std::bit_cast<std::uint64_t>(other[i].values[j]), std::bit_cast<std::uint64_t>(first[i].values[j]))
              << name << " " << first[i].name << " element " << j << " in run " << again;
        }
      }
    }
  });
}

}  // namespace esft::test
