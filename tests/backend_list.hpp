// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The backends on which layer, model and golden suites run. A new backend is one line here.

#include <esft/backend/reference_backend.hpp>
#if defined(ESFT_TEST_CUDA)
#include <esft/backends/cuda.hpp>
#elif defined(ESFT_TEST_KOKKOS)
#include <esft/backends/kokkos.hpp>
#else
#include <esft/backends/eigen.hpp>
#endif

#include <string>
#include <type_traits>

#include <gtest/gtest.h>

namespace esft_test {

/// Every backend whose results are compared with golden numbers and with central differences. The programs of tests/cuda,
/// tests/cuda_host and tests/kokkos compile the same suites for one backend alone.
#if defined(ESFT_TEST_CUDA)
using backends = ::testing::Types<esft::cuda_backend<float>>;
#elif defined(ESFT_TEST_KOKKOS)
using backends = ::testing::Types<esft::kokkos_backend<Kokkos::DefaultExecutionSpace, float>,
                                  esft::kokkos_backend<Kokkos::DefaultExecutionSpace, double>>;
#else
using backends = ::testing::Types<esft::reference_backend<float>, esft::reference_backend<double>, esft::eigen_backend<float>>;
#endif

/// The backend of suites that are about one: the one that has the most digits. Its gradients are compared with differences of the reference
/// backend in double.
#if defined(ESFT_TEST_CUDA)
using subject = esft::cuda_backend<float>;
#elif defined(ESFT_TEST_KOKKOS)
using subject = esft::kokkos_backend<Kokkos::DefaultExecutionSpace, double>;
#else
using subject = esft::reference_backend<double>;
#endif

/// Readable names of typed tests: reference_double, eigen_float.
struct backend_names {
  template <class Backend>
  static std::string GetName(int) {
    using value = typename Backend::value_type;
    return std::string(Backend::name) + (std::is_same_v<value, double> ? "_double" : std::is_same_v<value, float> ? "_float" : "_bf16");
  }
};

}  // namespace esft_test
