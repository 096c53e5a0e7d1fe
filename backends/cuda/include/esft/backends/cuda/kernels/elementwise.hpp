// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Kernels that treat elements one by one: fill, for_each, add, conversions; and the total of an array.

#include <esft/backends/cuda/device.hpp>
#include <esft/core/dtype.hpp>

namespace esft::detail::cuda {

/// First element of this thread and the distance to its next one.
ESFT_DEVICE index first_element() { return block_index() * block_size() + thread_index(); }
ESFT_DEVICE index element_stride() { return block_count() * block_size(); }
/// A launch over `count` elements.
inline grid over(index count, call_place where = call_place::current()) {
  const index blocks = (count + 255) / 256;
  return {blocks < 65536 ? blocks : 65536, 256, 0, where};
}

template <class U>
ESFT_KERNEL void fill_kernel(U* x, U value, index count) {
  for (index i = first_element(); i < count; i += element_stride()) x[i] = value;
}
template <class Body>
ESFT_KERNEL void for_each_kernel(Body body, index count) {
  for (index i = first_element(); i < count; i += element_stride()) body(i);
}
template <class T>
ESFT_KERNEL void add_kernel(const T* x, T* y, index count) {
  for (index i = first_element(); i < count; i += element_stride()) y[i] = T(static_cast<float>(y[i]) + static_cast<float>(x[i]));
}
/// y (+)= x, rounded once.
template <class T>
ESFT_KERNEL void round_kernel(const float* x, T* y, bool accumulate, index count) {
  for (index i = first_element(); i < count; i += element_stride()) y[i] = T(accumulate ? static_cast<float>(y[i]) + x[i] : x[i]);
}
/// x = high + low up to 2^-17 of itself: a float gradient as two operands of a bf16 product.
template <class A>
ESFT_KERNEL void split_kernel(const A* x, bf16* high, bf16* low, index count) {
  for (index i = first_element(); i < count; i += element_stride()) {
    high[i] = bf16(x[i]);
    low[i] = bf16(x[i] - static_cast<float>(high[i]));
  }
}

/// out[0] (+)= sum of x, by one block.
template <class A>
ESFT_KERNEL void total_kernel(const A* x, A* out, bool accumulate, index count) {
  A sum = 0;
  for (index i = thread_index(); i < count; i += block_size()) sum += x[i];
  sum = block_sum(sum);
  if (thread_index() == 0) out[0] = accumulate ? out[0] + sum : sum;
}

}  // namespace esft::detail::cuda
