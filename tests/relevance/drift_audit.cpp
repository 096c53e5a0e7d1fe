// SPDX-License-Identifier: Apache-2.0
#include <esft/relevance/drift_audit.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace {

using esft::drift_indicator;
using esft::worst_dimensions;
using indices = std::vector<std::size_t>;

TEST(drift_audit, small_drift_on_little_information_is_more_suspicious_than_the_largest_drift) {
  const std::vector<float> base{0, 0, 0, 1};
  const std::vector<float> now{0.1F, -0.2F, 0.3F, 1};
  const std::vector<double> fisher{0.01, 0.04, 0.01, 0.5};
  const auto r = drift_indicator(base, now, fisher, 0);
  EXPECT_NEAR(r[0], 1, 1e-6);
  EXPECT_NEAR(r[1], 1, 1e-6);
  EXPECT_NEAR(r[2], 9, 1e-5);
  EXPECT_EQ(r[3], 0);
  EXPECT_EQ(worst_dimensions(r, 0.25), (indices{2}));
  EXPECT_EQ(worst_dimensions(r, 0), indices{});
  EXPECT_EQ(worst_dimensions(r, 1), (indices{0, 1, 2}));  // what did not move has nothing to go back from
}

TEST(drift_audit, without_information_epsilon_decides) {
  const std::vector<float> base{0, 0};
  const std::vector<float> now{0.5F, 0};
  const std::vector<double> fisher{0, 0};
  EXPECT_TRUE(std::isinf(drift_indicator(base, now, fisher, 0)[0]));
  EXPECT_EQ(drift_indicator(base, now, fisher, 0)[1], 0);
  EXPECT_DOUBLE_EQ(drift_indicator(base, now, fisher, 0.25)[0], 1);
}

TEST(drift_audit, of_equals_the_first_goes_back) {
  const std::vector<double> r{1, 2, 2, 2};
  EXPECT_EQ(worst_dimensions(r, 0.5), (indices{1, 2}));
  EXPECT_EQ(worst_dimensions(r, 0.74), (indices{1, 2}));
}

}  // namespace
