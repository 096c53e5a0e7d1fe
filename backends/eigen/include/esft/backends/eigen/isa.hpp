// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which instruction set runs: found once at run time, so that a binary built for any x86-64 is fast on a newer one.

#include <cstdint>
#include <string_view>

#if defined(__x86_64__) && defined(__GNUC__)
#if !defined(__clang__)  // GCC 12 warns about its own intrinsics (bug 105593)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#define ESFT_EIGEN_X86 1
#define ESFT_EIGEN_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define ESFT_EIGEN_AVX2 __attribute__((target("avx2,fma")))
#else
#define ESFT_EIGEN_X86 0
#endif
/// A kernel body: inlined into one wrapper per instruction set, and compiled for each of them.
#define ESFT_EIGEN_INLINE inline __attribute__((always_inline))

#if defined(__clang__)
#define ESFT_EIGEN_UNROLL _Pragma("unroll")
#else
#define ESFT_EIGEN_UNROLL _Pragma("GCC unroll 16")
#endif

namespace esft::detail::eigen {

/// Instruction sets with kernels of their own, the later the faster.
enum class isa : std::uint8_t { generic, avx2, avx512 };

/// Name of an instruction set, as `esft doctor` prints it.
constexpr std::string_view name_of(isa set) noexcept {
  switch (set) {
    case isa::generic:
      return "generic";
    case isa::avx2:
      return "avx2";
    case isa::avx512:
      return "avx512";
  }
  return "generic";
}

/// The best instruction set of this CPU (and of its operating system, which must save the registers).
inline isa best_isa() noexcept {
#if ESFT_EIGEN_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return isa::avx512;
  }
  if (avx2) return isa::avx2;
#endif
  return isa::generic;
}

#if ESFT_EIGEN_X86
template <class Kernel, class... Arguments>
ESFT_EIGEN_AVX512 void call_avx512(Arguments... arguments) {
  Kernel::run(arguments...);
}
template <class Kernel, class... Arguments>
ESFT_EIGEN_AVX2 void call_avx2(Arguments... arguments) {
  Kernel::run(arguments...);
}
#endif

/// Runs `Kernel::run(arguments...)`, compiled for the given instruction set. `run` is marked ESFT_EIGEN_INLINE and uses no lambda
/// (a lambda would be compiled for the baseline instruction set).
template <class Kernel, class... Arguments>
void call(isa set, Arguments... arguments) {
#if ESFT_EIGEN_X86
  if (set == isa::avx512) return call_avx512<Kernel, Arguments...>(arguments...);
  if (set == isa::avx2) return call_avx2<Kernel, Arguments...>(arguments...);
#endif
  static_cast<void>(set);
  Kernel::run(arguments...);
}

}  // namespace esft::detail::eigen
