// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on the Kokkos backend in bfloat16.

#include "engine_kokkos.hpp"

namespace esft::tool {

std::unique_ptr<engine> open_kokkos_bf16(const engine_request& request) { return open_on_kokkos<bf16>(request); }

}  // namespace esft::tool
