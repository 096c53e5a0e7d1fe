// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// SwiGLU feed-forward block (dense layers and shared experts): y = (silu(x Wg^T) * x Wu^T) Wd^T.

#include <esft/core/reflect.hpp>
#include <esft/nn/linear.hpp>

namespace esft {

/// Parameters of a SwiGLU block of width I. Absent (empty tensors) where the layer has none.
template <class Backend, parameter_role GateUp, parameter_role Down>
struct swiglu_parameters {
  using gate_up_weight = weight<Backend, 2, GateUp>;
  using down_weight = weight<Backend, 2, Down>;
  ESFT_DEFINE_STRUCT(swiglu_parameters, (gate_up_weight, gate_up), (down_weight, down));  // [2I, D] gate rows first; [D, I]

  [[nodiscard]] bool exists() const noexcept { return gate_up.exists(); }
  [[nodiscard]] bool trained() const noexcept { return gate_up.learns() || down.learns(); }
};

/// Pre-activations: all that the backward needs beside the input.
template <class Backend>
struct swiglu_saved {
  tensor_t<Backend, value_t<Backend>, 2> gate_up;  ///< @shape [T, 2I]
};

/// y (+)= the block's output. @shape x [T, D], y [T, D] @source arXiv 2002.05202
template <moe_backend Backend, parameter_role GateUp, parameter_role Down>
void swiglu_forward(Backend& backend, const swiglu_parameters<Backend, GateUp, Down>& p, view_t<Backend, const value_t<Backend>, 2> x,
                    view_t<Backend, value_t<Backend>, 2> y, write_mode mode, swiglu_saved<Backend>& saved) {
  saved.gate_up = linear_forward(backend, x, p.gate_up);
  auto h = backend.template make_tensor<value_t<Backend>>(extents<2>{x.extent(0), p.down.value.extent(1)});
  backend.swiglu(saved.gate_up.view(), h.view());
  linear_forward(backend, std::as_const(h).view(), p.down, y, mode);
}

/// Adds the trained weights' gradients; adds to dx unless it is null. @shape dy, x, dx [T, D]
template <moe_backend Backend, parameter_role GateUp, parameter_role Down>
void swiglu_backward(Backend& backend, swiglu_parameters<Backend, GateUp, Down>& p, view_t<Backend, const value_t<Backend>, 2> dy,
                     view_t<Backend, const value_t<Backend>, 2> x, const swiglu_saved<Backend>& saved,
                     view_t<Backend, value_t<Backend>, 2>* dx, write_mode mode) {
  const index tokens = dy.extent(0);
  const index width = p.down.value.extent(1);
  const bool below = dx != nullptr || p.gate_up.learns();
  auto h = backend.template make_tensor<value_t<Backend>>(extents<2>{p.down.learns() ? tokens : 0, width});
  if (p.down.learns()) backend.swiglu(saved.gate_up.view(), h.view());
  auto dh = backend.template make_tensor<value_t<Backend>>(extents<2>{below ? tokens : 0, width});
  auto dh_view = dh.view();
  linear_backward<Backend>(backend, dy, std::as_const(h).view(), p.down, below ? &dh_view : nullptr, write_mode::overwrite);
  if (!below) return;
  auto dgate_up = backend.template make_tensor<value_t<Backend>>(extents<2>{tokens, 2 * width});
  backend.swiglu_backward(saved.gate_up.view(), dh.view(), dgate_up.view());
  linear_backward<Backend>(backend, std::as_const(dgate_up).view(), x, p.gate_up, dx, mode);
}

}  // namespace esft
