// SPDX-License-Identifier: Apache-2.0
// The GPU backend in a plain C++ program: the installed headers and the compiled library, no nvcc. A machine without a device is told so.
#include <esft/backends/cuda.hpp>
#include <esft/core/error.hpp>

#include <array>
#include <span>
#include <string>

int main() {
  if (esft::cuda_backend<float>::devices() == 0) {
    try {
      esft::cuda_backend<float> backend;
    } catch (const esft::device_error& failure) {
      return std::string(failure.what()).starts_with("cuda: no device") ? 0 : 1;
    }
    return 1;
  }
  esft::cuda_backend<float> backend;
  auto y = backend.make_tensor<float>(esft::extents<1>{2});
  backend.fill(y.view(), 2.0F);
  std::array<float, 2> host{};
  backend.copy_out(y.view(), std::span<float>(host));
  return host == std::array<float, 2>{2, 2} ? 0 : 1;
}
