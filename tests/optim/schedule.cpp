// SPDX-License-Identifier: Apache-2.0
// Schedules at the points where their value is known.
#include <esft/optim/schedule.hpp>

#include <string>

#include <gtest/gtest.h>

namespace optim_schedule_tests {

template <class S>
class schedules : public testing::Test {};
template <class List>
struct as_types;
template <class... S>
struct as_types<esft::type_list<S...>> {
  using type = testing::Types<S...>;
};
struct schedule_names {
  template <class S>
  static std::string GetName(int) {
    return std::string(S::name);
  }
};
TYPED_TEST_SUITE(schedules, as_types<esft::builtin_schedules>::type, schedule_names);

TYPED_TEST(schedules, warms_up_in_a_straight_line_and_stays_in_range) {
  static_assert(esft::schedule<TypeParam>);
  const TypeParam s{{.warmup = 10, .total = 100, .final_factor = 0.1}};
  EXPECT_DOUBLE_EQ(s.factor(1), 0.1);
  EXPECT_DOUBLE_EQ(s.factor(5), 0.5);
  EXPECT_DOUBLE_EQ(s.factor(10), 1.0);
  double previous = 1;
  for (std::int64_t step = 10; step <= 300; ++step) {
    EXPECT_LE(s.factor(step), previous) << step;  // never rises after the warm-up
    EXPECT_GE(s.factor(step), 0.1 - 1e-15) << step;
    previous = s.factor(step);
  }
}

TYPED_TEST(schedules, without_warm_up_begins_at_the_peak) {
  const TypeParam s{{.warmup = 0, .total = 100, .final_factor = 0}};
  EXPECT_NEAR(s.factor(1), 1.0, 0.011);
  const TypeParam one{{.warmup = 0, .total = 1, .final_factor = 0}};  // a run of one step
  EXPECT_GE(one.factor(1), 0.0);
}

TEST(schedule_values, constant) {
  const esft::constant_schedule s{{.warmup = 4, .total = 8, .final_factor = 0}};
  EXPECT_DOUBLE_EQ(s.factor(3), 0.75);
  EXPECT_DOUBLE_EQ(s.factor(1000), 1.0);
}

TEST(schedule_values, linear) {
  const esft::linear_schedule s{{.warmup = 10, .total = 110, .final_factor = 0.2}};
  EXPECT_DOUBLE_EQ(s.factor(60), 0.6);
  EXPECT_DOUBLE_EQ(s.factor(110), 0.2);
  EXPECT_DOUBLE_EQ(s.factor(500), 0.2);
}

TEST(schedule_values, cosine) {
  const esft::cosine_schedule s{{.warmup = 0, .total = 100, .final_factor = 0}};
  EXPECT_NEAR(s.factor(25), 0.85355339059327378, 1e-15);  // (1 + cos(pi/4)) / 2
  EXPECT_NEAR(s.factor(50), 0.5, 1e-15);
  EXPECT_NEAR(s.factor(100), 0.0, 1e-15);
}

}  // namespace optim_schedule_tests
