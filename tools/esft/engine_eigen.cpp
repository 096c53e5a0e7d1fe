// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on the CPU backend.

#include "engine_of.hpp"

#include <esft/backends/eigen.hpp>

namespace esft::tool {

std::unique_ptr<engine> eigen_engine::open(const engine_request& request) {
  using backend = eigen_backend<float>;
  return std::make_unique<engine_of<backend>>(backend(request.threads), request.model, [](const backend& b) {
    return "eigen (" + std::string(b.isa()) + ", " + std::to_string(b.threads()) + (b.threads() == 1 ? " thread)" : " threads)");
  });
}

}  // namespace esft::tool
