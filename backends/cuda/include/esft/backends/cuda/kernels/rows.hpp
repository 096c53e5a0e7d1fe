// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Kernels with one block per row: gather, combine, SwiGLU, embedding, cross-entropy.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/online_softmax.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/core/token_batch.hpp>

namespace esft::detail::cuda {

inline constexpr int row_threads = 128;

/// y[r] = x[row_slot[r] / active]; rows without a slot are left alone. @shape y [R, D]
template <class T>
ESFT_KERNEL void gather_kernel(const T* x, const std::int32_t* row_slot, index active, T* y, index width) {
  const index r = block_index();
  if (row_slot[r] == no_expert) return;
  const T* from = x + row_slot[r] / active * width;
  for (index d = thread_index(); d < width; d += block_size()) y[r * width + d] = from[d];
}

/// out[t] (+)= sum_k weights[t,k] y[slot_row[t,k]], k ascending, empty slots left out; without weights each counts once. @shape out [T, D]
template <class T>
ESFT_KERNEL void gather_sum_kernel(const T* y, const std::int32_t* slot_row, const float* weights, T* out, bool accumulate, index active,
                                   index width) {
  const index t = block_index();
  for (index d = thread_index(); d < width; d += block_size()) {
    float sum = accumulate ? static_cast<float>(out[t * width + d]) : 0.0F;
    for (index k = 0; k < active; ++k) {
      if (slot_row[t * active + k] == no_expert) continue;
      const float factor = weights != nullptr ? weights[t * active + k] : 1.0F;
      sum += factor * static_cast<float>(y[slot_row[t * active + k] * width + d]);
    }
    out[t * width + d] = T(sum);
  }
}

ESFT_DEVICE float logistic(float a) { return 1.0F / (1.0F + ::expf(-a)); }

/// h = silu(gate) * up. @shape gate_up [R, 2I], h [R, I]
template <class T>
ESFT_KERNEL void swiglu_kernel(const T* gate_up, T* h, index width) {
  const T* gate = gate_up + block_index() * 2 * width;
  for (index i = thread_index(); i < width; i += block_size()) {
    const auto a = static_cast<float>(gate[i]);
    h[block_index() * width + i] = T(a * logistic(a) * static_cast<float>(gate[width + i]));
  }
}

/// Backward through w h, h = swiglu(gate_up); without weights w = 1 and only dgate_up is written. Rows without a slot
/// are left alone.
/// @eq da = w dh b s (1 + a (1 - s)), db = w dh a s, s = sigma(a); dw = <dh, h>
template <class T>
ESFT_KERNEL void swiglu_backward_kernel(const T* gate_up, const T* dh, const float* weights, const std::int32_t* row_slot, T* dgate_up,
                                        T* weighted_h, float* dweights, index width) {
  const index r = block_index();
  const bool weighted = weights != nullptr;
  if (weighted && row_slot[r] == no_expert) return;
  const float weight = weighted ? weights[row_slot[r]] : 1.0F;
  float dweight = 0;
  for (index i = thread_index(); i < width; i += block_size()) {
    const auto a = static_cast<float>(gate_up[r * 2 * width + i]);
    const auto b = static_cast<float>(gate_up[r * 2 * width + width + i]);
    const auto d = static_cast<float>(dh[r * width + i]);
    const float s = logistic(a);
    const float h = a * s * b;
    dgate_up[r * 2 * width + i] = T(weight * d * b * s * (1.0F + a * (1.0F - s)));
    dgate_up[r * 2 * width + width + i] = T(weight * d * a * s);
    if (weighted) weighted_h[r * width + i] = T(weight * h);
    dweight += d * h;
  }
  if (!weighted) return;
  dweight = block_sum(dweight);
  if (thread_index() == 0) dweights[row_slot[r]] = dweight;
}

template <class T>
ESFT_KERNEL void embedding_kernel(const std::int32_t* tokens, const T* table, index vocabulary, T* y, index width, std::int32_t* faults) {
  const index t = block_index();
  const std::int32_t id = tokens[t];
  const bool known = id >= 0 && id < vocabulary;
  if (!known && thread_index() == 0) *faults = static_cast<std::int32_t>(fault::token_id);
  for (index d = thread_index(); d < width; d += block_size()) y[t * width + d] = known ? table[id * width + d] : T(0.0F);
}
/// The first token with an id adds the rows of all tokens with it, in their order: no two blocks write the same row.
template <class T>
ESFT_KERNEL void embedding_dw_kernel(const std::int32_t* tokens, const T* dy, float* dtable, index vocabulary, index count, index width) {
  const index t = block_index();
  const std::int32_t id = tokens[t];
  int earlier = 0;
  for (index s = thread_index(); s < t; s += block_size()) earlier += tokens[s] == id ? 1 : 0;
  if (block_sum(earlier) > 0 || id < 0 || id >= vocabulary) return;
  for (index s = t; s < count; ++s) {
    if (tokens[s] != id) continue;
    for (index d = thread_index(); d < width; d += block_size()) dtable[id * width + d] += static_cast<float>(dy[s * width + d]);
  }
}
/// The same in any order.
template <class T>
ESFT_KERNEL void embedding_dw_atomic_kernel(const std::int32_t* tokens, const T* dy, float* dtable, index vocabulary, index width) {
  const index t = block_index();
  const std::int32_t id = tokens[t];
  if (id < 0 || id >= vocabulary) return;
  for (index d = thread_index(); d < width; d += block_size()) atomic_add(dtable + id * width + d, static_cast<float>(dy[t * width + d]));
}

/// loss[t] = -log softmax(logits[t])[label]; logits[t] = scale (softmax - onehot), zeros and no loss for ignored rows. The scale is read
/// from memory unless `scale_there` is null.
template <class A>
ESFT_KERNEL void cross_entropy_kernel(A* logits, const std::int32_t* labels, A scale, const double* scale_there, double* loss,
                                      index vocabulary, std::int32_t* faults) {
  const index t = block_index();
  const std::int32_t label = labels[t];
  A* z = logits + t * vocabulary;
  const bool known = label >= 0 && label < vocabulary;
  if (!known && label != ignored_label && thread_index() == 0) *faults = static_cast<std::int32_t>(fault::label);
  if (!known) {
    for (index v = thread_index(); v < vocabulary; v += block_size()) z[v] = 0;
    if (thread_index() == 0) loss[t] = 0;
    return;
  }
  online_softmax mine;
  for (index v = thread_index(); v < vocabulary; v += block_size()) mine.add(z[v]);
  ESFT_SHARED float peaks[row_threads];
  ESFT_SHARED float totals[row_threads];
  peaks[thread_index()] = mine.peak;
  totals[thread_index()] = mine.total;
  sync_block();
  online_softmax all;
  for (int i = 0; i < block_size(); ++i) {
    online_softmax part;
    part.peak = peaks[i];
    part.total = totals[i];
    all.merge(part);
  }
  const float lse = all.log_sum();
  if (scale_there != nullptr) scale = static_cast<A>(*scale_there);
  if (thread_index() == 0) loss[t] = static_cast<double>(lse - z[label]);
  sync_block();
  for (index v = thread_index(); v < vocabulary; v += block_size()) z[v] = scale * (::expf(z[v] - lse) - (v == label ? 1.0F : 0.0F));
}

}  // namespace esft::detail::cuda
