// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Sixteen floats at a time in the compiler's portable vector type: one source, compiled for each instruction set by `call`.

#include <esft/backends/eigen/isa.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/shape.hpp>

#include <cstdint>
#include <cstring>

namespace esft::detail::eigen {

/// Lanes of a vector.
inline constexpr index lanes = 16;
using vec = float __attribute__((vector_size(64)));
using vec_bits = std::uint32_t __attribute__((vector_size(64)));
using half_bits = std::uint16_t __attribute__((vector_size(32)));
using vec_double = double __attribute__((vector_size(128)));

// Vectors travel by reference: passing them by value would tie the functions to one instruction set's calling convention.

ESFT_EIGEN_INLINE void widen(vec& to, const half_bits& from) { to = reinterpret_cast<vec>(__builtin_convertvector(from, vec_bits) << 16); }
ESFT_EIGEN_INLINE void narrow(half_bits& to, const vec& from) {
  const vec_bits wide = reinterpret_cast<vec_bits>(from);
  const vec_bits rounded = (wide + 0x7fffU + ((wide >> 16) & 1U)) >> 16;
  const vec_bits quiet = (wide >> 16) | 0x0040U;
  to = __builtin_convertvector(((wide & 0x7fffffffU) > 0x7f800000U) ? quiet : rounded, half_bits);
}

/// A copy of the few elements at the end of a row. A call, not inlined: the compiler would otherwise give whole vectors the same
/// element-wise path and the detour through memory.
[[gnu::noinline, gnu::cold]] inline void copy_tail(void* to, const void* from, index bytes) {
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

/// Reads `count` (1 to 16) elements as floats; the lanes beyond are zero.
ESFT_EIGEN_INLINE void load(vec& to, const float* from, index count = lanes) {
  if (count >= lanes) [[likely]] {
    std::memcpy(&to, from, sizeof to);
  } else {
    vec tail{};
    copy_tail(&tail, from, count * index{sizeof(float)});
    to = tail;
  }
}
ESFT_EIGEN_INLINE void load(vec& to, const bf16* from, index count = lanes) {
  half_bits stored;
  if (count >= lanes) [[likely]] {
    std::memcpy(&stored, from, sizeof stored);
  } else {
    half_bits tail{};
    copy_tail(&tail, from, count * index{sizeof(bf16)});
    stored = tail;
  }
  widen(to, stored);
}
/// Writes `count` (1 to 16) elements, rounded once to the element type.
ESFT_EIGEN_INLINE void store(float* to, const vec& from, index count = lanes) {
  if (count >= lanes) [[likely]] {
    std::memcpy(to, &from, sizeof from);
  } else {
    const vec tail = from;
    copy_tail(to, &tail, count * index{sizeof(float)});
  }
}
ESFT_EIGEN_INLINE void store(bf16* to, const vec& from, index count = lanes) {
  half_bits stored;
  narrow(stored, from);
  if (count >= lanes) [[likely]] {
    std::memcpy(static_cast<void*>(to), &stored, sizeof stored);
  } else {
    const half_bits tail = stored;
    copy_tail(to, &tail, count * index{sizeof(bf16)});
  }
}

/// Sum of the lanes, always in the same tree order.
ESFT_EIGEN_INLINE float sum_of(const vec& v) {
  float part[8];
  for (int i = 0; i < 8; ++i) part[i] = v[i] + v[i + 8];
  for (int i = 0; i < 4; ++i) part[i] += part[i + 4];
  return (part[0] + part[2]) + (part[1] + part[3]);
}
ESFT_EIGEN_INLINE float max_of(const vec& v) {
  float largest = v[0];
  for (int i = 1; i < 16; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

/// x becomes e^x, within 2 ulp (denormal results included); NaN stays NaN, overflow gives Inf.
/// Range reduction by ln 2 in two parts and a degree-6 polynomial on [-ln2/2, ln2/2].
ESFT_EIGEN_INLINE void exp_in_place(vec& x) {
  constexpr float shift = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer kept in the low bits
  vec t = x < -104.0F ? vec{} - 104.0F : x;
  t = t > 89.0F ? vec{} + 89.0F : t;
  const vec shifted = t * 1.44269504088896341F + shift;
  const vec n = shifted - shift;
  vec r = t - n * 0.693359375F;
  r = r - n * -2.12194440e-4F;
  vec p = r * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  // 2^n in two factors, so that neither leaves the range of normal numbers
  const vec_bits whole = reinterpret_cast<vec_bits>(shifted) - 0x4b400000U + 1024U;  // n + 1024 > 0
  const vec_bits first = whole >> 1;                                                 // n1 + 512
  const vec_bits second = whole - first;                                             // n2 + 512
  const vec scale1 = reinterpret_cast<vec>((first + (127U - 512U)) << 23);
  const vec scale2 = reinterpret_cast<vec>((second + (127U - 512U)) << 23);
  x = p * scale1 * scale2;
}

/// s = 1 / (1 + e^-x)
ESFT_EIGEN_INLINE void sigmoid(vec& s, const vec& x) {
  vec e = -x;
  exp_in_place(e);
  s = 1.0F / (1.0F + e);
}

}  // namespace esft::detail::eigen
