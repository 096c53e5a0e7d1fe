// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Linear map without bias, with low-rank factors where the weight has them: forward, and a backward that computes only the gradients
/// that somebody wants.

#include <esft/nn/low_rank.hpp>

namespace esft {

/// y (+)= x w^T. @shape x [M, K], w [N, K], y [M, N] @cost 2 M N K flops
template <moe_backend Backend, parameter_role Role>
void linear_forward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const weight<Backend, 2, Role>& w,
                    view_t<Backend, value_t<Backend>, 2> y, write_mode mode) {
  backend.linear(x, w.matrix(), y, mode);
  if (w.low_rank) low_rank_forward<Backend>(backend, x, *w.low_rank, y);
  if (w.mixture) w.mixture->forward(backend, x, y);
}
/// The same as a new tensor. @shape result [M, N]
template <moe_backend Backend, parameter_role Role>
[[nodiscard]] auto linear_forward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const weight<Backend, 2, Role>& w) {
  auto y = backend.template make_tensor<value_t<Backend>>(extents<2>{x.extent(0), w.value.extent(0)});
  linear_forward(backend, x, w, y.view(), write_mode::overwrite);
  return y;
}

/// Adds to the gradients of what is trained; writes or adds dx unless `dx` is null. @shape dy [M, N], x, dx [M, K]
template <moe_backend Backend, parameter_role Role>
void linear_backward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> dy, view_t<Backend, const value_t<Backend>, 2> x,
                     weight<Backend, 2, Role>& w, view_t<Backend, value_t<Backend>, 2>* dx, write_mode mode) {
  if (w.trained()) backend.linear_dw(dy, x, w.gradient_matrix());
  if (dx != nullptr) backend.linear_dx(dy, w.matrix(), *dx, mode);
  if (w.low_rank && (dx != nullptr || w.learns())) low_rank_backward<Backend>(backend, dy, x, *w.low_rank, dx);
  if (w.mixture && (dx != nullptr || w.learns())) w.mixture->backward(backend, dy, x, dx);
}

/// y = x w^T with y in the accumulate type, for routers. @shape x [M, K], w [N, K], y [M, N]
template <moe_backend Backend, parameter_role Role>
void logits_forward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const weight<Backend, 2, Role>& w,
                    view_t<Backend, accum_t<Backend>, 2> y) {
  backend.logits(x, w.matrix(), y);
  if (w.low_rank) low_rank_logits<Backend>(backend, x, *w.low_rank, y);
}
/// Its backward, as `linear_backward`. @shape dy [M, N], x, dx [M, K], w [N, K]
template <moe_backend Backend, parameter_role Role>
void logits_backward(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> dy, view_t<Backend, const value_t<Backend>, 2> x,
                     weight<Backend, 2, Role>& w, view_t<Backend, value_t<Backend>, 2>* dx, write_mode mode) {
  if (w.trained()) backend.logits_dw(dy, x, w.gradient_matrix());
  if (dx != nullptr) backend.logits_dx(dy, w.matrix(), *dx, mode);
  if (w.low_rank && (dx != nullptr || w.learns())) low_rank_logits_backward<Backend>(backend, dy, x, *w.low_rank, dx);
}

}  // namespace esft
