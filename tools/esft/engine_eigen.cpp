// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on the CPU backend, in float32 or bfloat16.

#include "eigen_dtype.hpp"
#include "engine_of.hpp"

#include <esft/backends/eigen.hpp>

namespace esft::tool {

namespace {
template <class T>
std::unique_ptr<engine> open_as(const engine_request& request) {
  using backend = eigen_backend<T>;
  return std::make_unique<engine_of<backend>>(backend(request.threads), request, [](const backend& b) {
    return "eigen (" + std::string(name_of(dtype_v<T>)) + ", " + std::string(b.isa()) + ", " + std::to_string(b.threads()) +
           (b.threads() == 1 ? " thread)" : " threads)");
  });
}
}  // namespace

dtype eigen_engine::stored_as(const engine_request& request) {
  return eigen_dtype(request.dtype, storage_type(model_directory::open(request.model)), request.model.string());
}

std::unique_ptr<engine> eigen_engine::open(const engine_request& request) {
  return stored_as(request) == dtype::bfloat16 ? open_as<bf16>(request) : open_as<float>(request);
}

}  // namespace esft::tool
