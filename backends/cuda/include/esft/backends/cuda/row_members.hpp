// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Routing, SwiGLU, embedding and loss of `cuda_backend`.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/kernels/elementwise.hpp>
#include <esft/backends/cuda/kernels/routing.hpp>
#include <esft/backends/cuda/kernels/rows.hpp>

namespace esft {

template <class T>
void cuda_backend<T>::softmax_topk(view<const float, 2> logits, bool normalise, float scale, view<std::int32_t, 2> expert_ids,
                                   view<float, 2> weights, view<float, 2> probabilities) {
  namespace gpu = detail::cuda;
  const index experts = logits.extent(1);
  const index active = expert_ids.extent(1);
  ESFT_EXPECTS(active >= 1 && active <= experts && experts <= gpu::most_experts, "1 <= K <= E <= 1024");
  const gpu::grid shape((logits.extent(0) + gpu::rows_per_block - 1) / gpu::rows_per_block, gpu::rows_per_block * gpu::warp_size);
  const auto run = [&](auto kernel) {
    context_->launch(shape, kernel, logits.data(), normalise, scale, expert_ids.data(), weights.data(), probabilities.data(),
                     logits.extent(0), experts, active);
  };
  if (experts <= 2 * gpu::warp_size) return run(gpu::softmax_topk_kernel<2>);
  if (experts <= 8 * gpu::warp_size) return run(gpu::softmax_topk_kernel<8>);
  run(gpu::softmax_topk_kernel<gpu::experts_per_lane>);
}

template <class T>
void cuda_backend<T>::dispatch(slots expert_ids, view<std::int32_t, 1> offsets, view<std::int32_t, 1> row_slot,
                               view<std::int32_t, 2> slot_row) {
  namespace gpu = detail::cuda;
  const index experts = offsets.size() - 1;
  const index count = expert_ids.size();
  ESFT_EXPECTS(experts >= 0 && row_slot.size() == count && slot_row.size() == count, "offsets [E+1], row_slot [T K], slot_row [T,K]");
  const index blocks = (count + gpu::slots_per_block - 1) / gpu::slots_per_block;
  context_->forget(offsets.data(), static_cast<std::size_t>(offsets.size()) * sizeof(std::int32_t));
  const gpu::scratch<std::int32_t> counts(*context_, blocks * experts);
  const gpu::scratch<std::int32_t> totals(*context_, experts);
  const gpu::grid shape(blocks, gpu::sort_threads);
  context_->launch(shape, gpu::histogram_kernel<std::int32_t>, expert_ids.data(), count, experts, counts.get(), context_->faults);
  const index warps = gpu::scan_threads / gpu::warp_size;
  context_->launch(gpu::grid((experts + warps - 1) / warps, gpu::scan_threads), gpu::scan_blocks_kernel<std::int32_t>, counts.get(),
                   totals.get(), blocks, experts);
  context_->launch(gpu::grid(1, gpu::scan_threads), gpu::scan_experts_kernel<std::int32_t>, totals.get(), offsets.data(), experts);
  context_->launch(shape, gpu::scatter_kernel<std::int32_t>, expert_ids.data(), count, experts, counts.get(), offsets.data(),
                   row_slot.data(), slot_row.data(), context_->faults);
}
template <class T>
void cuda_backend<T>::gather(view<const T, 2> x, ids row_slot, index active, view<T, 2> y) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(y.extent(0), gpu::row_threads), gpu::gather_kernel<T>, x.data(), row_slot.data(), active, y.data(),
                   y.extent(1));
}
template <class T>
void cuda_backend<T>::gather_sum(view<const T, 2> y, slots slot_row, view<T, 2> out, write_mode mode) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(out.extent(0), gpu::row_threads), gpu::gather_sum_kernel<T>, y.data(), slot_row.data(), nullptr, out.data(),
                   mode == write_mode::accumulate, slot_row.extent(1), out.extent(1));
}
template <class T>
void cuda_backend<T>::combine(view<const T, 2> y, slots slot_row, view<const float, 2> weights, view<T, 2> out, write_mode mode) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(out.extent(0), gpu::row_threads), gpu::gather_sum_kernel<T>, y.data(), slot_row.data(), weights.data(),
                   out.data(), mode == write_mode::accumulate, slot_row.extent(1), out.extent(1));
}

