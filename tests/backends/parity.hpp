// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What every backend owes over the table of ops: the numbers of the reference, exact sums of integers, the same bits again, gradients.

#include "gradient_cases.hpp"
#include "ops.hpp"

#include <bit>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace esft::test {

/// On what a backend is checked.
struct parity_scope {
  std::vector<sizes> shapes;
  std::function<bool(std::string_view op)> takes = [](std::string_view) { return true; };
  arrangement how = arrangement::row_major;
  std::string label{};  ///< goes into messages
};

/// Factor of the tolerance of one output, for backends that round where the others do not.
using allowance = std::function<double(std::string_view op, rule, const sizes&, precision)>;
inline double usual_allowance(std::string_view, rule r, const sizes& s, precision) { return factor_of(r, s); }

inline std::string place_of(const std::string& op, const output& o, const sizes& s, const std::string& label) {
  return op + " " + o.name + " at " + std::to_string(s.a) + " x " + std::to_string(s.b) + " x " + std::to_string(s.c) +
         (label.empty() ? "" : " on " + label);
}

/// Every op against the reference backend in double, on the same rounded inputs.
template <class Backend>
void check_parity(Backend& backend, const parity_scope& scope, const allowance& allowed = usual_allowance) {
  constexpr bool half = std::same_as<value_t<Backend>, bf16>;
  reference_backend<double> reference;
  for_each_op([&](const std::string& name, rule r, auto make, auto run) {
    if (!scope.takes(name)) return;
    std::uint64_t seed = 1;
    double norm = 0;
    for (const sizes s : scope.shapes) {
      generator g(seed++);
      const inputs in = rounded<Backend>(make(s, g));
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in, scope.how));
      const outputs terms = r == rule::products ? sizes_of_terms(in, run) : outputs{};
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const std::span<const double> magnitude = terms.empty() ? std::span<const double>() : std::span<const double>(terms[i].values);
        const precision kind = actual[i].kind;
        const comparison result = compare(actual[i].values, expected[i].values, magnitude, kind, half, allowed(name, r, s, kind));
        EXPECT_TRUE(result.passed) << place_of(name, expected[i], s, scope.label) << ": " << result.what;
        for (const double x : expected[i].values) norm += std::isnan(x) ? 0 : std::abs(x);
      }
    }
    EXPECT_GT(norm, 0) << name << " was compared on zeros only";
  });
}

/// Sums of small integers have one right answer.
template <class Backend>
void check_integers(Backend& backend, const parity_scope& scope) {
  using T = value_t<Backend>;
  reference_backend<double> reference;
  for_each_matrix_op([&](const std::string& name, rule, auto make, auto run) {
    if (!scope.takes(name)) return;
    std::uint64_t seed = 100;
    for (const sizes s : scope.shapes) {
      generator g(seed++, true);
      const inputs in = make(s, g);
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in, scope.how));
      for (std::size_t i = 0; i < actual.size(); ++i) {
        for (std::size_t j = 0; j < actual[i].values.size(); ++j) {
          const double exact = expected[i].values[j];
          const double wanted = actual[i].kind == precision::stored ? static_cast<double>(T(static_cast<float>(exact))) : exact;
          ASSERT_EQ(actual[i].values[j], wanted) << place_of(name, expected[i], s, scope.label);
        }
      }
    }
  });
}

/// Every op `times` times on fresh buffers full of NaN, to the same bits; `prepare(run)` comes before each. Returns a digest of the bits.
template <class Backend, class Prepare>
[[nodiscard]] std::uint64_t check_same_bits(Backend& backend, const parity_scope& scope, int times, const Prepare& prepare) {
  std::uint64_t digest = 0xcbf29ce484222325U;
  for_each_op([&](const std::string& name, rule, auto make, auto run) {
    if (!scope.takes(name)) return;
    for (const sizes s : scope.shapes) {
      generator g(7);
      const inputs in = rounded<Backend>(make(s, g));
      prepare(0);
      const outputs first = run(lab(backend, in, scope.how));
      for (int again = 1; again < times; ++again) {
        prepare(again);
        const outputs other = run(lab(backend, in, scope.how));
        ASSERT_EQ(other.size(), first.size());
        for (std::size_t i = 0; i < first.size(); ++i) {
          ASSERT_EQ(other[i].values.size(), first[i].values.size());
          for (std::size_t j = 0; j < first[i].values.size(); ++j) {
            ASSERT_EQ(std::bit_cast<std::uint64_t>(other[i].values[j]), std::bit_cast<std::uint64_t>(first[i].values[j]))
                << place_of(name, first[i], s, scope.label) << ", element " << j << " in run " << again;
          }
        }
      }
      for (const output& o : first) {
        for (const double x : o.values) digest = (digest ^ std::bit_cast<std::uint64_t>(x)) * 0x100000001b3U;
      }
    }
  });
  return digest;
}

/// Every backward op against differences of its forward.
template <class Backend>
void check_gradients(Backend& backend) {
  const difference_rule& differences = std::same_as<value_t<Backend>, double> ? double_differences : float_differences;
  for (const gradient_case& test : all_cases(backend)) {
    EXPECT_LE(worst_error(test, test.gradient, differences), differences.allowed) << test.name;
  }
}

}  // namespace esft::test
