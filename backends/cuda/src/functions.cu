// SPDX-License-Identifier: Apache-2.0
// The function objects that the library itself gives to for_each, compiled for the device.
#include <esft/backends/cuda/definitions.hpp>
#include <esft/moe/balance_loss.hpp>
#include <esft/moe/routers/softmax_topk.hpp>

namespace esft {

template void cuda_backend<float>::for_each(index, softmax_topk_router::backward_row<cuda_backend<float>>);
template void cuda_backend<bf16>::for_each(index, softmax_topk_router::backward_row<cuda_backend<bf16>>);
template void cuda_backend<float>::for_each(index, detail::broadcast_real_rows<cuda_backend<float>>);
template void cuda_backend<bf16>::for_each(index, detail::broadcast_real_rows<cuda_backend<bf16>>);

}  // namespace esft
