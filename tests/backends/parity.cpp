// SPDX-License-Identifier: Apache-2.0
// Every op of the CPU backend against the reference backend in double, on the same rounded inputs.
#include "ops.hpp"

#include <esft/backends/eigen.hpp>
#include <esft/backends/eigen/isa.hpp>

#include <gtest/gtest.h>

namespace esft::test {
namespace parity_tests {

template <class T>
class parity : public testing::Test {};
using storage_types = testing::Types<float, bf16>;
TYPED_TEST_SUITE(parity, storage_types);

/// Shapes that whole tiles cover, with odd numbers of rows.
std::vector<sizes> whole_tiles() {
  std::vector<sizes> result;
  constexpr index rows[] = {1, 3, 16, 17, 33, 70, 129};
  constexpr index widths[] = {32, 64, 96, 160};
  for (std::size_t i = 0; i < std::size(rows); ++i) result.push_back({rows[i], widths[(3 * i + 1) % 4], widths[i % 4]});
  return result;
}

/// Compares every op of `for_each` with the reference on shapes of both kinds.
template <class T>
void check_all(std::string_view isa, arrangement how) {
  constexpr bool half = std::same_as<T, bf16>;
  eigen_backend<T> backend(2);
  backend.use(isa);
  reference_backend<double> reference;
  for_each_op([&](const std::string& name, rule r, auto make, auto run) {
    if (how == arrangement::packed && name.find("linear") == std::string::npos && name.find("logits") == std::string::npos) return;
    std::uint64_t seed = 1;
    double norm = 0;
    for (const sizes s : how == arrangement::packed ? whole_tiles() : odd_shapes()) {
      generator g(seed++);
      const inputs in = rounded<eigen_backend<T>>(make(s, g));
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in, how));
      const outputs terms = r == rule::products ? sizes_of_terms(in, run) : outputs{};
      ASSERT_EQ(actual.size(), expected.size());
      for (std::size_t i = 0; i < actual.size(); ++i) {
        const std::span<const double> magnitude = terms.empty() ? std::span<const double>() : std::span<const double>(terms[i].values);
        const bool rounded = half && r == rule::attention && actual[i].kind == precision::stored && backend.isa() == "amx";
        const bool split = half && how == arrangement::packed && (name.starts_with("logits_dx") || name == "logits_dw");
        const double factor = rounded ? rounded_weights : factor_of(r, s) + (split ? split_operand_factor : 0);
        const comparison result = compare(actual[i].values, expected[i].values, magnitude, actual[i].kind, half, factor);
        EXPECT_TRUE(result.passed) << name << " " << expected[i].name << " at " << s.a << " x " << s.b << " x " << s.c << " on " << isa
                                   << ": " << result.what;
        for (const double x : expected[i].values) norm += std::isnan(x) ? 0 : std::abs(x);
      }
    }
    EXPECT_GT(norm, 0) << name << " was compared on zeros only";
  });
}

TYPED_TEST(parity, every_op_matches_the_reference_in_double) {
  check_all<TypeParam>(eigen_backend<TypeParam>(1).isa(), arrangement::row_major);
}

TYPED_TEST(parity, the_kernels_of_older_cpus_match_too) {
  for (const auto set : detail::eigen::all_isas) {
    if (set < detail::eigen::best_isa_for<TypeParam>()) check_all<TypeParam>(detail::eigen::name_of(set), arrangement::row_major);
  }
}

TYPED_TEST(parity, packed_weights_match_on_every_instruction_set) {
  for (const auto set : detail::eigen::all_isas) {
    if (set <= detail::eigen::best_isa_for<TypeParam>()) check_all<TypeParam>(detail::eigen::name_of(set), arrangement::packed);
  }
}

TYPED_TEST(parity, small_integers_are_exact) {
  eigen_backend<TypeParam> backend(2);
  reference_backend<double> reference;
  for_each_matrix_op([&](const std::string& name, rule, auto make, auto run) {
    std::uint64_t seed = 100;
    std::vector<sizes> shapes = odd_shapes();
    for (const sizes s : whole_tiles()) shapes.push_back(s);
    for (const sizes s : shapes) {
      generator g(seed++, true);
      const inputs in = make(s, g);
      const outputs expected = run(lab(reference, in));
      const outputs actual = run(lab(backend, in, arrangement::packed));
      for (std::size_t i = 0; i < actual.size(); ++i) {
        for (std::size_t j = 0; j < actual[i].values.size(); ++j) {
          const double wanted = actual[i].kind == precision::stored
                                    ? static_cast<double>(TypeParam(static_cast<float>(expected[i].values[j])))
                                    : expected[i].values[j];
          ASSERT_EQ(actual[i].values[j], wanted) << name << " " << expected[i].name << " at " << s.a << " x " << s.b << " x " << s.c;
        }
      }
    }
  });
}

// The comparison must reject what it is there to find.
TEST(tolerance, rejects_a_lost_term_and_accepts_rounding) {
  const std::vector<double> expected{10, -3, 5};
  const std::vector<double> magnitude{20, 20, 20};
  std::vector<double> actual = expected;  // a correct result passes, each of the others must not
  actual[1] *= 1 + 1e-7;
  EXPECT_TRUE(compare(actual, expected, magnitude, precision::summed, false, 4 * 8).passed);
  actual[1] = expected[1] * 1.001;
  EXPECT_FALSE(compare(actual, expected, magnitude, precision::summed, false, 4 * 8).passed);
  actual[1] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(compare(actual, expected, magnitude, precision::summed, false, 4 * 8).passed);
  actual = expected;
  actual[0] *= 1 + 0x1.0p-9;
  EXPECT_TRUE(compare(actual, expected, magnitude, precision::stored, true, 4 * 8).passed);
  EXPECT_FALSE(compare(actual, expected, magnitude, precision::stored, false, 4 * 8).passed);
}

}  // namespace parity_tests
}  // namespace esft::test
