// SPDX-License-Identifier: Apache-2.0
#include <esft/io/bytes.hpp>

#include <cstdint>
#include <optional>

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include "io_test.hpp"

namespace bytes_tests {

using esft::checked_size;
__extension__ using wide = unsigned __int128;

TEST(checked_size, equals_wider_arithmetic_or_is_invalid) {
  const bool holds = rc::check("against 128 bits", [](std::uint64_t a, std::uint64_t b, bool big) {
    if (big) a |= std::uint64_t{1} << 63U;
    const auto agree = [](checked_size result, wide exact) {
      RC_ASSERT(result.valid() == (exact >> 64U == 0));
      if (!result.valid()) return;
      RC_ASSERT(result.value() == static_cast<std::uint64_t>(exact));
    };
    agree(checked_size(a) + checked_size(b), static_cast<wide>(a) + b);
    agree(checked_size(a) * checked_size(b), static_cast<wide>(a) * b);
    RC_ASSERT((checked_size(a) - checked_size(b)).valid() == (a >= b));
  });
  EXPECT_TRUE(holds);
}

TEST(checked_size, stays_invalid_and_says_where) {
  const checked_size wrapped = checked_size(std::uint64_t{1} << 63U) * checked_size(2);
  EXPECT_FALSE(wrapped.valid());
  EXPECT_FALSE((wrapped * checked_size(0) + checked_size(1)).valid());
  esft::test::expect_input_error(
      esft::input_error_code::size_overflow,
      [&] {
        static_cast<void>(wrapped.value({"f", "t", {}}));
      },
      "f: 't'");
  EXPECT_EQ((checked_size(6) * checked_size(7)).value(), 42U);
}

TEST(little_endian, loads_at_any_alignment_what_store_wrote) {
  const auto bytes = esft::store_little_endian(std::uint32_t{0x04030201});
  EXPECT_EQ(static_cast<int>(bytes[0]), 1);
  std::array<std::byte, 5> shifted{};
  std::copy(bytes.begin(), bytes.end(), shifted.begin() + 1);
  EXPECT_EQ(esft::load_little_endian<std::uint32_t>(std::span(shifted).subspan(1)), 0x04030201U);
}

}  // namespace bytes_tests
