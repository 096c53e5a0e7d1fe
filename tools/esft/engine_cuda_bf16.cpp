// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on a GPU in bfloat16.

#include "engine_cuda.hpp"

namespace esft::tool {

std::unique_ptr<engine> open_cuda_bf16(const engine_request& request) { return open_on_cuda<bf16>(request); }

}  // namespace esft::tool
