// SPDX-License-Identifier: Apache-2.0
// The CPU backend, compiled once for every program of this project.
#include <esft/backends/eigen/definitions.hpp>

template class esft::eigen_backend<float>;
template class esft::eigen_backend<esft::bf16>;
