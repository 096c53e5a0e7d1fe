// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which instruction set runs: found once at run time, so that a binary built for any x86-64 is fast on a newer one.

#include <esft/core/dtype.hpp>

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

/// Families of kernels for matrix products: row-major; on panels of floats, whatever the weight's type; of bf16 by AVX512_BF16; by AMX.
enum class product_kernels : std::uint8_t { plain, panels, pairs, tiles };
inline constexpr product_kernels all_product_kernels[] = {product_kernels::plain, product_kernels::panels, product_kernels::pairs,
                                                          product_kernels::tiles};

/// Name of a family, as `eigen_backend::products` takes it and `esft doctor` prints it.
constexpr std::string_view name_of(product_kernels kernels) noexcept {
  switch (kernels) {
    case product_kernels::plain:
      return "plain";
    case product_kernels::panels:
      return "panels";
    case product_kernels::pairs:
      return "pairs";
    case product_kernels::tiles:
      return "tiles";
  }
  return "plain";
}

/// The family that serves weights of element type `T` in the backend's own layout. Row-major ones take the plain kernels everywhere.
template <class T>
constexpr product_kernels packed_kernels(isa set) noexcept {
  if (sizeof(T) != 2 || set < isa::avx512_bf16) return product_kernels::panels;
  return set == isa::amx ? product_kernels::tiles : product_kernels::pairs;
}

/// What the choice of an instruction set depends on: what the CPU has, and the operating system saves the registers of.
struct cpu_features {
  bool avx2 = false;
  bool fma = false;
  bool avx512f = false;
  bool avx512bw = false;
  bool avx512dq = false;
  bool avx512vl = false;
  bool avx512_bf16 = false;
  bool amx_tile = false;
  bool amx_bf16 = false;
};
/// A feature by the name that Linux gives it.
struct named_feature {
  std::string_view name;
  bool cpu_features::*there;
};
inline constexpr named_feature all_features[] = {
    {"avx2", &cpu_features::avx2},
    {"fma", &cpu_features::fma},
    {"avx512f", &cpu_features::avx512f},
    {"avx512bw", &cpu_features::avx512bw},
    {"avx512dq", &cpu_features::avx512dq},
    {"avx512vl", &cpu_features::avx512vl},
    {"avx512_bf16", &cpu_features::avx512_bf16},
    {"amx_tile", &cpu_features::amx_tile},
    {"amx_bf16", &cpu_features::amx_bf16},
};

/// The features of this CPU. The last three by the CPU's own word: GCC 12's and older clang's __builtin_cpu_supports do not know them.
inline cpu_features detect_features() noexcept {
  cpu_features found;
#if ESFT_EIGEN_X86
  __builtin_cpu_init();
  found.avx2 = __builtin_cpu_supports("avx2") != 0;
  found.fma = __builtin_cpu_supports("fma") != 0;
  found.avx512f = __builtin_cpu_supports("avx512f") != 0;
  found.avx512bw = __builtin_cpu_supports("avx512bw") != 0;
  found.avx512dq = __builtin_cpu_supports("avx512dq") != 0;
  found.avx512vl = __builtin_cpu_supports("avx512vl") != 0;
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) {
    found.amx_bf16 = ((d >> 22) & 1U) != 0;
    found.amx_tile = ((d >> 24) & 1U) != 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) found.avx512_bf16 = ((a >> 5) & 1U) != 0;
  }
#endif
  return found;
}

/// The best instruction set for products of elements `T` on a CPU with these features. `permitted()` says whether the tile registers may be
/// used; it is called only where nothing else is missing, as to ask changes the process.
template <class T, class Permitted>
constexpr isa choose_isa(const cpu_features& has, Permitted&& permitted) {
  if (!has.avx2 || !has.fma) return isa::generic;
  if (!has.avx512f || !has.avx512bw || !has.avx512dq || !has.avx512vl) return isa::avx2;
  if (sizeof(T) != 2 || !has.avx512_bf16) return isa::avx512;
  return has.amx_tile && has.amx_bf16 && permitted() ? isa::amx : isa::avx512_bf16;
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

/// The best set of this machine for products of elements `T`.
template <class T>
isa best_isa_for() noexcept {
  return choose_isa<T>(detect_features(), tiles_permitted);
}
/// The best of all, that for bf16.
inline isa best_isa() noexcept { return best_isa_for<bf16>(); }

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
