// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on the Kokkos backend, in the default execution space of the Kokkos that this build found, in float32.

#include "engine_of.hpp"

#include <esft/backends/kokkos.hpp>

namespace esft::tool {

namespace {
/// The library starts nothing; this program does, at the first request, and ends it when it exits.
void initialise_kokkos(int threads) {
#if KOKKOS_VERSION >= 30700
  Kokkos::InitializationSettings settings;
  if (threads > 0) settings.set_num_threads(threads);
  settings.set_disable_warnings(true);
#else
  Kokkos::InitArguments settings;
  if (threads > 0) settings.num_threads = threads;
  settings.disable_warnings = true;
#endif
  static const Kokkos::ScopeGuard guard(settings);
}
}  // namespace

std::unique_ptr<engine> kokkos_engine::open(const engine_request& request) {
  using backend = kokkos_backend<>;
  if (request.dtype == "bfloat16") throw usage_error("the kokkos backend of this tool computes in float32: use --dtype float32 or auto");
  initialise_kokkos(request.threads);
  return std::make_unique<engine_of<backend>>(backend(), request,
                                              [](const backend& b) { return "kokkos (float32, " + b.description() + ")"; });
}

}  // namespace esft::tool
