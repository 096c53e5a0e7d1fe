// SPDX-License-Identifier: Apache-2.0
// The GPU backend with its kernels in the emulator: compiled once for the tests of this folder.
#define ESFT_CUDA_INSTANTIATED_HERE
#include <esft/backends/cuda/definitions.hpp>

template class esft::cuda_backend<float>;
template class esft::cuda_backend<esft::bf16>;

#include "../../backends/cuda/src/functions.cu"
