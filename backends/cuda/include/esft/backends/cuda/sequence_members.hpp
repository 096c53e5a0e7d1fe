// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Norm, rotary embedding and attention of `cuda_backend`.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/kernels/attention.hpp>
#include <esft/backends/cuda/kernels/attention_backward.hpp>
#include <esft/backends/cuda/kernels/norm.hpp>
#include <esft/backends/cuda/kernels/rows.hpp>
#include <esft/backends/cuda/kernels/tensor_attention.hpp>
#include <esft/backends/cuda/kernels/tensor_attention_backward.hpp>

namespace esft {

template <class T>
void cuda_backend<T>::rms_norm(view<const T, 2> x, view<const T, 1> weight, double epsilon, view<T, 2> y, view<float, 1> rstd) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(x.extent(0), gpu::row_threads), gpu::rms_norm_kernel<T>, x.data(), weight.data(), epsilon, y.data(),
                   rstd.data(), x.extent(1));
}
template <class T>
void cuda_backend<T>::rms_norm_dx(view<const T, 2> dy, view<const T, 2> x, view<const T, 1> weight, view<const float, 1> rstd,
                                  view<T, 2> dx, write_mode mode) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::grid(x.extent(0), gpu::row_threads), gpu::rms_norm_dx_kernel<T>, dy.data(), x.data(), weight.data(), rstd.data(),
                   dx.data(), mode == write_mode::accumulate, x.extent(1));
}
template <class T>
void cuda_backend<T>::rms_norm_dw(view<const T, 2> dy, view<const T, 2> x, view<const float, 1> rstd, view<float, 1> dweight) {
  namespace gpu = detail::cuda;
  const index width = x.extent(1);
  const index chunks = (x.extent(0) + gpu::norm_rows - 1) / gpu::norm_rows;
  const index strips = (width + gpu::norm_columns - 1) / gpu::norm_columns;
  const gpu::scratch<float> partial(*context_, chunks * width);
  context_->launch(gpu::grid(chunks * strips, gpu::norm_columns), gpu::rms_norm_dw_kernel<T>, dy.data(), x.data(), rstd.data(),
                   partial.get(), x.extent(0), width);
  context_->launch(gpu::over(width), gpu::add_chunks_kernel<float>, partial.get(), dweight.data(), chunks, width);
}
template <class T>
void cuda_backend<T>::rope(view<T, 3> x, ids positions, double theta, int direction) {
  namespace gpu = detail::cuda;
  context_->launch(gpu::over(x.extent(0) * (x.extent(2) / 2)), gpu::rope_kernel<T>, x.data(), positions.data(), theta, direction,
                   x.extent(0), x.extent(1), x.extent(2));
}

namespace detail::cuda {
/// Calls `run` with the number of columns per lane, a constant, that a head of this width needs.
template <class Run>
void with_columns(index width, Run&& run) {
  ESFT_EXPECTS(width <= 8 * warp_size, "attention on this device takes heads of at most 256 columns");
  if (width <= 2 * warp_size) return run(std::integral_constant<int, 2>{});
  if (width <= 4 * warp_size) return run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, 8>{});
}
constexpr index blocks_of(index rows, index of_rows = block_rows) { return (rows + of_rows - 1) / of_rows; }

/// Whether tensor cores take heads of this width at these addresses: they read 16 bytes at a time.
template <class... Pointers>
bool on_tensor_cores(index width, const Pointers*... data) {
  return width % chunk_elements == 0 && ((reinterpret_cast<std::uintptr_t>(data) % 16 == 0) && ...);
}
/// Calls `run` with the padded width of a head, a constant.
template <class Run>
void with_tensor_columns(index width, Run&& run) {
  ESFT_EXPECTS(width <= 256, "attention on this device takes heads of at most 256 columns");
  if (width <= 64) return run(std::integral_constant<int, 64>{});
  if (width <= 128) return run(std::integral_constant<int, 128>{});
  run(std::integral_constant<int, 256>{});
}

