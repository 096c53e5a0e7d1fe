// SPDX-License-Identifier: Apache-2.0
#include <esft/core/dtype.hpp>

#include <cmath>
#include <cstdint>
#include <limits>

#include <gtest/gtest.h>

namespace core_dtype_tests {

TEST(bf16, every_pattern_survives_a_round_trip_through_float) {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto stored = esft::bf16::from_bits(static_cast<std::uint16_t>(bits));
    const float wide = stored;
    const esft::bf16 back(wide);
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    } else {
      EXPECT_EQ(back.bits, bits);
    }
  }
}

TEST(bf16, rounds_to_nearest_even_and_keeps_nan) {
  EXPECT_EQ(esft::bf16(1.00390625F).bits, 0x3f80);  // half way between 1 and the next value: to even
  EXPECT_EQ(esft::bf16(1.01171875F).bits, 0x3f82);  // half way, the other neighbour is even
  EXPECT_EQ(esft::bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  for (const std::uint32_t nan : {0x7f800001U, 0x7fffffffU, 0xffffffffU}) {
    EXPECT_TRUE(std::isnan(static_cast<float>(esft::bf16(std::bit_cast<float>(nan))))) << nan;
  }
}

}  // namespace core_dtype_tests
