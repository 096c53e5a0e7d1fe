// SPDX-License-Identifier: Apache-2.0
// The Kokkos backend from installed headers alone: its kernels are compiled here, as far as they are used.
#include <esft/backends/kokkos.hpp>

#include <array>
#include <span>

int main(int argc, char** argv) {
  const Kokkos::ScopeGuard kokkos(argc, argv);
  esft::kokkos_backend<> backend;
  auto y = backend.make_tensor<float>(esft::extents<1>{2});
  backend.fill(y.view(), 2.0F);
  std::array<float, 2> host{};
  backend.copy_out(y.view(), std::span<float>(host));
  return host == std::array<float, 2>{2, 2} ? 0 : 1;
}
