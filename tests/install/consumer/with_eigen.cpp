// SPDX-License-Identifier: Apache-2.0
// A second translation unit with the same headers, and the component that was asked for.
#include <esft/backend/reference_backend.hpp>
#include <esft/backends/eigen.hpp>

#include <array>

static_assert(esft::transformer_backend<esft::eigen_backend<float>>);

bool eigen_adds() {
  esft::eigen_backend<float> backend(1);
  const std::array<float, 3> x{1, 2, 3};
  std::array<float, 3> y{10, 20, 30};
  backend.add({x.data(), {3}}, {y.data(), {3}});
  return y == std::array<float, 3>{11, 22, 33};
}
