// SPDX-License-Identifier: Apache-2.0
// The GPU backend that stores bf16, compiled once for every program.
#define ESFT_CUDA_INSTANTIATED_HERE
#include <esft/backends/cuda/definitions.hpp>

template class esft::cuda_backend<esft::bf16>;
