// SPDX-License-Identifier: Apache-2.0
// Every backward op against central differences of its forward, in double and in float on the reference backend; and planted bugs that
// must be found.
#include "gradient_cases.hpp"

#include <esft/backend/reference_backend.hpp>

namespace esft::test {
namespace gradients_tests {

using backend_type = reference_backend<double>;

TEST(gradients, agree_with_central_differences) {
  backend_type backend;
  for (const gradient_case& test : all_cases(backend)) {
    EXPECT_LE(worst_error(test, test.gradient, double_differences), double_differences.allowed) << test.name;
  }
}

TEST(gradients, planted_bugs_are_found) {
  backend_type backend;
  EXPECT_GE(find_planted_bugs(backend, double_differences, 0.001), 20);
}

// The rule for float is tried out where the numbers are those of the plain loops.
TEST(gradients, in_float_too) {
  reference_backend<float> backend;
  for (const gradient_case& test : all_cases(backend)) {
    EXPECT_LE(worst_error(test, test.gradient, float_differences), float_differences.allowed) << test.name;
  }
  EXPECT_GE(find_planted_bugs(backend, float_differences, 0.05), 20);
}

TEST(gradients, an_expert_without_rows_gets_exactly_zero) {
  backend_type backend;
  const gradient_case test = experts_case(backend);
  const auto& down = test.gradient.at("down");
  for (std::size_t i = 12; i < 24; ++i) EXPECT_EQ(down[i], 0.0);
  EXPECT_NE(down[0], 0.0);
}

// x = 1, gate 2, up 3, down 0.5, weight 0.5, output gradient 1: worked by hand.
TEST(gradients, scalar_swiglu_has_the_known_values) {
  backend_type b;
  inputs in{{{"gate_up", {{1, 2}, {2, 3}}}, {"dh", {{1, 1}, {0.5}}}}, {{"weights", {{1, 1}, {0.5}}}}, {{"row_slot", {0}}}};
  const lab<backend_type> l(b, in);
  const auto gate_up = l.value<2>("gate_up");
  const auto dh = l.value<2>("dh");
  const auto weights = l.sum<2>("weights");
  const auto row_slot = l.ids("row_slot");
  auto dgate_up = l.blank_value(gate_up.shape());
  auto weighted_h = l.blank_value(dh.shape());
  auto dweights = l.blank_sum(weights.shape());
  b.weighted_swiglu_backward(c(gate_up), c(dh), c(weights), c(row_slot), dgate_up.view(), weighted_h.view(), dweights.view());
  EXPECT_NEAR(dweights.data()[0], 2.642391, 1e-6);
  EXPECT_NEAR(weighted_h.data()[0], 2.642391, 1e-6);
  EXPECT_NEAR(dgate_up.data()[0], 0.818088, 1e-6);
  EXPECT_NEAR(dgate_up.data()[1], 0.440399, 1e-6);
  EXPECT_NEAR(2 * dgate_up.data()[0] + 3 * dgate_up.data()[1], 2.957372, 2e-6);
}

}  // namespace gradients_tests
}  // namespace esft::test
