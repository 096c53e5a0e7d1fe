// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// RMSNorm and rotary embedding.

#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/kernels/elementwise.hpp>

#include <cmath>

namespace esft::detail::cuda {

/// One block per row. @shape x, y [N, D], rstd [N]
template <class T>
ESFT_KERNEL void rms_norm_kernel(const T* x, const T* weight, float epsilon, T* y, float* rstd, index width) {
  const T* row = x + block_index() * width;
  float squares = 0;
  for (index d = thread_index(); d < width; d += block_size()) squares += static_cast<float>(row[d]) * static_cast<float>(row[d]);
  const float r = 1.0F / ::sqrtf(block_sum(squares) / static_cast<float>(width) + epsilon);
  if (thread_index() == 0) rstd[block_index()] = r;
  for (index d = thread_index(); d < width; d += block_size()) {
    y[block_index() * width + d] = T(static_cast<float>(row[d]) * r * static_cast<float>(weight[d]));
  }
}

/// @eq dx = rstd (w dy - x rstd^2 mean(x w dy))
template <class T>
ESFT_KERNEL void rms_norm_dx_kernel(const T* dy, const T* x, const T* weight, const float* rstd, T* dx, bool accumulate, index width) {
  const index row = block_index() * width;
  const float r = rstd[block_index()];
  float dot = 0;
  for (index d = thread_index(); d < width; d += block_size()) {
    dot += static_cast<float>(x[row + d]) * static_cast<float>(weight[d]) * static_cast<float>(dy[row + d]);
  }
  const float pull = block_sum(dot) * r * r / static_cast<float>(width);
  for (index d = thread_index(); d < width; d += block_size()) {
    const float value = r * (static_cast<float>(weight[d]) * static_cast<float>(dy[row + d]) - static_cast<float>(x[row + d]) * pull);
    dx[row + d] = T(accumulate ? static_cast<float>(dx[row + d]) + value : value);
  }
}

/// Rows that one block of `rms_norm_dw_kernel` adds.
inline constexpr index norm_rows = 64;
inline constexpr int norm_columns = 128;
/// partial[c] [D] = sum over the c-th run of rows of dy x rstd.
template <class T>
ESFT_KERNEL void rms_norm_dw_kernel(const T* dy, const T* x, const float* rstd, float* partial, index rows, index width) {
  const index strips = (width + norm_columns - 1) / norm_columns;
  const index chunk = block_index() / strips;
  const index d = block_index() % strips * norm_columns + thread_index();
  if (d >= width) return;
  const index end = (chunk + 1) * norm_rows < rows ? (chunk + 1) * norm_rows : rows;
  float sum = 0;
  for (index n = chunk * norm_rows; n < end; ++n) {
    sum += static_cast<float>(dy[n * width + d]) * static_cast<float>(x[n * width + d]) * rstd[n];
  }
  partial[chunk * width + d] = sum;
}
/// out[d] += sum over the chunks, ascending.
template <class A>
ESFT_KERNEL void add_chunks_kernel(const A* partial, A* out, index chunks, index width) {
  for (index d = first_element(); d < width; d += element_stride()) {
    A sum = 0;
    for (index c = 0; c < chunks; ++c) sum += partial[c * width + d];
    out[d] += sum;
  }
}

/// Rotates pairs (i, i + F/2) of all heads of one position; one thread per (t, i). Angles in double: positions reach far beyond 2^24 ulp.
template <class T>
ESFT_KERNEL void rope_kernel(T* x, const std::int32_t* positions, double theta, int direction, index tokens, index heads, index width) {
  const index half = width / 2;
  for (index job = first_element(); job < tokens * half; job += element_stride()) {
    const index t = job / half;
    const index i = job % half;
    const double angle = static_cast<double>(positions[t]) * ::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(width));
    const auto c = static_cast<float>(::cos(angle));
    const auto s = static_cast<float>(direction * ::sin(angle));
    for (index h = 0; h < heads; ++h) {
      T* head = x + (t * heads + h) * width;
      const auto first = static_cast<float>(head[i]);
      const auto second = static_cast<float>(head[i + half]);
      head[i] = T(first * c - second * s);
      head[i + half] = T(second * c + first * s);
    }
  }
}

}  // namespace esft::detail::cuda
