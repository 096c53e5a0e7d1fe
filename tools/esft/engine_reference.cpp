// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on the reference backend: plain loops, slow, the oracle of every other backend.

#include "engine_of.hpp"

#include <esft/backend/reference_backend.hpp>

namespace esft::tool {

dtype reference_engine::stored_as(const engine_request& request) {
  if (request.dtype == "bfloat16") throw usage_error("the reference backend of this tool computes in float32: use --dtype float32 or auto");
  return dtype::float32;
}

std::unique_ptr<engine> reference_engine::open(const engine_request& request) {
  using backend = reference_backend<float>;
  static_cast<void>(stored_as(request));
  return std::make_unique<engine_of<backend>>(backend(), request,
                                              [](const backend&) { return std::string("reference (plain loops, 1 thread)"); });
}

}  // namespace esft::tool
