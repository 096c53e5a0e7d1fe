// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What is done to trained pieces: AdamW, gradients to zero, sum of squares. One launch for all pieces, 16 bytes at a time.

#include <esft/backend/unattended.hpp>
#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/slice_entry.hpp>
#include <esft/core/dtype.hpp>

#include <cmath>
#include <cstdint>

namespace esft::detail::cuda {

inline constexpr int update_threads = 256;
/// Elements that a thread treats at a time.
inline constexpr int update_width = 8;

/// The 16 bytes of one access.
template <class V>
struct alignas(16) packed16 {
  V element[16 / sizeof(V)];
};
template <class V>
ESFT_DEVICE bool aligned16(const V* x) {
  return reinterpret_cast<std::uintptr_t>(x) % 16 == 0;
}
/// Eight elements, or the `count` first of them and zeros. Indices are constants once unrolled: the elements live in registers.
template <class V>
ESFT_DEVICE void load_some(const V* from, int count, bool wide, V* to) {
  if (!wide) {
    ESFT_UNROLL
    for (int i = 0; i < update_width; ++i) to[i] = i < count ? from[i] : V(0.0F);
    return;
  }
  constexpr int part = 16 / static_cast<int>(sizeof(V));
  ESFT_UNROLL
  for (int i = 0; i < update_width; i += part) {
    const packed16<V> piece = *reinterpret_cast<const packed16<V>*>(from + i);
    ESFT_UNROLL
    for (int j = 0; j < part; ++j) to[i + j] = piece.element[j];
  }
}
template <class V>
ESFT_DEVICE void store_some(const V* from, int count, bool wide, V* to) {
  if (!wide) {
    ESFT_UNROLL
    for (int i = 0; i < update_width; ++i) {
      if (i < count) to[i] = from[i];
    }
    return;
  }
  constexpr int part = 16 / static_cast<int>(sizeof(V));
  ESFT_UNROLL
  for (int i = 0; i < update_width; i += part) {
    packed16<V> piece;
    ESFT_UNROLL
    for (int j = 0; j < part; ++j) piece.element[j] = from[i + j];
    *reinterpret_cast<packed16<V>*>(to + i) = piece;
  }
}
/// Calls `body(first, count)` for the runs of at most eight elements of this thread, `first` counted within the piece.
template <class T, class Body>
ESFT_DEVICE void for_each_run(const slice_entry<T>& piece, index block, Body&& body) {
  const index begin = (block - piece.first_block) * slice_chunk;
  const index end = begin + slice_chunk < piece.size ? begin + slice_chunk : piece.size;
  for (index i = begin + thread_index() * update_width; i < end; i += index{update_threads} * update_width) {
    body(i, static_cast<int>(end - i < update_width ? end - i : update_width));
  }
}

/// Scalars of one AdamW launch, rounded once.
struct adamw_scalars {
  float rate, beta1, beta2, epsilon, decay, correction1, correction2, gradient_scale;
  bool round_to_bf16;
};
/// Those that only a step's own numbers give.
struct adamw_decision {
  bool update;
  float rate, correction1, correction2, gradient_scale;
};
/// What a step does with its numbers: nothing where they are not finite, or where a kernel found an id out of range.
/// @eq scale = min(1, clip / norm), correction_i = 1 - beta_i^updates
ESFT_HOST_DEVICE inline adamw_decision decide_update(double* numbers, double beta1, double beta2, double clip_norm, bool fault) {
  const double norm = ::sqrt(numbers[step_numbers::squares]);
  const double loss = numbers[step_numbers::loss];
  adamw_decision result{};
  result.update = !fault && norm - norm == 0 && loss - loss == 0;  // Inf - Inf and NaN are not 0
  if (!result.update) return result;
  numbers[step_numbers::updates] += 1;
  const double updates = numbers[step_numbers::updates];
  result.rate = static_cast<float>(numbers[step_numbers::learning_rate]);
  result.correction1 = static_cast<float>(1.0 - ::pow(beta1, updates));
  result.correction2 = static_cast<float>(1.0 - ::pow(beta2, updates));
  result.gradient_scale = static_cast<float>(clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1.0);
  return result;
}
/// By one thread. A template like all kernels, so that several units may have it.
template <class Decision>
ESFT_KERNEL void decide_update_kernel(double* numbers, double beta1, double beta2, double clip_norm, const std::int32_t* faults,
                                      Decision* decision) {
  if (thread_index() == 0) *decision = decide_update(numbers, beta1, beta2, clip_norm, *faults != 0);
}
/// @eq m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= lr (m^ / (sqrt(v^) + eps) + wd w)
ESFT_DEVICE void adamw_element(float gradient, float decay, const adamw_scalars& s, float& master, float& m, float& v) {
  const float g = s.gradient_scale * gradient;
  m = s.beta1 * m + (1.0F - s.beta1) * g;
  v = s.beta2 * v + (1.0F - s.beta2) * g * g;
  const float direction = (m / s.correction1) / (::sqrtf(v / s.correction2) + s.epsilon);
  master = master - s.rate * (direction + decay * master);
}
/// One block per chunk of a piece, as `decision` says unless it is null. @shape master, m, v [elements of all pieces]
template <class T>
ESFT_KERNEL void adamw_kernel(const slice_entry<T>* list, index count, float* master, float* m, float* v, adamw_scalars s,
                              const adamw_decision* decision) {
  if (decision != nullptr) {
    if (!decision->update) return;
    s.rate = decision->rate;
    s.correction1 = decision->correction1;
    s.correction2 = decision->correction2;
    s.gradient_scale = decision->gradient_scale;
  }
  const slice_entry<T> piece = list[find_slice(list, count, block_index())];
  const float decay = piece.decays ? s.decay : 0.0F;
  const bool all_aligned = aligned16(piece.weight) && aligned16(piece.gradient) && aligned16(master + piece.first) &&
                           aligned16(m + piece.first) && aligned16(v + piece.first);
  for_each_run(piece, block_index(), [&](index i, int left) {
    const bool wide = all_aligned && left == update_width;
    float g[update_width];
    float w[update_width];
    float own_m[update_width];
    float own_v[update_width];
    load_some(piece.gradient + i, left, wide, g);
    load_some(master + piece.first + i, left, wide, w);
    load_some(m + piece.first + i, left, wide, own_m);
    load_some(v + piece.first + i, left, wide, own_v);
    T rounded[update_width];
    ESFT_UNROLL
    for (int j = 0; j < update_width; ++j) {
      adamw_element(g[j], decay, s, w[j], own_m[j], own_v[j]);
      rounded[j] = s.round_to_bf16 ? T(static_cast<float>(bf16(w[j]))) : T(w[j]);
    }
    store_some(own_m, left, wide, m + piece.first + i);
    store_some(own_v, left, wide, v + piece.first + i);
    store_some(w, left, wide, master + piece.first + i);
    store_some(rounded, left, wide, piece.weight + i);
  });
}

template <class T>
ESFT_KERNEL void clear_gradients_kernel(const slice_entry<T>* list, index count) {
  const slice_entry<T> piece = list[find_slice(list, count, block_index())];
  const bool aligned = aligned16(piece.gradient);
  const float zeros[update_width] = {};
  for_each_run(piece, block_index(), [&](index i, int left) {
    store_some(zeros, left, aligned && left == update_width, piece.gradient + i);
  });
}
/// partial[b] = sum of squares of the b-th chunk, in double and in an order that sizes alone decide.
template <class T>
ESFT_KERNEL void square_sums_kernel(const slice_entry<T>* list, index count, double* partial) {
  const slice_entry<T> piece = list[find_slice(list, count, block_index())];
  const bool aligned = aligned16(piece.gradient);
  double sum = 0;
  for_each_run(piece, block_index(), [&](index i, int left) {
    float g[update_width];
    load_some(piece.gradient + i, left, aligned && left == update_width, g);
    ESFT_UNROLL
    for (int j = 0; j < update_width; ++j) sum += static_cast<double>(g[j]) * static_cast<double>(g[j]);
  });
  sum = block_sum(sum);
  if (thread_index() == 0) partial[block_index()] = sum;
}

}  // namespace esft::detail::cuda
