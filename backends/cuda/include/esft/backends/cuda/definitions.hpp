// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The members of `cuda_backend`. Include it in a .cu file to instantiate the backend, or `for_each` with a function object of your own.

#include <esft/backends/cuda.hpp>
#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/kernels/elementwise.hpp>
#include <esft/backends/cuda/matrix_members.hpp>
#include <esft/backends/cuda/row_members.hpp>
#include <esft/backends/cuda/sequence_members.hpp>

#include <utility>

namespace esft {

template <class T>
int cuda_backend<T>::devices() noexcept {
  return detail::cuda::gpu::count();
}
template <class T>
cuda_backend<T>::cuda_backend(int device)
    : context_(new detail::cuda::context(device), [](detail::cuda::context* shared) { shared->drop(); }) {}

template <class T>
std::string cuda_backend<T>::description() const {
  return context_->device.describe(context_->device.ordinal());
}
template <class T>
std::int64_t cuda_backend<T>::host_synchronisations() const noexcept {
  return context_->synchronisations;
}
template <class T>
void cuda_backend<T>::synchronise() {
  context_->download(nullptr, nullptr, 0);
}
template <class T>
void cuda_backend<T>::inject_failure(cuda_operation kind, std::int64_t after) noexcept {
  context_->until_failure[static_cast<std::size_t>(kind)] = after;
}

template <class T>
void* cuda_backend<T>::allocate(std::size_t bytes) {
  void* data = context_->allocate(bytes);
  ++context_->references;
  return data;
}
template <class T>
void cuda_backend<T>::release(void* shared, void* data) {
  auto* owner = static_cast<detail::cuda::context*>(shared);
  owner->release(data);
  owner->drop();
}
template <class T>
void cuda_backend<T>::upload(void* to, const void* from, std::size_t bytes) {
  context_->upload(to, from, bytes);
}
template <class T>
void cuda_backend<T>::download(void* to, const void* from, std::size_t bytes) {
  context_->download(to, from, bytes);
}
template <class T>
void cuda_backend<T>::copy_bytes(void* to, const void* from, std::size_t bytes) {
  context_->copy(to, from, bytes);
}
template <class T>
void cuda_backend<T>::fill_bytes(void* to, const void* value, std::size_t size, index count) {
  namespace gpu = detail::cuda;
  if (count == 0) return;
  context_->forget(to, size * static_cast<std::size_t>(count));
  const auto as = [&]<class U>(U bits) {
    std::memcpy(&bits, value, sizeof(bits));
    context_->launch(gpu::over(count), gpu::fill_kernel<U>, static_cast<U*>(to), bits, count);
  };
  ESFT_EXPECTS(size == 1 || size == 2 || size == 4 || size == 8, "an element has 1, 2, 4 or 8 bytes");
  if (size == 1) as(std::uint8_t{});
  if (size == 2) as(std::uint16_t{});
  if (size == 4) as(std::uint32_t{});
  if (size == 8) as(std::uint64_t{});
}
template <class T>
template <class Body>
void cuda_backend<T>::for_each(index count, Body body) {
  context_->launch(detail::cuda::over(count), detail::cuda::for_each_kernel<Body>, body, count);
}

template <class T>
void cuda_backend<T>::add(view<const T, 1> x, view<T, 1> y) {
  context_->launch(detail::cuda::over(y.size()), detail::cuda::add_kernel<T>, x.data(), y.data(), y.size());
}
template <class T>
void cuda_backend<T>::adamw(view<T, 1> weight, view<float, 1> master, view<float, 1> m, view<float, 1> v, view<const float, 1> gradient,
                            const adamw_step& step) {
  const auto correction = [&](double beta) { return static_cast<float>(1.0 - std::pow(beta, static_cast<double>(step.step))); };
  const detail::cuda::adamw_scalars scalars{static_cast<float>(step.learning_rate),
                                            static_cast<float>(step.beta1),
                                            static_cast<float>(step.beta2),
                                            static_cast<float>(step.epsilon),
                                            static_cast<float>(step.weight_decay),
                                            correction(step.beta1),
                                            correction(step.beta2),
                                            static_cast<float>(step.gradient_scale),
                                            step.round_to_bf16};
  context_->launch(detail::cuda::over(weight.size()), detail::cuda::adamw_kernel<T>, weight.data(), master.data(), m.data(), v.data(),
                   gradient.data(), scalars, weight.size());
}
template <class T>
double cuda_backend<T>::sum_of_squares(view<const float, 1> gradient) {
  namespace gpu = detail::cuda;
  const index blocks = (gradient.size() + gpu::squares_per_block - 1) / gpu::squares_per_block;
  const gpu::scratch<double> sums(*context_, blocks + 1);
  context_->launch(gpu::grid(blocks, 256), gpu::square_sums_kernel<float>, gradient.data(), sums.get() + 1, gradient.size());
  context_->launch(gpu::grid(1, 256), gpu::total_kernel<double>, sums.get() + 1, sums.get(), blocks);
  double result = 0;
  context_->download(&result, sums.get(), sizeof(result));
  return result;
}

}  // namespace esft
