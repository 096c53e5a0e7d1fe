// SPDX-License-Identifier: Apache-2.0
#include <esft/data/mixing.hpp>

#include <algorithm>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace mixing_tests {

TEST(mixing, every_cycle_holds_the_exact_ratio_and_each_source_is_read_in_order) {
  EXPECT_TRUE(rc::check("cycles of a mix", [] {
    auto weights = *rc::gen::container<std::vector<std::uint32_t>>(static_cast<std::size_t>(*rc::gen::inRange(1, 5)),
                                                                    rc::gen::inRange<std::uint32_t>(0, 9));
    weights.back() += 1;  // some weight is positive
    const esft::mixing_schedule mix(weights, *rc::gen::arbitrary<std::uint64_t>());
    std::vector<std::uint64_t> next(weights.size(), 0);
    for (std::uint64_t n = 0; n < 5 * mix.cycle_length(); ++n) {
      const auto pick = mix.at(n);
      RC_ASSERT(pick.row == next[pick.source]);
      ++next[pick.source];
      for (std::size_t s = 0; s < weights.size(); ++s) {  // never more than one cycle's share away from the ratio
        const auto cycles = n / mix.cycle_length();
        RC_ASSERT(next[s] >= cycles * weights[s] && next[s] <= (cycles + 1) * weights[s]);
      }
      if ((n + 1) % mix.cycle_length() == 0) {
        for (std::size_t s = 0; s < weights.size(); ++s) RC_ASSERT(next[s] == (n + 1) / mix.cycle_length() * weights[s]);
      }
    }
  }));
}

TEST(mixing, is_a_function_of_the_seed_and_the_number_alone) {
  const esft::mixing_schedule first({3, 2}, 5);
  const esft::mixing_schedule again({3, 2}, 5);
  const esft::mixing_schedule other({3, 2}, 6);
  bool differs = false;
  for (std::uint64_t n = 200; n-- > 0;) {
    EXPECT_EQ(first.at(n).source, again.at(n).source);
    EXPECT_EQ(first.at(n).row, again.at(n).row);
    differs = differs || first.at(n).source != other.at(n).source;
  }
  EXPECT_TRUE(differs);
}

TEST(mixing, cycles_are_not_all_in_the_same_order) {
  const esft::mixing_schedule mix({4, 4}, 1);
  std::vector<std::vector<std::size_t>> orders;
  for (std::uint64_t cycle = 0; cycle < 8; ++cycle) {
    std::vector<std::size_t> order;
    for (std::uint64_t i = 0; i < 8; ++i) order.push_back(mix.at(8 * cycle + i).source);
    orders.push_back(order);
  }
  std::sort(orders.begin(), orders.end());
  EXPECT_GT(std::unique(orders.begin(), orders.end()) - orders.begin(), 4);
}

TEST(mixing, a_mix_of_nothing_or_of_too_much_is_refused) {
  EXPECT_THROW(esft::mixing_schedule({}, 1), esft::contract_violation);
  EXPECT_THROW(esft::mixing_schedule({0, 0}, 1), esft::contract_violation);
  EXPECT_THROW(esft::mixing_schedule({65536, 1}, 1), esft::contract_violation);
  EXPECT_NO_THROW(esft::mixing_schedule({65535, 1}, 1));
  EXPECT_NO_THROW(esft::mixing_schedule({0, 1}, 1));
}

}  // namespace mixing_tests
