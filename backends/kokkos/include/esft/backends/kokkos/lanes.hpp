// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `lanes<A>`: as many numbers as one register of the host holds, in the compilers' portable vector type; one number on a device.

#include <esft/backends/kokkos/space.hpp>

#include <cstring>

namespace esft::detail::kokkos {

#if (defined(__GNUC__) || defined(__clang__)) && !defined(__CUDACC__) && !defined(__HIPCC__) && !defined(__SYCL_DEVICE_ONLY__) && \
    !defined(ESFT_KOKKOS_DEVICE_PATHS)
#define ESFT_KOKKOS_VECTORS 1
#if defined(__AVX512F__)
inline constexpr int register_bytes = 64;
inline constexpr int register_rows = 12;  ///< 12 x 2 sums, 2 operands and a broadcast fill 27 of 32 registers
#elif defined(__AVX__)
inline constexpr int register_bytes = 32;
inline constexpr int register_rows = 6;  ///< 6 x 2 sums, 2 operands and a broadcast fill 15 of 16 registers
#else
inline constexpr int register_bytes = 16;
inline constexpr int register_rows = 6;
#endif
template <class A>
struct lanes {
  static constexpr int count = register_bytes / static_cast<int>(sizeof(A));
  typedef A type __attribute__((vector_size(register_bytes)));  // NOLINT(modernize-use-using): attributes on a dependent alias
};
#define ESFT_KOKKOS_FLATTEN [[gnu::always_inline]] inline
#else
inline constexpr int register_bytes = 0;
inline constexpr int register_rows = 6;
template <class A>
struct lanes {
  static constexpr int count = 1;
  using type = A;
};
#define ESFT_KOKKOS_FLATTEN KOKKOS_INLINE_FUNCTION
#endif

// Vectors travel by reference: by value they would tie functions to a calling convention.
template <class A>
ESFT_KOKKOS_FLATTEN void load_lanes(typename lanes<A>::type& to, const A* from) {
  std::memcpy(&to, from, sizeof to);
}
template <class A>
ESFT_KOKKOS_FLATTEN void store_lanes(A* to, const typename lanes<A>::type& from) {
  std::memcpy(to, &from, sizeof from);
}

}  // namespace esft::detail::kokkos
