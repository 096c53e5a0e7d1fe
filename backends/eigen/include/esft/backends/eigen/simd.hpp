// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Floats in the compiler's portable vector types: one source, compiled by `call` for each instruction set with vectors of its width.

#include <esft/backends/eigen/isa.hpp>
#include <esft/core/dtype.hpp>
#include <esft/core/shape.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace esft::detail::eigen {

/// Vector types of one width, in bytes.
template <std::size_t Bytes>
struct vector_types;
#define ESFT_EIGEN_VECTORS(bytes, half)                                                 \
  template <>                                                                           \
  struct vector_types<bytes> {                                                          \
    using floats = float __attribute__((vector_size(bytes)));                           \
    using bits = std::uint32_t __attribute__((vector_size(bytes)));                     \
    using ints = std::int32_t __attribute__((vector_size(bytes)));                      \
    using halves = std::uint16_t __attribute__((vector_size(half)));                    \
    using half_floats = float __attribute__((vector_size(half)));                       \
    using doubles = double __attribute__((vector_size(bytes)));                         \
    struct __attribute__((packed, may_alias)) stored { /* at the address of any float */\
      floats value;                                                                     \
    };                                                                                  \
  };
ESFT_EIGEN_VECTORS(16, 8)
ESFT_EIGEN_VECTORS(32, 16)
ESFT_EIGEN_VECTORS(64, 32)
#undef ESFT_EIGEN_VECTORS

/// What a kernel gets as its parameter `vec`, and the types that go with it.
template <class vec>
inline constexpr index lanes_of = static_cast<index>(sizeof(vec) / sizeof(float));
template <class vec>
using bits_of = typename vector_types<sizeof(vec)>::bits;
template <class vec>
using ints_of = typename vector_types<sizeof(vec)>::ints;
template <class vec>
using halves_of = typename vector_types<sizeof(vec)>::halves;
template <class vec>
using doubles_of = typename vector_types<sizeof(vec)>::doubles;

/// As many floats as `doubles_of` has lanes.
template <class vec>
using half_of = typename vector_types<sizeof(vec)>::half_floats;

/// The widest vector, and its lanes: what buffers are padded to.
using widest = vector_types<64>::floats;
inline constexpr index lanes = lanes_of<widest>;

/// Runs `Kernel<vec>::run(arguments...)`, compiled for the given instruction set and with its vectors: the compiler would do comparisons and
/// choices of wider ones lane by lane.
template <template <class> class Kernel, class... Arguments>
void call(isa set, Arguments... arguments) {
#if ESFT_EIGEN_X86
  if (set >= isa::avx512) return call_avx512<Kernel<vector_types<64>::floats>, Arguments...>(arguments...);
  if (set == isa::avx2) return call_avx2<Kernel<vector_types<32>::floats>, Arguments...>(arguments...);
#endif
  static_cast<void>(set);
  Kernel<vector_types<16>::floats>::run(arguments...);
}

// Vectors travel by reference: passing them by value would tie the functions to one instruction set's calling convention.

template <class vec>
ESFT_EIGEN_INLINE void widen(vec& to, const halves_of<vec>& from) {
  to = reinterpret_cast<vec>(__builtin_convertvector(from, bits_of<vec>) << 16);
}
template <class vec>
ESFT_EIGEN_INLINE void narrow(halves_of<vec>& to, const vec& from) {
  const auto wide = reinterpret_cast<bits_of<vec>>(from);
  const bits_of<vec> rounded = (wide + 0x7fffU + ((wide >> 16) & 1U)) >> 16;
  const bits_of<vec> quiet = (wide >> 16) | 0x0040U;
  to = __builtin_convertvector(((wide & 0x7fffffffU) > 0x7f800000U) ? quiet : rounded, halves_of<vec>);
}

/// A copy of the few elements at the end of a row. A call, not inlined: the compiler would otherwise give whole vectors the same
/// element-wise path and the detour through memory.
[[gnu::noinline, gnu::cold]] inline void copy_tail(void* to, const void* from, index bytes) {
  std::memcpy(to, from, static_cast<std::size_t>(bytes));
}

