// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The baselines: a plain loop over the experts with the matrix product of another library, as a careful user would write it.

#include <cstdint>
#include <memory>
#include <span>

namespace esft::bench {

/// Weights of all experts, row-major. @shape [E, N, K]
struct expert_stack {
  long experts, n, k;
  bool bf16;  ///< elements are bf16, else float
  const void* weights;
};

/// Products of one stack. Activations have the element type of the weights; weight gradients are float.
/// Rows of expert e are [offsets[e], offsets[e+1]).
class expert_loop {
 public:
  virtual ~expert_loop() = default;
  /// How the next calls compute. `split`: the experts are shared out among threads and the library computes with one; otherwise the
  /// library is given all threads for every expert in turn. @return whether this library can do that
  virtual bool use(int threads, bool split) = 0;
  virtual void forward(const void* x, const std::int32_t* offsets, void* y) = 0;            ///< y[r] = x[r] w[e]^T
  virtual void input_gradient(const void* dy, const std::int32_t* offsets, void* dx) = 0;   ///< dx[r] = dy[r] w[e]
  /// dw[s] += dy^T x over the rows of expert selected[s]
  virtual void weight_gradient(const void* dy, const void* x, const std::int32_t* offsets, std::span<const std::int32_t> selected,
                               float* dw) = 0;
};

#define ESFT_BENCH_EXPORT __attribute__((visibility("default")))
/// Null where the library has no products of these elements. Each lives in a shared library of its own.
ESFT_BENCH_EXPORT std::unique_ptr<expert_loop> eigen_loop(const expert_stack& stack);
ESFT_BENCH_EXPORT std::unique_ptr<expert_loop> onednn_loop(const expert_stack& stack);
ESFT_BENCH_EXPORT std::unique_ptr<expert_loop> openblas_loop(const expert_stack& stack);

}  // namespace esft::bench
