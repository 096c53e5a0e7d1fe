// SPDX-License-Identifier: Apache-2.0
// A second translation unit: the library's headers may be included in any number of them.
#include <esft/backend/reference_backend.hpp>

#include <Eigen/Core>

float trace_of_identity() {
  static_assert(esft::transformer_backend<esft::reference_backend<float>>);
  return Eigen::Matrix3f::Identity().trace();
}
