// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the backend must know of an execution space: its memory, whether calls return before the work is done, and arithmetic.

#include <esft/backend/tensor.hpp>

#include <Kokkos_Core.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace esft {

/// Memory of a Kokkos memory space other than the host's own.
template <class MemorySpace>
struct kokkos_space {
  static constexpr bool host_accessible = Kokkos::SpaceAccessibility<Kokkos::HostSpace, MemorySpace>::accessible;
};

/// The memory space of our tensors for one of Kokkos: host memory is everybody's.
template <class MemorySpace>
using kokkos_memory_t = std::conditional_t<std::is_same_v<MemorySpace, Kokkos::HostSpace>, host_space, kokkos_space<MemorySpace>>;

namespace detail::kokkos {

/// Whether kernels have run when their launch returns.
template <class Execution>
inline constexpr bool runs_at_once =
#if defined(KOKKOS_ENABLE_OPENMP)
    std::is_same_v<Execution, Kokkos::OpenMP> ||
#endif
#if defined(KOKKOS_ENABLE_THREADS)
    std::is_same_v<Execution, Kokkos::Threads> ||
#endif
#if defined(KOKKOS_ENABLE_SERIAL)
    std::is_same_v<Execution, Kokkos::Serial> ||
#endif
    false;

/// Whether tensors lie in memory of the language itself: Kokkos waits for all instances before it frees any of its own.
template <class Execution>
inline constexpr bool plain_memory = runs_at_once<Execution> && std::is_same_v<typename Execution::memory_space, Kokkos::HostSpace>;

/// For the tests of this project: kernels take the paths of devices, in teams of one thread, wherever they run.
#if defined(ESFT_KOKKOS_DEVICE_PATHS)
inline constexpr bool device_paths = true;
#else
inline constexpr bool device_paths = false;
#endif

/// Whether threads run on the host's cores: few of them, each with vectors and caches of its own.
template <class Execution>
inline constexpr bool on_cores =
    !device_paths && Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Execution::memory_space>::accessible &&
    Kokkos::SpaceAccessibility<Execution, Kokkos::HostSpace>::accessible;

/// Where memory for a team comes from: shared memory of a device; on a core any memory, which its own cache then holds.
template <class Execution>
KOKKOS_INLINE_FUNCTION constexpr int scratch_level() {
  return on_cores<Execution> ? 1 : 0;
}

#if KOKKOS_VERSION >= 30700
using Kokkos::cos;
using Kokkos::exp;
using Kokkos::log;
using Kokkos::pow;
using Kokkos::sin;
using Kokkos::sqrt;
#else
using std::cos;
using std::exp;
using std::log;
using std::pow;
using std::sin;
using std::sqrt;
#endif

template <class A>
KOKKOS_INLINE_FUNCTION constexpr A larger(A a, A b) {
  return a < b ? b : a;
}
template <class A>
KOKKOS_INLINE_FUNCTION constexpr A smaller(A a, A b) {
  return b < a ? b : a;
}
KOKKOS_INLINE_FUNCTION constexpr index divide_up(index a, index b) { return (a + b - 1) / b; }

/// e^x in plain arithmetic, so that compilers make vectors of it; within 2 units in the last place. Infinities and NaN as usual; below
/// the normal numbers it is 0.
KOKKOS_INLINE_FUNCTION float exponential(float x) {
  const float within = x < -87.3F ? -87.3F : x > 88.72F ? 88.72F : x;  // a NaN stays
  const float shifted = within * 1.44269504F + 12582912.0F;            // 1.5 * 2^23: the nearest integer lies in the last bits
  const float whole = shifted - 12582912.0F;
  const float r = (within - whole * 0.693359375F) + whole * 2.12194440e-4F;
  float sum = 1.9875691500e-4F;
  sum = sum * r + 1.3981999507e-3F;
  sum = sum * r + 8.3334519073e-3F;
  sum = sum * r + 4.1665795894e-2F;
  sum = sum * r + 1.6666665459e-1F;
  sum = sum * r + 5.0000001201e-1F;
  sum = sum * r * r + r + 1.0F;
  // 2^whole in two factors: for the largest x it alone is not a number
  const auto bits = std::bit_cast<std::int32_t>(shifted) - 0x4b400000;
  const float half = std::bit_cast<float>(((bits >> 1) + 127) << 23);
  const float rest = std::bit_cast<float>(((bits - (bits >> 1)) + 127) << 23);
  const float result = sum * half * rest;
  return x < -87.3F ? 0.0F : x > 88.72F ? result * 3.0e38F : result;
}
KOKKOS_INLINE_FUNCTION double exponential(double x) { return exp(x); }

}  // namespace detail::kokkos
}  // namespace esft
