// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on the Kokkos backend, in the default execution space of the Kokkos that this build found, in float32, and the choice of what
/// weights are stored as.

#include "engine_kokkos.hpp"

namespace esft::tool {

namespace {
/// The library starts nothing; this program does, at the first request, and ends it when it exits.
void initialise_kokkos(int threads) {
  static const int started_with = threads;
  if (threads != started_with) {
    throw usage_error("--threads " + std::to_string(threads) + ": Kokkos runs in this process with " +
                      (started_with == 0 ? std::string("all") : std::to_string(started_with)) +
                      " threads already, and cannot be started again: give every model the same number");
  }
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

dtype kokkos_engine::stored_as(const engine_request& request) {
  const bool half = request.dtype == "bfloat16";
  const dtype stored = storage_type(model_directory::open(request.model));
  if (half && stored != dtype::bfloat16) {
    throw usage_error(request.model.string() + ": the checkpoint holds " + std::string(safetensors_name(stored)) +
                      ", which bfloat16 would round before anything is trained: use --dtype float32");
  }
  return half ? dtype::bfloat16 : dtype::float32;
}

std::unique_ptr<engine> kokkos_engine::open(const engine_request& request) {
  const bool half = stored_as(request) == dtype::bfloat16;
  initialise_kokkos(request.threads);
  return half ? open_kokkos_bf16(request) : open_on_kokkos<float>(request);
}

}  // namespace esft::tool
