// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How an engine of the Kokkos backend is opened, for the sources that compile one storage type each. Kokkos has been initialised.

#include "engine_of.hpp"

#include <esft/backends/kokkos.hpp>

#include <memory>
#include <string>

namespace esft::tool {

template <class T>
std::unique_ptr<engine> open_on_kokkos(const engine_request& request) {
  using backend = kokkos_backend<Kokkos::DefaultExecutionSpace, T>;
  return std::make_unique<engine_of<backend>>(
      backend(), request, [](const backend& b) { return "kokkos (" + std::string(name_of(dtype_v<T>)) + ", " + b.description() + ")"; });
}
std::unique_ptr<engine> open_kokkos_bf16(const engine_request& request);

}  // namespace esft::tool
