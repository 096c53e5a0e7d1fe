// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The engine on a GPU, one source file per storage type.

#include "engine_of.hpp"

#include <esft/backends/cuda.hpp>

namespace esft::tool {

/// How the products of all experts run.
inline cuda_grouped grouped_products(const engine_request& request) {
  if (request.grouped == "batched") return cuda_grouped::batched;
  return request.grouped == "device" ? cuda_grouped::device : cuda_grouped::streams;
}

template <class T>
std::unique_ptr<engine> open_on_cuda(const engine_request& request) {
  using backend = cuda_backend<T>;
  const cuda_options how{.deterministic = request.deterministic, .grouped = grouped_products(request)};
  return std::make_unique<engine_of<backend>>(backend(how), request, [](const backend& b) {
    return "cuda (" + std::string(name_of(dtype_v<T>)) + ", " + b.description() + ")";
  });
}

std::unique_ptr<engine> open_cuda_bf16(const engine_request& request);

}  // namespace esft::tool
