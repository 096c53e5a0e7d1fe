// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Element types: `bf16` storage, the accumulate type that belongs to each, and the run-time `dtype` tag.

#include <esft/core/config.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace esft {

/// bfloat16 storage: the upper half of a float32. Arithmetic happens in float; this type only stores.
/// Conversion rounds to nearest even and keeps every NaN a NaN.
/// @source IEEE-754 binary32 truncated to 16 bits (Google Brain bfloat16)
struct bf16 {
  std::uint16_t bits{};

  bf16() = default;
  ESFT_HOST_DEVICE constexpr explicit bf16(float value) noexcept : bits(round_bits(value)) {}
  ESFT_HOST_DEVICE constexpr operator float() const noexcept {  // NOLINT(google-explicit-constructor): exact widening
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U);
  }
  /// Reinterprets 16 stored bits.
  ESFT_HOST_DEVICE static constexpr bf16 from_bits(std::uint16_t stored) noexcept {
    bf16 result;
    result.bits = stored;
    return result;
  }

 private:
  ESFT_HOST_DEVICE static constexpr std::uint16_t round_bits(float value) noexcept {
    const auto wide = std::bit_cast<std::uint32_t>(value);
    if ((wide & 0x7fffffffU) > 0x7f800000U) {  // NaN: rounding could carry it into Inf or zero
      return static_cast<std::uint16_t>((wide >> 16U) | 0x0040U);
    }
    return static_cast<std::uint16_t>((wide + 0x7fffU + ((wide >> 16U) & 1U)) >> 16U);
  }
};
static_assert(sizeof(bf16) == 2);

/// The type in which sums over elements of `T` are accumulated, and in which gradients are stored.
template <class T>
struct accumulate {
  using type = T;
};
template <>
struct accumulate<bf16> {
  using type = float;
};
template <class T>
using accumulate_t = typename accumulate<T>::type;

/// Element type of a stored tensor, as known at run time.
enum class dtype : std::uint8_t { float32, float64, bfloat16, float16, int32, int64, uint8 };

/// Bytes of one element.
constexpr std::size_t size_of(dtype type) noexcept {
  switch (type) {
    case dtype::float64:
    case dtype::int64: return 8;
    case dtype::float32:
    case dtype::int32: return 4;
    case dtype::bfloat16:
    case dtype::float16: return 2;
    case dtype::uint8: return 1;
  }
  return 0;
}

/// Its name in configuration files and on the command line.
constexpr std::string_view name_of(dtype type) noexcept {
  switch (type) {
    case dtype::float64: return "float64";
    case dtype::float32: return "float32";
    case dtype::bfloat16: return "bfloat16";
    case dtype::float16: return "float16";
    case dtype::int64: return "int64";
    case dtype::int32: return "int32";
    case dtype::uint8: return "uint8";
  }
  return "unknown";
}

/// Tag of a C++ element type.
template <class T>
struct dtype_of;
template <> struct dtype_of<float> { static constexpr dtype value = dtype::float32; };
template <> struct dtype_of<double> { static constexpr dtype value = dtype::float64; };
template <> struct dtype_of<bf16> { static constexpr dtype value = dtype::bfloat16; };
template <> struct dtype_of<std::int32_t> { static constexpr dtype value = dtype::int32; };
template <> struct dtype_of<std::int64_t> { static constexpr dtype value = dtype::int64; };
template <> struct dtype_of<std::uint8_t> { static constexpr dtype value = dtype::uint8; };
template <class T>
inline constexpr dtype dtype_v = dtype_of<T>::value;

}  // namespace esft
