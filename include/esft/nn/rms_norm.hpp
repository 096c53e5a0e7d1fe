// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// RMSNorm layer over the last dimension, with what its backward needs.

#include <esft/nn/weight.hpp>

namespace esft {

/// Inverse root mean squares of the normalised rows. The input itself is kept by the caller.
template <class Backend>
struct rms_norm_saved {
  tensor_t<Backend, accum_t<Backend>, 1> rstd;  ///< @shape [N]
};

/// y = x rstd weight as a new tensor. @shape x, result [N, D] @source arXiv 1910.07467
template <transformer_backend Backend, parameter_role Role>
[[nodiscard]] auto rms_norm_forward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const weight<Backend, 1, Role>& w,
                                    double epsilon, rms_norm_saved<Backend>& saved) {
  auto y = backend.template make_tensor<value_t<Backend>>(x.shape());
  saved.rstd = backend.template make_tensor<accum_t<Backend>>(extents<1>{x.extent(0)});
  backend.rms_norm(x, w.value.view(), epsilon, y.view(), saved.rstd.view());
  return y;
}

/// Adds the weight's gradient where trained; writes or adds dx unless `dx` is null. @shape dy, x, dx [N, D], w [D]
template <transformer_backend Backend, parameter_role Role>
void rms_norm_backward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> dy, view_t<Backend, const value_t<Backend>, 2> x,
                       weight<Backend, 1, Role>& w, const rms_norm_saved<Backend>& saved, view_t<Backend, value_t<Backend>, 2>* dx,
                       write_mode mode) {
  if (w.trained()) backend.rms_norm_dw(dy, x, saved.rstd.view(), w.gradient.view());
  if (dx != nullptr) backend.rms_norm_dx(dy, x, w.value.view(), saved.rstd.view(), *dx, mode);
}

}  // namespace esft