/// Reads `count` (1 to all) elements as floats; the lanes beyond are zero.
template <class vec>
ESFT_EIGEN_INLINE void load(vec& to, const float* from, index count = lanes_of<vec>) {
  if (count >= lanes_of<vec>) [[likely]] {
    to = reinterpret_cast<const typename vector_types<sizeof(vec)>::stored*>(from)->value;
  } else {
    vec tail{};
    copy_tail(&tail, from, count * index{sizeof(float)});
    to = tail;
  }
}
template <class vec>
ESFT_EIGEN_INLINE void load(vec& to, const bf16* from, index count = lanes_of<vec>) {
  halves_of<vec> stored;
  if (count >= lanes_of<vec>) [[likely]] {
    std::memcpy(&stored, from, sizeof stored);
  } else {
    halves_of<vec> tail{};
    copy_tail(&tail, from, count * index{sizeof(bf16)});
    stored = tail;
  }
  widen(to, stored);
}
/// Writes `count` (1 to all) elements, rounded once to the element type.
template <class vec>
ESFT_EIGEN_INLINE void store(float* to, const vec& from, index count = lanes_of<vec>) {
  if (count >= lanes_of<vec>) [[likely]] {
    reinterpret_cast<typename vector_types<sizeof(vec)>::stored*>(to)->value = from;
  } else {
    const vec tail = from;
    copy_tail(to, &tail, count * index{sizeof(float)});
  }
}
template <class vec>
ESFT_EIGEN_INLINE void store(bf16* to, const vec& from, index count = lanes_of<vec>) {
  halves_of<vec> stored;
  narrow(stored, from);
  if (count >= lanes_of<vec>) [[likely]] {
    std::memcpy(static_cast<void*>(to), &stored, sizeof stored);
  } else {
    const halves_of<vec> tail = stored;
    copy_tail(to, &tail, count * index{sizeof(bf16)});
  }
}

/// Sum of the lanes, for vectors of one width always in the same tree order.
template <class vec>
ESFT_EIGEN_INLINE float sum_of(const vec& v) {
  constexpr index half = lanes_of<vec> / 2;
  float part[std::size_t{half}];
  for (index i = 0; i < half; ++i) part[i] = v[i] + v[i + half];
  if constexpr (half == 8) {
    for (int i = 0; i < 4; ++i) part[i] += part[i + 4];
  }
  if constexpr (half == 2) {
    return part[0] + part[1];
  } else {
    return (part[0] + part[2]) + (part[1] + part[3]);
  }
}
template <class vec>
ESFT_EIGEN_INLINE float max_of(const vec& v) {
  float largest = v[0];
  for (index i = 1; i < lanes_of<vec>; ++i) largest = v[i] > largest ? v[i] : largest;
  return largest;
}

/// The square root of each lane, correctly rounded on every instruction set.
template <class vec>
ESFT_EIGEN_INLINE void square_root(vec& x) {
  for (index i = 0; i < lanes_of<vec>; ++i) x[i] = std::sqrt(x[i]);
}
#if ESFT_EIGEN_X86
ESFT_EIGEN_AVX2 inline void square_root(vector_types<32>::floats& x) { x = _mm256_sqrt_ps(x); }
ESFT_EIGEN_AVX512 inline void square_root(vector_types<64>::floats& x) { x = _mm512_sqrt_ps(x); }
#endif

/// x becomes e^x, within 2 ulp (denormal results included); NaN stays NaN, overflow gives Inf.
/// Range reduction by ln 2 in two parts and a degree-6 polynomial on [-ln2/2, ln2/2].
template <class vec>
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
  const bits_of<vec> whole = reinterpret_cast<bits_of<vec>>(shifted) - 0x4b400000U + 1024U;  // n + 1024 > 0
  const bits_of<vec> first = whole >> 1;                                                 // n1 + 512
  const bits_of<vec> second = whole - first;                                             // n2 + 512
  const vec scale1 = reinterpret_cast<vec>((first + (127U - 512U)) << 23);
  const vec scale2 = reinterpret_cast<vec>((second + (127U - 512U)) << 23);
  x = p * scale1 * scale2;
}

/// s = 1 / (1 + e^-x)
template <class vec>
ESFT_EIGEN_INLINE void sigmoid(vec& s, const vec& x) {
  vec e = -x;
  exp_in_place(e);
  s = 1.0F / (1.0F + e);
}

}  // namespace esft::detail::eigen
