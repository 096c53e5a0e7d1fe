// SPDX-License-Identifier: Apache-2.0
// YaRN's rates and factors against the numbers of DeepSeek-V2-Lite, and what moves columns against plain loops.
#include "backend_list.hpp"
#include "numeric.hpp"

#include <esft/nn/columns.hpp>
#include <esft/nn/rotary.hpp>

namespace nn_rotary_tests {

using esft::index;
using esft_test::expect_close;
using esft_test::make;
using esft_test::to_host;

TEST(rotary_rates, blend_between_the_pairs_of_deepseek_v2_lite) {
  // factor 40, 4096 positions, 64 columns, theta 1e4: pairs below 10 keep their rate, pairs from 23 on are divided by 40
  const auto plain = esft::rotary_rates(64, 1e4, {});
  const auto scaled = esft::rotary_rates(64, 1e4, {.factor = 40, .original_positions = 4096});
  for (std::size_t i = 0; i < 32; ++i) {
    const double blend = std::clamp((static_cast<double>(i) - 10) / 13, 0.0, 1.0);
    EXPECT_NEAR(scaled[i], plain[i] * (1 - blend) + plain[i] / 40 * blend, 1e-15) << i;
  }
  EXPECT_EQ(scaled[10], plain[10]);
  EXPECT_LT(scaled[11], plain[11]);
  EXPECT_GT(scaled[22], plain[22] / 40);
  EXPECT_DOUBLE_EQ(scaled[23], plain[23] / 40);
}

TEST(rotary_rates, bounds_that_are_not_truncated_lie_between_pairs) {
  const auto whole = esft::rotary_rates(64, 1.5e5, {.factor = 32, .original_positions = 4096});
  const auto exact = esft::rotary_rates(64, 1.5e5, {.factor = 32, .original_positions = 4096, .truncate = false});
  EXPECT_NE(whole, exact);
  EXPECT_EQ(whole.front(), exact.front());
  EXPECT_EQ(whole.back(), exact.back());
}

template <class Backend>
class rotary : public ::testing::Test {};
TYPED_TEST_SUITE(rotary, esft_test::backends, esft_test::backend_names);

TYPED_TEST(rotary, equals_the_rope_of_the_backend_where_it_scales_nothing) {
  TypeParam b;
  using T = typename TypeParam::value_type;
  const std::vector<std::int32_t> positions{0, 3, 100, 3};
  std::vector<double> values(4 * 2 * 6);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<double>(i));
  auto by_table = make<T>(b, esft::extents<3>{4, 2, 6}, values);
  auto by_op = make<T>(b, esft::extents<3>{4, 2, 6}, values);
  const auto table = esft::make_rotary_table(b, std::span(positions), 6, 1e4, {});
  auto ids = b.template make_tensor<std::int32_t>(esft::extents<1>{4});
  b.copy_in(std::span(positions), ids.view());
  b.rope(by_op.view(), std::as_const(ids).view(), 1e4, 1);
  esft::rotate<TypeParam>(b, by_table.view(), table, 0, esft::rotary_pairs::halves, 1);
  expect_close(to_host(b, by_table), to_host(b, by_op), 1e-6, "rotated");
  esft::rotate<TypeParam>(b, by_table.view(), table, 0, esft::rotary_pairs::halves, -1);
  expect_close(to_host(b, by_table), values, 1e-6, "and back");
}

TYPED_TEST(rotary, turns_neighbours_of_the_last_columns_only) {
  TypeParam b;
  using T = typename TypeParam::value_type;
  const std::vector<std::int32_t> positions{1};
  auto x = make<T>(b, esft::extents<3>{1, 1, 5}, std::vector<double>{7, 1, 0, 0, 1});
  const auto table = esft::make_rotary_table(b, std::span(positions), 4, 1e4, {.magnitude = 2});
  esft::rotate<TypeParam>(b, x.view(), table, 1, esft::rotary_pairs::neighbours, 1);
  const std::vector<double> turned{7, 2 * std::cos(1.0), 2 * std::sin(1.0), -2 * std::sin(0.01), 2 * std::cos(0.01)};
  expect_close(to_host(b, x), turned, 1e-6, "pairs (1,2), (3,4)");
}

TYPED_TEST(rotary, columns_move_are_shared_and_summed) {
  TypeParam b;
  using T = typename TypeParam::value_type;
  const auto from = make<T>(b, esft::extents<2>{2, 3}, std::vector<double>{1, 2, 3, 4, 5, 6});
  auto to = make<T>(b, esft::extents<2>{4, 4}, std::vector<double>(16, 9));
  esft::copy_columns<TypeParam>(b, from.view(), to.view(), {.from_first = 1, .to_first = 1, .count = 2, .share = 2, .zeros = 1});
  expect_close(to_host(b, to), {9, 2, 3, 0, 9, 2, 3, 0, 9, 5, 6, 0, 9, 5, 6, 0}, 0, "each row for two");
  auto sum = make<T>(b, esft::extents<2>{2, 2}, std::vector<double>(4, 9));
  esft::sum_heads<TypeParam>(b, std::as_const(to).view(), sum.view(), 2, {.from_first = 1, .to_first = 1, .count = 1});
  expect_close(to_host(b, sum), {9, 4, 9, 10}, 0, "over two heads");
  EXPECT_THROW(esft::copy_columns<TypeParam>(b, from.view(), to.view(), {.from_first = 2, .count = 2, .share = 2}),
               esft::contract_violation);
}

}  // namespace nn_rotary_tests
