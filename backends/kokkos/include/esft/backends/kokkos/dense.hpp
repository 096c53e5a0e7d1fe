// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Dense products by Kokkos Kernels, which calls the vendor's BLAS where it was built with one. Only in builds that ask for it
/// (ESFT_KOKKOS_KERNELS): sums are then added in the order of that library, which may depend on the number of threads.

#include <esft/backends/kokkos/product.hpp>

#if defined(ESFT_KOKKOS_KERNELS)
#include <KokkosBlas3_gemm.hpp>
#endif

#include <type_traits>

namespace esft::detail::kokkos {

/// Whether a dense product of these element types goes through Kokkos Kernels: all three alike, float or double.
template <class UA, class UB, class Out>
inline constexpr bool by_kokkos_kernels =
#if defined(ESFT_KOKKOS_KERNELS)
    std::is_same_v<UA, Out> && std::is_same_v<UB, Out> && std::is_floating_point_v<Out>;
#else
    false;
#endif

#if defined(ESFT_KOKKOS_KERNELS)
/// C (+)= A B^T for operands a [rows, depth] and b [columns, depth], each along either dimension.
template <class Execution, class U, along AlongA, along AlongB>
void multiply_by_kokkos_kernels(context<Execution>& shared, operand<U, AlongA> a, operand<U, AlongB> b, U* out, index rows, index columns,
                                index depth, bool accumulate) {
  if (rows == 0 || columns == 0) return;
  using space = Kokkos::Device<Execution, typename Execution::memory_space>;
  using read = Kokkos::View<const U**, Kokkos::LayoutRight, space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  using written = Kokkos::View<U**, Kokkos::LayoutRight, space, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  const auto matrix = [](const U* data, index outer, index inner, along contiguous) {
    const auto n = [](index count) { return static_cast<std::size_t>(count); };
    return contiguous == along::depth ? read(data, n(outer), n(inner)) : read(data, n(inner), n(outer));
  };
  const read left = matrix(a.data, rows, depth, AlongA);
  const read right = matrix(b.data, columns, depth, AlongB);
  const written result(out, static_cast<std::size_t>(rows), static_cast<std::size_t>(columns));
  const char* const turn_left = AlongA == along::depth ? "N" : "T";
  const char* const turn_right = AlongB == along::depth ? "T" : "N";
  const U before = accumulate ? U(1) : U(0);
  if constexpr (requires { KokkosBlas::gemm(shared.execution, turn_left, turn_right, U(1), left, right, before, result); }) {
    KokkosBlas::gemm(shared.execution, turn_left, turn_right, U(1), left, right, before, result);
  } else {  // that of Debian knows no instances: it must not overtake what is queued in ours, nor ours it
    shared.execution.fence();
    KokkosBlas::gemm(turn_left, turn_right, U(1), left, right, before, result);
    Execution().fence();
  }
}
#endif

}  // namespace esft::detail::kokkos
