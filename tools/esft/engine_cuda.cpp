// SPDX-License-Identifier: Apache-2.0
/// @file
/// The engine on a GPU in float32, and the choice of what weights are stored as.

#include "engine_cuda.hpp"

namespace esft::tool {

dtype cuda_engine::stored_as(const engine_request& request) {
  const dtype stored = storage_type(model_directory::open(request.model));
  if (request.dtype == "bfloat16" && stored != dtype::bfloat16) {
    throw usage_error(request.model.string() + ": the checkpoint holds " + std::string(safetensors_name(stored)) +
                      ", which bfloat16 would round before anything is trained: use --dtype float32");
  }
  return stored == dtype::bfloat16 && request.dtype != "float32" ? dtype::bfloat16 : dtype::float32;
}

std::unique_ptr<engine> cuda_engine::open(const engine_request& request) {
  if (cuda_backend<float>::devices() == 0) {
    throw device_error("cuda: no device: this machine has no NVIDIA GPU that the driver lets programs use; use --backend eigen");
  }
  return stored_as(request) == dtype::bfloat16 ? open_cuda_bf16(request) : open_on_cuda<float>(request);
}

std::string cuda_engine::device() {
  return cuda_backend<float>::devices() == 0 ? "no device" : cuda_backend<float>().description();
}

}  // namespace esft::tool
