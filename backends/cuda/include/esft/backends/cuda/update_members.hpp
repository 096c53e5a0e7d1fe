// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Trained pieces of `cuda_backend`: lists of them, AdamW, sum of squares.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/kernels/elementwise.hpp>
#include <esft/backends/cuda/kernels/update.hpp>

#include <type_traits>
#include <vector>

namespace esft {
namespace detail::cuda {

/// total[0] = the sum over all gradients of a list.
template <class List>
void add_squares(context& shared, const List& list, double* total) {
  using entry = typename std::remove_cvref_t<decltype(list.entries)>::element_type;
  const scratch<double> sums(shared, list.blocks);
  shared.launch(grid(list.blocks, update_threads), square_sums_kernel<typename entry::stored>, list.entries.data(), list.entries.size(),
                sums.get());
  shared.launch(grid(1, 256), total_kernel<double>, sums.get(), total, false, list.blocks);
}

/// `decision`, unless null, lies on the device and overrules the step's scalars.
template <class T, class List>
void launch_adamw(context& shared, const List& list, tensor_view<float, 1, cuda_space> master, tensor_view<float, 1, cuda_space> m,
                  tensor_view<float, 1, cuda_space> v, const adamw_step& step, const adamw_decision* decision) {
  ESFT_EXPECTS(master.size() == list.elements && m.size() == list.elements && v.size() == list.elements,
               "the state has as many elements as the pieces together");
  const auto correction = [&](double beta) { return static_cast<float>(1.0 - std::pow(beta, static_cast<double>(step.step))); };
  const adamw_scalars scalars{static_cast<float>(step.learning_rate),
                              static_cast<float>(step.beta1),
                              static_cast<float>(step.beta2),
                              static_cast<float>(step.epsilon),
                              static_cast<float>(step.weight_decay),
                              correction(step.beta1),
                              correction(step.beta2),
                              static_cast<float>(step.gradient_scale),
                              step.round_to_bf16};
  shared.launch(grid(list.blocks, update_threads), adamw_kernel<T>, list.entries.data(), list.entries.size(), master.data(), m.data(),
                v.data(), scalars, decision);
}

}  // namespace detail::cuda

template <class T>
auto cuda_backend<T>::make_update_list(std::span<const update_slice<cuda_backend>> slices) -> update_list {
  namespace gpu = detail::cuda;
  std::vector<gpu::slice_entry<T>> entries;
  index first = 0;
  index blocks = 0;
  for (const auto& slice : slices) {
    ESFT_EXPECTS(slice.value.size() == slice.gradient.size(), "weight and gradient have equally many elements");
    entries.push_back({slice.value.data(), slice.gradient.data(), slice.value.size(), first, blocks, slice.decays});
    first += slice.value.size();
    blocks += (slice.value.size() + gpu::slice_chunk - 1) / gpu::slice_chunk;
  }
  update_list list{make_tensor<gpu::slice_entry<T>>(extents<1>{static_cast<index>(entries.size())}), first, blocks};
  copy_in(std::span<const gpu::slice_entry<T>>(entries), list.entries.view());
  return list;
}
template <class T>
void cuda_backend<T>::clear_gradients(const update_list& list) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(list.blocks, gpu::update_threads), gpu::clear_gradients_kernel<T>, list.entries.data(), list.entries.size());
}
template <class T>
double cuda_backend<T>::sum_of_squares(const update_list& list) {
  const detail::cuda::scratch<double> total(*context_, 1);
  detail::cuda::add_squares(*context_, list, total.get());
  double result = 0;
  context_->download(&result, total.get(), sizeof(result));
  return result;
}
template <class T>
void cuda_backend<T>::sum_of_squares(const update_list& list, view<double, 1> numbers) {
  ESFT_EXPECTS(numbers.size() == step_numbers::count, "the numbers of a step");
  detail::cuda::add_squares(*context_, list, numbers.data() + step_numbers::squares);
}
template <class T>
void cuda_backend<T>::adamw(const update_list& list, view<float, 1> master, view<float, 1> m, view<float, 1> v, const adamw_step& step) {
  detail::cuda::launch_adamw<T>(*context_, list, master, m, v, step, nullptr);
}
template <class T>
void cuda_backend<T>::adamw(const update_list& list, view<float, 1> master, view<float, 1> m, view<float, 1> v, const adamw_step& step,
                            double clip_norm, view<double, 1> numbers) {
  namespace gpu = detail::cuda;
  ESFT_EXPECTS(numbers.size() == step_numbers::count, "the numbers of a step");
  const gpu::scratch<gpu::adamw_decision> decision(*context_, 1);
  context_->launch(gpu::grid(1, gpu::warp_size), gpu::decide_update_kernel<gpu::adamw_decision>, numbers.data(), step.beta1, step.beta2,
                   clip_norm, context_->faults, decision.get());
  gpu::launch_adamw<T>(*context_, list, master, m, v, step, decision.get());
}

template <class T>
void cuda_backend<T>::adamw(view<T, 1> weight, view<float, 1> master, view<float, 1> m, view<float, 1> v, view<const float, 1> gradient,
                            const adamw_step& step) {
  adamw(one_piece(weight.data(), gradient), master, m, v, step);
}
template <class T>
double cuda_backend<T>::sum_of_squares(view<const float, 1> gradient) {
  return sum_of_squares(one_piece(nullptr, gradient));
}
/// The gradient is only read: neither of the two that ask for this clears it.
template <class T>
auto cuda_backend<T>::one_piece(T* weight, view<const float, 1> gradient) -> update_list {
  const update_slice<cuda_backend> piece{{weight, gradient.shape()}, {const_cast<float*>(gradient.data()), gradient.shape()}, true};
  return make_update_list({&piece, 1});
}

}  // namespace esft
