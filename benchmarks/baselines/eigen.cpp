// SPDX-License-Identifier: Apache-2.0
#include "expert_loop.hpp"
#include "share_out.hpp"

#include <Eigen/Core>

namespace esft::bench {
namespace {

using row_major = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using in = Eigen::Map<const row_major>;
using out = Eigen::Map<row_major>;

class eigen_products final : public expert_loop {
 public:
  explicit eigen_products(const expert_stack& s) : s_(s) {}

  bool use(int threads, bool split) override {
    threads_ = threads;
    return split || threads == 1;  // Eigen itself computes with one thread here
  }
  void forward(const void* x, const std::int32_t* offsets, void* y) override {
    share_out(threads_, s_.experts, [&](long e) {
      const long rows = offsets[e + 1] - offsets[e];
      if (rows == 0) return;
      out(at<float>(y, offsets[e], s_.n), rows, s_.n).noalias() = in(at<const float>(x, offsets[e], s_.k), rows, s_.k) * weight(e).transpose();
    });
  }
  void input_gradient(const void* dy, const std::int32_t* offsets, void* dx) override {
    share_out(threads_, s_.experts, [&](long e) {
      const long rows = offsets[e + 1] - offsets[e];
      if (rows == 0) return;
      out(at<float>(dx, offsets[e], s_.k), rows, s_.k).noalias() = in(at<const float>(dy, offsets[e], s_.n), rows, s_.n) * weight(e);
    });
  }
  void weight_gradient(const void* dy, const void* x, const std::int32_t* offsets, std::span<const std::int32_t> selected,
                       float* dw) override {
    share_out(threads_, static_cast<long>(selected.size()), [&](long i) {
      const std::int32_t e = selected[static_cast<std::size_t>(i)];
      const long rows = offsets[e + 1] - offsets[e];
      if (rows == 0) return;
      out(dw + i * s_.n * s_.k, s_.n, s_.k).noalias() +=
          in(at<const float>(dy, offsets[e], s_.n), rows, s_.n).transpose() * in(at<const float>(x, offsets[e], s_.k), rows, s_.k);
    });
  }

 private:
  template <class T, class P>
  static T* at(P* rows, long first, long columns) {
    return static_cast<T*>(rows) + first * columns;
  }
  [[nodiscard]] in weight(long e) const { return {static_cast<const float*>(s_.weights) + e * s_.n * s_.k, s_.n, s_.k}; }

  expert_stack s_;
  int threads_ = 1;
};

}  // namespace

std::unique_ptr<expert_loop> eigen_loop(const expert_stack& stack) {
  if (stack.bf16) return nullptr;  // Eigen's bf16 product is scalar code: nobody would pick it
  return std::make_unique<eigen_products>(stack);
}

}  // namespace esft::bench
