// SPDX-License-Identifier: Apache-2.0
#include <esft/analysis/matched_loss.hpp>

#include <gtest/gtest.h>

#include <limits>

namespace {

using esft::forgotten_at_matched_loss;
using esft::trade_off_curve;

TEST(matched_loss, between_two_runs_the_curve_is_linear_in_the_logarithm_of_the_loss) {
  const trade_off_curve curve({{1.0, 0.0}, {0.01, 0.4}});
  EXPECT_NEAR(curve.forgotten_at(0.1).value(), 0.2, 1e-12);
  EXPECT_DOUBLE_EQ(curve.forgotten_at(1.0).value(), 0.0);
  EXPECT_DOUBLE_EQ(curve.forgotten_at(0.01).value(), 0.4);
}

TEST(matched_loss, nothing_is_said_outside_the_runs) {
  const trade_off_curve curve({{1.0, 0.0}, {0.01, 0.4}});
  EXPECT_FALSE(curve.forgotten_at(1.01));
  EXPECT_FALSE(curve.forgotten_at(0.0099));
  EXPECT_FALSE(trade_off_curve({}).forgotten_at(1.0));
}

TEST(matched_loss, a_run_that_another_beats_on_both_counts_is_no_part_of_the_curve) {
  const trade_off_curve curve({{0.02, 1.1}, {0.018, 0.2}, {0.03, 0.05}, {0.05, 0.07}});
  ASSERT_EQ(curve.points().size(), 2U);
  EXPECT_DOUBLE_EQ(curve.points()[0].task_loss, 0.018);
  EXPECT_DOUBLE_EQ(curve.points()[1].task_loss, 0.03);
}

TEST(matched_loss, runs_that_diverged_are_left_out) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(trade_off_curve({{nan, 0.1}, {std::numeric_limits<double>::infinity(), 0.1}, {0.5, nan}, {0.0, 0.1}}).points().empty());
}

TEST(matched_loss, the_difference_is_taken_where_both_have_runs) {
  const trade_off_curve a({{1.0, 0.0}, {0.01, 0.4}});
  const trade_off_curve b({{0.1, 0.1}, {0.001, 0.5}});  // on the shared range, 0.1 to 0.01: a goes from 0.2 to 0.4, b from 0.1 to 0.3
  EXPECT_NEAR(forgotten_at_matched_loss(a, b).value(), 0.1, 1e-12);
  EXPECT_NEAR(forgotten_at_matched_loss(b, a).value(), -0.1, 1e-12);
  EXPECT_NEAR(forgotten_at_matched_loss(a, b, 1).value(), 0.1, 1e-12);
}

TEST(matched_loss, curves_that_never_reach_the_same_loss_are_not_compared) {
  const trade_off_curve a({{1.0, 0.0}, {0.5, 0.1}});
  const trade_off_curve b({{0.4, 0.0}, {0.1, 0.1}});
  EXPECT_FALSE(forgotten_at_matched_loss(a, b));
  EXPECT_FALSE(forgotten_at_matched_loss(a, trade_off_curve({})));
}

}  // namespace
