// SPDX-License-Identifier: Apache-2.0
// The function objects that the library itself gives to for_each, compiled for the device. A new one adds its line here.
#include <esft/backends/cuda/definitions.hpp>
#include <esft/moe/balance_loss.hpp>
#include <esft/moe/clamped_swiglu.hpp>
#include <esft/moe/dense_router_gradient.hpp>
#include <esft/moe/expert_bias.hpp>
#include <esft/moe/low_rank_experts.hpp>
#include <esft/moe/low_rank_mixture.hpp>
#include <esft/moe/routers.hpp>
#include <esft/moe/shared_gate.hpp>
#include <esft/nn/attention_sink.hpp>
#include <esft/nn/bias.hpp>
#include <esft/nn/columns.hpp>
#include <esft/nn/low_rank.hpp>
#include <esft/nn/rotary.hpp>
#include <esft/optim/optimizers/adamw.hpp>

#define ESFT_FOR_EACH_OF(T, ...) template void cuda_backend<T>::for_each(index, __VA_ARGS__<cuda_backend<T>>);
#define ESFT_FOR_EACH(...)            \
  ESFT_FOR_EACH_OF(float, __VA_ARGS__) \
  ESFT_FOR_EACH_OF(bf16, __VA_ARGS__)

namespace esft {

ESFT_FOR_EACH(softmax_topk_router::backward_row)
ESFT_FOR_EACH(softmax_topk_router::forward_row)
ESFT_FOR_EACH(sigmoid_topk_router::forward_row)
ESFT_FOR_EACH(sigmoid_topk_router::backward_row)
ESFT_FOR_EACH(grouped_experts_router::forward_row)
ESFT_FOR_EACH(gshard_top2_router::forward_row)
ESFT_FOR_EACH(gshard_top2_router::backward_row)
ESFT_FOR_EACH(null_experts_router::empty_null_slots)
ESFT_FOR_EACH(expert_choice_router::affinities)
ESFT_FOR_EACH(expert_choice_router::take_tokens)
ESFT_FOR_EACH(expert_choice_router::fill_slots)
ESFT_FOR_EACH(detail::empty_beyond_capacity)
ESFT_FOR_EACH(detail::weigh_given_row)
ESFT_FOR_EACH(detail::z_loss_row)
ESFT_FOR_EACH(detail::add_sums_row)
ESFT_FOR_EACH(detail::drop_row)
ESFT_FOR_EACH(detail::unselected_row)
ESFT_FOR_EACH(detail::unselected_gradient_row)
ESFT_FOR_EACH(detail::weigh_row)
ESFT_FOR_EACH(detail::weigh_inner_rows)
ESFT_FOR_EACH(detail::add_masked_row)
ESFT_FOR_EACH(detail::copy_columns_strip)
ESFT_FOR_EACH(detail::sum_heads_column)
ESFT_FOR_EACH(detail::rotate_strip)
ESFT_FOR_EACH(detail::add_bias_strip)
ESFT_FOR_EACH(detail::sum_rows_column)
ESFT_FOR_EACH(detail::round_to_f16_element)
ESFT_FOR_EACH(detail::add_sink)
ESFT_FOR_EACH(detail::sink_gradient)
ESFT_FOR_EACH(detail::clamped_swiglu_strip)
ESFT_FOR_EACH(detail::clamped_swiglu_gradient_row)
ESFT_FOR_EACH(detail::add_expert_bias_strip)
ESFT_FOR_EACH(detail::add_bias_gate_gradient)
ESFT_FOR_EACH(detail::sum_expert_rows)
ESFT_FOR_EACH(detail::sigmoid_element)
ESFT_FOR_EACH(detail::gate_strip)
ESFT_FOR_EACH(detail::gated_dot_part)
ESFT_FOR_EACH(detail::shared_gate_gradient)
template void cuda_backend<bf16>::for_each(index, detail::add_bias_strip<cuda_backend<bf16>, float>);
template void cuda_backend<bf16>::for_each(index, detail::sum_rows_column<cuda_backend<bf16>, float>);
template void cuda_backend<float>::for_each(index, detail::scale_row<tensor_view<float, 2, cuda_space>>);
template void cuda_backend<bf16>::for_each(index, detail::scale_row<tensor_view<bf16, 2, cuda_space>>);

}  // namespace esft
