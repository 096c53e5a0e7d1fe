// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Kernels that treat elements one by one: fill, for_each, add, conversions, AdamW; and the sum of squares.

#include <esft/backends/cuda/device.hpp>
#include <esft/core/dtype.hpp>

#include <cmath>

namespace esft::detail::cuda {

/// First element of this thread and the distance to its next one.
ESFT_DEVICE index first_element() { return block_index() * block_size() + thread_index(); }
ESFT_DEVICE index element_stride() { return block_count() * block_size(); }
/// A launch over `count` elements.
inline grid over(index count, std::source_location where = std::source_location::current()) {
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

/// Scalars of one AdamW launch, rounded once on the host.
struct adamw_scalars {
  float rate, beta1, beta2, epsilon, decay, correction1, correction2, gradient_scale;
  bool round_to_bf16;
};
/// @eq m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= lr (m^ / (sqrt(v^) + eps) + wd w)
template <class T>
ESFT_KERNEL void adamw_kernel(T* weight, float* master, float* m, float* v, const float* gradient, adamw_scalars s, index count) {
  for (index i = first_element(); i < count; i += element_stride()) {
    const float g = s.gradient_scale * gradient[i];
    const float new_m = s.beta1 * m[i] + (1.0F - s.beta1) * g;
    const float new_v = s.beta2 * v[i] + (1.0F - s.beta2) * g * g;
    const float direction = (new_m / s.correction1) / (::sqrtf(new_v / s.correction2) + s.epsilon);
    const float w = master[i] - s.rate * (direction + s.decay * master[i]);
    m[i] = new_m;
    v[i] = new_v;
    master[i] = w;
    weight[i] = s.round_to_bf16 ? T(static_cast<float>(bf16(w))) : T(w);
  }
}

/// Elements that one block of `square_sums_kernel` adds.
inline constexpr index squares_per_block = 16384;
/// partial[b] = sum of squares of the b-th run, in double and in an order that the size alone decides.
template <class A>
ESFT_KERNEL void square_sums_kernel(const A* x, double* partial, index count) {
  const index begin = block_index() * squares_per_block;
  const index end = begin + squares_per_block < count ? begin + squares_per_block : count;
  double sum = 0;
  for (index i = begin + thread_index(); i < end; i += block_size()) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  sum = block_sum(sum);
  if (thread_index() == 0) partial[block_index()] = sum;
}
/// out[0] = sum of x, by one block.
template <class A>
ESFT_KERNEL void total_kernel(const A* x, A* out, index count) {
  A sum = 0;
  for (index i = thread_index(); i < count; i += block_size()) sum += x[i];
  sum = block_sum(sum);
  if (thread_index() == 0) out[0] = sum;
}

}  // namespace esft::detail::cuda
