// SPDX-License-Identifier: Apache-2.0
#include "expert_loop.hpp"

#include <cblas.h>

namespace esft::bench {
namespace {

class openblas_products final : public expert_loop {
 public:
  explicit openblas_products(const expert_stack& s) : s_(s) {}

  bool use(int threads, bool split) override {
    openblas_set_num_threads(threads);
    return !split;  // its threads are its own, and calls from two threads wait for one another
  }
  void forward(const void* x, const std::int32_t* offsets, void* y) override {
    for (long e = 0; e < s_.experts; ++e) {
      const std::int32_t rows = offsets[e + 1] - offsets[e];
      if (rows == 0) continue;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, n(), k(), 1, at(x, offsets[e], s_.k), k(), weight(e), k(), 0,
                  static_cast<float*>(y) + offsets[e] * s_.n, n());
    }
  }
  void input_gradient(const void* dy, const std::int32_t* offsets, void* dx) override {
    for (long e = 0; e < s_.experts; ++e) {
      const std::int32_t rows = offsets[e + 1] - offsets[e];
      if (rows == 0) continue;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, k(), n(), 1, at(dy, offsets[e], s_.n), n(), weight(e), k(), 0,
                  static_cast<float*>(dx) + offsets[e] * s_.k, k());
    }
  }
  void weight_gradient(const void* dy, const void* x, const std::int32_t* offsets, std::span<const std::int32_t> selected,
                       float* dw) override {
    for (std::size_t i = 0; i < selected.size(); ++i) {
      const std::int32_t e = selected[i];
      const std::int32_t rows = offsets[e + 1] - offsets[e];
      if (rows == 0) continue;
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n(), k(), rows, 1, at(dy, offsets[e], s_.n), n(), at(x, offsets[e], s_.k), k(), 1,
                  dw + static_cast<long>(i) * s_.n * s_.k, k());
    }
  }

 private:
  static const float* at(const void* rows, long first, long columns) { return static_cast<const float*>(rows) + first * columns; }
  [[nodiscard]] const float* weight(long e) const { return static_cast<const float*>(s_.weights) + e * s_.n * s_.k; }
  [[nodiscard]] int n() const { return static_cast<int>(s_.n); }
  [[nodiscard]] int k() const { return static_cast<int>(s_.k); }

  expert_stack s_;
};

}  // namespace

std::unique_ptr<expert_loop> openblas_loop(const expert_stack& stack) {
  if (stack.bf16) return nullptr;  // Debian's OpenBLAS is built without sbgemm
  return std::make_unique<openblas_products>(stack);
}

}  // namespace esft::bench
