// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `f16`: storage of IEEE half precision, for checkpoints that have it. Nothing computes in it.

#include <esft/core/dtype.hpp>

#include <bit>
#include <cstdint>

namespace esft {

/// Half precision as files store it. Conversion rounds to nearest even, what is too large becomes an infinity, a NaN stays a NaN.
/// @source IEEE 754-2019 binary16
struct f16 {
  std::uint16_t bits{};

  f16() = default;
  ESFT_HOST_DEVICE constexpr explicit f16(float value) noexcept : bits(round_bits(value)) {}
  ESFT_HOST_DEVICE constexpr operator float() const noexcept {  // NOLINT(google-explicit-constructor): exact widening
    const std::uint32_t sign = (bits & 0x8000U) << 16U;
    const std::uint32_t exponent = (bits >> 10U) & 31U;
    const std::uint32_t fraction = bits & 0x3ffU;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13U));
    if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23U) | (fraction << 13U));
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // zero or subnormal
    return sign != 0 ? -magnitude : magnitude;
  }
  /// Reinterprets 16 stored bits.
  ESFT_HOST_DEVICE static constexpr f16 from_bits(std::uint16_t stored) noexcept {
    f16 result;
    result.bits = stored;
    return result;
  }

 private:
  ESFT_HOST_DEVICE static constexpr std::uint16_t round_bits(float value) noexcept {
    const auto wide = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t sign = (wide >> 16U) & 0x8000U;
    const std::uint32_t magnitude = wide & 0x7fffffffU;
    if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
    if (magnitude >= 0x47800000U) return static_cast<std::uint16_t>(sign | 0x7c00U);
    if (magnitude >= 0x38800000U) {  // a normal number; rounding may carry it to the next exponent, or to infinity
      return static_cast<std::uint16_t>(sign | (((magnitude + 0xfffU + ((magnitude >> 13U) & 1U)) >> 13U) - (112U << 10U)));
    }
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;  // one unit in the last place of 0.5 is that of subnormal halves
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5F)));
  }
};
static_assert(sizeof(f16) == 2);

template <> struct dtype_of<f16> { static constexpr dtype value = dtype::float16; };

/// The value as an element of this type stores it: of the types that checkpoints have, wider ones change nothing.
[[nodiscard]] constexpr float as_stored(float value, dtype type) noexcept {
  return type == dtype::bfloat16 ? static_cast<float>(bf16(value)) : type == dtype::float16 ? static_cast<float>(f16(value)) : value;
}

}  // namespace esft
