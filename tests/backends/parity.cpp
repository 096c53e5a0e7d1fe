// SPDX-License-Identifier: Apache-2.0
// Every op of the CPU backend against the reference backend in double, on the same rounded inputs.
#include "parity.hpp"

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

/// Every op against the reference on shapes of both kinds.
template <class T>
void check_all(std::string_view isa, arrangement how) {
  constexpr bool half = std::same_as<T, bf16>;
  const bool packed = how == arrangement::packed;
  eigen_backend<T> backend(2);
  backend.use(isa);
  const auto takes = [packed](std::string_view op) { return !packed || op.find("linear") != op.npos || op.find("logits") != op.npos; };
  const auto allowed = [&](std::string_view op, rule r, const sizes& s, precision kind) {
    if (half && r == rule::attention && kind == precision::stored && backend.isa() == "amx") return rounded_weights;
    const bool split = half && packed && (op.starts_with("logits_dx") || op == "logits_dw");
    return factor_of(r, s) + (split ? split_operand_factor : 0);
  };
  check_parity(backend, {packed ? whole_tiles() : odd_shapes(), takes, how, std::string(isa)}, allowed);
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
  std::vector<sizes> shapes = odd_shapes();
  for (const sizes s : whole_tiles()) shapes.push_back(s);
  check_integers(backend, {.shapes = shapes, .how = arrangement::packed});
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
