// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Matrix products of `cuda_backend`, single and grouped by expert.

#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/grouped_products.hpp>
#include <esft/backends/cuda/kernels/elementwise.hpp>

namespace esft {
namespace detail::cuda {

/// x as two bf16 operands, high + low.
class split_operand {
 public:
  split_operand(context& shared, const float* x, index count) : high_(shared, count), low_(shared, count) {
    shared.launch(over(count), split_kernel<float>, x, high_.get(), low_.get(), count);
  }
  [[nodiscard]] const bf16* high() const noexcept { return high_.get(); }
  [[nodiscard]] const bf16* low() const noexcept { return low_.get(); }

 private:
  scratch<bf16> high_;
  scratch<bf16> low_;
};

}  // namespace detail::cuda

template <class T>
void cuda_backend<T>::linear(view<const T, 2> x, view<const T, 2> w, view<T, 2> y, write_mode mode) {
  ESFT_EXPECTS(x.extent(1) == w.extent(1) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(0), "x [M,K], w [N,K], y [M,N]");
  detail::cuda::multiply(*context_, {x.extent(0), w.extent(0), x.extent(1), x.data(), false, w.data(), true, y.data(), dtype_v<T>,
                                     dtype_v<T>, mode == write_mode::accumulate});
}
template <class T>
void cuda_backend<T>::linear_dx(view<const T, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode) {
  ESFT_EXPECTS(dy.extent(1) == w.extent(0) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(1), "dy [M,N], w [N,K], dx [M,K]");
  detail::cuda::multiply(*context_, {dy.extent(0), w.extent(1), w.extent(0), dy.data(), false, w.data(), false, dx.data(), dtype_v<T>,
                                     dtype_v<T>, mode == write_mode::accumulate});
}
template <class T>
void cuda_backend<T>::linear_dw(view<const T, 2> dy, view<const T, 2> x, view<float, 2> dw) {
  ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(0) == dy.extent(1) && dw.extent(1) == x.extent(1), "dy [M,N], x [M,K], dw [N,K]");
  detail::cuda::multiply(*context_, {dy.extent(1), x.extent(1), x.extent(0), dy.data(), true, x.data(), false, dw.data(), dtype_v<T>,
                                     dtype::float32, true});
}
template <class T>
void cuda_backend<T>::logits(view<const T, 2> x, view<const T, 2> w, view<float, 2> y) {
  ESFT_EXPECTS(x.extent(1) == w.extent(1) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(0), "x [M,K], w [N,K], y [M,N]");
  detail::cuda::multiply(*context_, {x.extent(0), w.extent(0), x.extent(1), x.data(), false, w.data(), true, y.data(), dtype_v<T>,
                                     dtype::float32, false});
}
template <class T>
void cuda_backend<T>::logits_dx(view<const float, 2> dy, view<const T, 2> w, view<T, 2> dx, write_mode mode) {
  if constexpr (std::same_as<T, float>) {
    linear_dx(dy, w, dx, mode);
  } else {
    // A product takes operands of one type: the float gradient goes in as two bf16 parts, and the sum is rounded once.
    namespace gpu = detail::cuda;
    ESFT_EXPECTS(dy.extent(1) == w.extent(0) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(1), "dy [M,N], w [N,K], dx [M,K]");
    const gpu::split_operand parts(*context_, dy.data(), dy.size());
    const gpu::scratch<float> sums(*context_, dx.size());
    gpu::product p{dy.extent(0), w.extent(1),   w.extent(0),   parts.high(), false, w.data(), false,
                   sums.get(),   dtype_v<bf16>, dtype::float32, false};
    gpu::multiply(*context_, p);
    p.a = parts.low();
    p.accumulate = true;
    gpu::multiply(*context_, p);
    context_->launch(gpu::over(dx.size()), gpu::round_kernel<T>, sums.get(), dx.data(), mode == write_mode::accumulate, dx.size());
  }
}
template <class T>
void cuda_backend<T>::logits_dw(view<const float, 2> dy, view<const T, 2> x, view<float, 2> dw) {
  if constexpr (std::same_as<T, float>) {
    linear_dw(dy, x, dw);
  } else {
    namespace gpu = detail::cuda;
    ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(0) == dy.extent(1) && dw.extent(1) == x.extent(1), "dy [M,N], x [M,K], dw [N,K]");
    const gpu::split_operand parts(*context_, dy.data(), dy.size());
    gpu::product p{dy.extent(1), x.extent(1),   x.extent(0),    parts.high(), true, x.data(), false,
                   dw.data(),    dtype_v<bf16>, dtype::float32, true};
    gpu::multiply(*context_, p);
    p.a = parts.low();
    gpu::multiply(*context_, p);
  }
}

template <class T>
void cuda_backend<T>::grouped_linear(view<const T, 2> x, view<const T, 3> w, ids offsets, view<T, 2> y) {
  ESFT_EXPECTS(x.extent(1) == w.extent(2) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(1), "x [R,K], w [E,N,K], y [R,N]");
  ESFT_EXPECTS(offsets.size() == w.extent(0) + 1, "offsets [E+1]");
  detail::cuda::grouped_multiply<T>(*context_, {detail::cuda::grouped_kind::forward, x.data(), w.data(), y.data(), x.extent(0), w.extent(1),
                                                w.extent(2), offsets, {}});
}
template <class T>
void cuda_backend<T>::grouped_linear_dx(view<const T, 2> dy, view<const T, 3> w, ids offsets, view<T, 2> dx) {
  ESFT_EXPECTS(dy.extent(1) == w.extent(1) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(2), "dy [R,N], w [E,N,K], dx [R,K]");
  ESFT_EXPECTS(offsets.size() == w.extent(0) + 1, "offsets [E+1]");
  detail::cuda::grouped_multiply<T>(*context_, {detail::cuda::grouped_kind::input_gradient, dy.data(), w.data(), dx.data(), dy.extent(0),
                                                w.extent(1), w.extent(2), offsets, {}});
}
template <class T>
void cuda_backend<T>::grouped_linear_dw(view<const T, 2> dy, view<const T, 2> x, ids offsets, std::span<const std::int32_t> selected,
                                        view<float, 3> dw) {
  ESFT_EXPECTS(static_cast<index>(selected.size()) == dw.extent(0), "one gradient slice per selected expert");
  ESFT_EXPECTS(dw.extent(1) == dy.extent(1) && dw.extent(2) == x.extent(1), "dy [R,N], x [R,K], dw [S,N,K]");
  for (const std::int32_t e : selected) ESFT_EXPECTS(e >= 0 && e + 1 < offsets.size(), "selected experts lie in [0, E)");
  detail::cuda::grouped_multiply<T>(*context_, {detail::cuda::grouped_kind::weight_gradient, dy.data(), x.data(), dw.data(), dy.extent(0),
                                                dw.extent(1), dw.extent(2), offsets, selected});
}

}  // namespace esft