/// `T` is bf16: a template, so that what stores float does not compile the kernels.
template <class T>
void tensor_attention(context& shared, const T* q, const T* k, const T* v, const std::int32_t* key_begin, const std::int32_t* key_end,
                      const attention_extents& x, T* o, float* lse) {
  with_tensor_columns(x.width, [&](auto columns) {
    const grid shape(blocks_of(x.queries, tensor_block) * x.heads, tensor_threads, tensor_attention_bytes<columns()>());
    shared.launch(shape, tensor_attention_kernel<columns()>, q, k, v, key_begin, key_end, x, o, lse);
  });
  ++shared.tensor_core_ops;
}
template <class T>
void tensor_attention_backward(context& shared, const T* q, const T* k, const T* v, const T* d_o, const float* lse, const float* pull,
                               const std::int32_t* key_begin, const std::int32_t* key_end, const attention_extents& x, T* dq, T* dk,
                               T* dv) {
  const index groups = blocks_of(x.queries, backward_rows);
  const scratch<query_range> ranges(shared, groups);
  shared.launch(grid(groups, warp_size), query_ranges_kernel<std::int32_t>, key_begin, key_end, x.queries, ranges.get());
  with_tensor_columns(x.width, [&](auto columns) {
    constexpr int width = columns();
    constexpr int part = width < 128 ? width : 128;  // sums of more columns would not fit into registers
    const grid queries(blocks_of(x.queries, tensor_block) * x.heads, tensor_threads, tensor_backward_bytes<width>());
    shared.launch(queries, tensor_dq_kernel<width>, q, k, v, d_o, lse, pull, key_begin, key_end, x, dq);
    const grid keys(blocks_of(x.keys, tensor_block) * x.groups * (width / part), tensor_threads, tensor_backward_bytes<width>());
    shared.launch(keys, tensor_dkv_kernel<width, part>, q, k, v, d_o, lse, pull, key_begin, key_end, ranges.get(), x, dk, dv);
  });
  ++shared.tensor_core_ops;
}
}  // namespace detail::cuda

template <class T>
void cuda_backend<T>::attention(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, ids key_begin, ids key_end, double scale,
                                view<T, 3> o, view<float, 2> lse) {
  namespace gpu = detail::cuda;
  ESFT_EXPECTS(k.extent(1) > 0 && q.extent(1) % k.extent(1) == 0, "the number of heads is a multiple of the number of key-value heads");
  const gpu::attention_extents extents{q.extent(0), q.extent(1), k.extent(0), k.extent(1), q.extent(2), static_cast<float>(scale)};
  if constexpr (std::same_as<T, bf16>) {
    if (gpu::on_tensor_cores(extents.width, q.data(), k.data(), v.data(), o.data())) {
      return gpu::tensor_attention(*context_, q.data(), k.data(), v.data(), key_begin.data(), key_end.data(), extents, o.data(),
                                   lse.data());
    }
  }
  gpu::with_columns(extents.width, [&](auto columns) {
    const gpu::grid shape(gpu::blocks_of(extents.queries) * extents.heads, gpu::attention_threads, extents.shared_bytes(1, 2));
    context_->launch(shape, gpu::attention_kernel<T, columns()>, q.data(), k.data(), v.data(), key_begin.data(), key_end.data(), extents,
                     o.data(), lse.data());
  });
}
template <class T>
void cuda_backend<T>::attention_backward(view<const T, 3> q, view<const T, 3> k, view<const T, 3> v, view<const T, 3> o,
                                         view<const float, 2> lse, view<const T, 3> d_o, ids key_begin, ids key_end, double scale,
                                         view<T, 3> dq, view<T, 3> dk, view<T, 3> dv) {
  namespace gpu = detail::cuda;
  ESFT_EXPECTS(k.extent(1) > 0 && q.extent(1) % k.extent(1) == 0, "the number of heads is a multiple of the number of key-value heads");
  const gpu::attention_extents extents{q.extent(0), q.extent(1), k.extent(0), k.extent(1), q.extent(2), static_cast<float>(scale)};
  const index heads = extents.queries * extents.heads;
  const gpu::scratch<float> pull(*context_, heads);
  context_->launch(gpu::grid((heads + gpu::attention_warps - 1) / gpu::attention_warps, gpu::attention_threads),
                   gpu::attention_pull_kernel<T>, o.data(), d_o.data(), pull.get(), heads, extents.width);
  if constexpr (std::same_as<T, bf16>) {
    if (gpu::on_tensor_cores(extents.width, q.data(), k.data(), v.data(), d_o.data(), dq.data(), dk.data(), dv.data())) {
      return gpu::tensor_attention_backward(*context_, q.data(), k.data(), v.data(), d_o.data(), lse.data(), pull.get(), key_begin.data(),
                                            key_end.data(), extents, dq.data(), dk.data(), dv.data());
    }
  }
  gpu::with_columns(extents.width, [&](auto columns) {
    const gpu::grid queries(gpu::blocks_of(extents.queries) * extents.heads, gpu::attention_threads, extents.shared_bytes(2, 2));
    context_->launch(queries, gpu::attention_dq_kernel<T, columns()>, q.data(), k.data(), v.data(), d_o.data(), lse.data(), pull.get(),
                     key_begin.data(), key_end.data(), extents, dq.data());
    const gpu::grid keys(gpu::blocks_of(extents.keys) * extents.groups, gpu::attention_threads, extents.shared_bytes(2, 2));
    context_->launch(keys, gpu::attention_dkv_kernel<T, columns()>, q.data(), k.data(), v.data(), d_o.data(), lse.data(), pull.get(),
                     key_begin.data(), key_end.data(), extents, dk.data(), dv.data());
  });
}

}  // namespace esft