template <class T>
void cuda_backend<T>::swiglu(view<const T, 2> gate_up, view<T, 2> h) {
  namespace gpu = detail::cuda;
  ESFT_EXPECTS(gate_up.extent(0) == h.extent(0) && gate_up.extent(1) == 2 * h.extent(1), "gate_up [R,2I], h [R,I]");
  context_->launch(gpu::grid(h.extent(0), gpu::row_threads), gpu::swiglu_kernel<T>, gate_up.data(), h.data(), h.extent(1));
}
template <class T>
void cuda_backend<T>::swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<T, 2> dgate_up) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(dh.extent(0), gpu::row_threads), gpu::swiglu_backward_kernel<T>, gate_up.data(), dh.data(), nullptr, nullptr,
                   dgate_up.data(), nullptr, nullptr, dh.extent(1));
}
template <class T>
void cuda_backend<T>::weighted_swiglu_backward(view<const T, 2> gate_up, view<const T, 2> dh, view<const float, 2> weights, ids row_slot,
                                               view<T, 2> dgate_up, view<T, 2> weighted_h, view<float, 2> dweights) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(dh.extent(0), gpu::row_threads), gpu::swiglu_backward_kernel<T>, gate_up.data(), dh.data(), weights.data(),
                   row_slot.data(), dgate_up.data(), weighted_h.data(), dweights.data(), dh.extent(1));
}

template <class T>
void cuda_backend<T>::embedding(ids tokens, view<const T, 2> table, view<T, 2> y) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(y.extent(0), gpu::row_threads), gpu::embedding_kernel<T>, tokens.data(), table.data(), table.extent(0),
                   y.data(), y.extent(1), context_->faults);
}
template <class T>
void cuda_backend<T>::embedding_dw(ids tokens, view<const T, 2> dy, view<float, 2> dtable) {
  namespace gpu = detail::cuda;
  const gpu::grid shape(dy.extent(0), gpu::row_threads);
  if (context_->options.deterministic) {
    context_->launch(shape, gpu::embedding_dw_kernel<T>, tokens.data(), dy.data(), dtable.data(), dtable.extent(0), dy.extent(0),
                     dy.extent(1));
  } else {
    context_->launch(shape, gpu::embedding_dw_atomic_kernel<T>, tokens.data(), dy.data(), dtable.data(), dtable.extent(0), dy.extent(1));
  }
}

template <class T>
double cuda_backend<T>::cross_entropy(view<float, 2> logits, ids labels, double scale) {
  const detail::cuda::scratch<double> sum(*context_, 1);
  add_loss(logits, labels, scale, nullptr, sum.get(), false);
  double result = 0;
  context_->download(&result, sum.get(), sizeof(result));
  return result;
}
template <class T>
void cuda_backend<T>::cross_entropy(view<float, 2> logits, ids labels, view<double, 1> numbers) {
  ESFT_EXPECTS(numbers.size() == step_numbers::count, "the numbers of a step");
  add_loss(logits, labels, 0, numbers.data() + step_numbers::loss_scale, numbers.data() + step_numbers::loss, true);
}
template <class T>
void cuda_backend<T>::add_loss(view<float, 2> logits, ids labels, double scale, const double* scale_there, double* sum, bool accumulate) {
  namespace gpu = detail::cuda;
  const index rows = logits.extent(0);
  const gpu::scratch<double> loss(*context_, rows);
  context_->launch(gpu::grid(rows, gpu::row_threads), gpu::cross_entropy_kernel<float>, logits.data(), labels.data(), scale, scale_there,
                   loss.get(), logits.extent(1), context_->faults);
  context_->launch(gpu::grid(1, 256), gpu::total_kernel<double>, loss.get(), sum, accumulate, rows);
}

}  // namespace esft
