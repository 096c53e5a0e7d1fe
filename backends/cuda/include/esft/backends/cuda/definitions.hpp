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
#include <esft/backends/cuda/update_members.hpp>

#include <utility>

namespace esft {

template <class T>
int cuda_backend<T>::devices() noexcept {
  return detail::cuda::gpu::count();
}
template <class T>
cuda_backend<T>::cuda_backend(const cuda_options& options)
    : context_(new detail::cuda::context(options), [](detail::cuda::context* shared) { shared->drop(); }) {}

template <class T>
std::string cuda_backend<T>::description() const {
  return context_->device.describe(context_->device.ordinal());
}
template <class T>
std::int64_t cuda_backend<T>::free_memory() {
  return context_->device.free_memory();
}
template <class T>
std::int64_t cuda_backend<T>::host_synchronisations() const noexcept {
  return context_->synchronisations;
}
template <class T>
std::int64_t cuda_backend<T>::tensor_core_ops() const noexcept {
  return context_->tensor_core_ops;
}
template <class T>
void cuda_backend<T>::synchronise() {
  context_->download(nullptr, nullptr, 0);
}
template <class T>
void cuda_backend<T>::start_clock() {
  context_->refuse_while_recording("clock");
  context_->device.start_clock();
}
template <class T>
double cuda_backend<T>::stop_clock() {
  context_->refuse_while_recording("clock");
  ++context_->synchronisations;
  return context_->device.stop_clock();
}
template <class T>
void cuda_backend<T>::begin_recording() {
  context_->begin_recording();
}
template <class T>
void cuda_backend<T>::abandon_recording() noexcept {
  context_->abandon_recording();
}
template <class T>
cuda_graph cuda_backend<T>::end_recording() {
  return {context_->end_recording()};
}
template <class T>
void cuda_backend<T>::replay(const cuda_graph& graph) {
  ESFT_EXPECTS(graph.work != nullptr, "a graph that was captured");
  context_->replay(graph.work.get());
}
template <class T>
cuda_reading cuda_backend<T>::read_later(view<const double, 1> numbers) {
  return {context_->read_later(numbers.data(), static_cast<std::size_t>(numbers.size()))};
}
template <class T>
std::vector<double> cuda_backend<T>::finish_reading(cuda_reading reading) {
  return context_->finish_reading(reading.place);
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

}  // namespace esft
