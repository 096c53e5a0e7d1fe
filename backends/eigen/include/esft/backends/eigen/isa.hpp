// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which instruction set runs: found once at run time, so that a binary built for any x86-64 is fast on a newer one.

#include <algorithm>
#include <cstdint>
#include <string_view>

// ESFT_EIGEN_X86 may be defined as 0 to leave out all kernels of x86-64, as on other processors.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(ESFT_EIGEN_X86)
#if !defined(__clang__)  // GCC 12 warns about its own intrinsics (bug 105593)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <cpuid.h>
#include <immintrin.h>
#if !defined(__clang__)
#pragma GCC diagnostic pop
#endif
#define ESFT_EIGEN_X86 1
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#define ESFT_EIGEN_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define ESFT_EIGEN_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")))
#define ESFT_EIGEN_AMX __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,avx2,fma")))
#define ESFT_EIGEN_AVX2 __attribute__((target("avx2,fma")))
#elif !defined(ESFT_EIGEN_X86)
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

/// Instruction sets with kernels of their own, the later the faster; each contains those before it.
/// The last two concern products of bf16 alone: all else runs on avx512 there.
enum class isa : std::uint8_t { generic, avx2, avx512, avx512_bf16, amx };
inline constexpr isa all_isas[] = {isa::generic, isa::avx2, isa::avx512, isa::avx512_bf16, isa::amx};

/// Name of an instruction set, as `esft doctor` prints it.
constexpr std::string_view name_of(isa set) noexcept {
  switch (set) {
    case isa::generic:
      return "generic";
    case isa::avx2:
      return "avx2";
    case isa::avx512:
      return "avx512";
    case isa::avx512_bf16:
      return "avx512_bf16";
    case isa::amx:
      return "amx";
  }
  return "generic";
}

/// Asks the operating system once per process for the use of the tile registers: it saves them only for who asked. False where it refuses.
inline bool tiles_permitted() noexcept {
#if ESFT_EIGEN_X86 && defined(__linux__) && defined(SYS_arch_prctl)
  static const bool permitted = [] {
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
    return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return permitted;
#else
  return false;
#endif
}

#if ESFT_EIGEN_X86
/// Features that GCC 12's and older clang's __builtin_cpu_supports do not know by name.
struct newer_features {
  bool avx512_bf16 = false;
  bool amx_bf16 = false;
};
inline newer_features detect_newer_features() noexcept {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  newer_features found;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
    found.amx_bf16 = ((d >> 22) & 1U) != 0 && ((d >> 24) & 1U) != 0;  // amx-bf16 and amx-tile
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) found.avx512_bf16 = ((a >> 5) & 1U) != 0;
  }
  return found;
}
#endif

/// The best instruction set of this CPU (and of its operating system, which must save the registers).
inline isa best_isa() noexcept {
#if ESFT_EIGEN_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    const newer_features newer = detect_newer_features();
    if (!newer.avx512_bf16) return isa::avx512;
    return newer.amx_bf16 && tiles_permitted() ? isa::amx : isa::avx512_bf16;
  }
  if (avx2) return isa::avx2;
#endif
  return isa::generic;
}

/// The best set for products of elements `T`.
template <class T>
isa best_isa_for() noexcept {
  return sizeof(T) == 2 ? best_isa() : std::min(best_isa(), isa::avx512);
}

#if ESFT_EIGEN_X86
// `Kernel::run(arguments...)`, compiled for an instruction set. `run` is marked ESFT_EIGEN_INLINE and uses no lambda (a lambda would be
// compiled for the baseline instruction set).
template <class Kernel, class... Arguments>
ESFT_EIGEN_AVX512 void call_avx512(Arguments... arguments) {
  Kernel::run(arguments...);
}
template <class Kernel, class... Arguments>
ESFT_EIGEN_AVX2 void call_avx2(Arguments... arguments) {
  Kernel::run(arguments...);
}
#endif

}  // namespace esft::detail::eigen
