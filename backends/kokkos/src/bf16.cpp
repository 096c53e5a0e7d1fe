// SPDX-License-Identifier: Apache-2.0
// The Kokkos backend that stores bf16, compiled once for every program of this project.
#include <esft/backends/kokkos/definitions.hpp>

template class esft::kokkos_backend<Kokkos::DefaultExecutionSpace, esft::bf16>;
