// SPDX-License-Identifier: Apache-2.0
// The GPU backend from a .cu file, headers only, with a kernel of your own: nvcc -std=c++20 --expt-relaxed-constexpr, link cuBLAS.
#define ESFT_CUDA_INSTANTIATED_HERE  // what this file uses is compiled here; without it the program links esft::cuda_runtime
#include <esft/backends/cuda/definitions.hpp>

#include <cmath>
#include <cstdio>
#include <utility>
#include <vector>

using backend = esft::cuda_backend<float>;

/// Keeps logits between -cap and cap. `for_each` calls it for each element, on the device.
struct soft_cap {
  esft::tensor_view<float, 1, esft::cuda_space> logits;
  float cap;
  ESFT_HOST_DEVICE void operator()(esft::index i) const { logits[i] = cap * std::tanh(logits[i] / cap); }
};

int main() {
  if (backend::devices() == 0) {
    std::puts("SKIP: cuda: no device");
    return 77;
  }
  backend b;
  const std::vector<float> x{1, 2, 3, -4};
  auto row = b.make_tensor<float>(esft::extents<2>{1, 4});
  auto weight = b.make_tensor<float>(esft::extents<1>{4});
  auto y = b.make_tensor<float>(row.shape());
  auto rstd = b.make_tensor<float>(esft::extents<1>{1});
  b.copy_in(std::span<const float>(x), row.view());
  b.fill(weight.view(), 2.0F);
  b.rms_norm(std::as_const(row).view(), std::as_const(weight).view(), 0, y.view(), rstd.view());  // one of the library's
  b.for_each(y.size(), soft_cap{y.view().flat(), 1.5F});                                          // your own
  std::vector<float> found(4);
  b.copy_out(std::as_const(y).view(), std::span<float>(found));
  float worst = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    worst = std::max(worst, std::abs(found[i] - 1.5F * std::tanh(2 * x[i] / std::sqrt(7.5F) / 1.5F)));
  }
  std::printf("on %s: off by %g\n", b.description().c_str(), static_cast<double>(worst));
  return worst < 1e-5F ? 0 : 1;
}
