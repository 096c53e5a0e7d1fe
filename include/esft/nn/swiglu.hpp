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
  BOOST_HANA_DEFINE_STRUCT(swiglu_parameters, (gate_up_weight, gate_up), (down_weight, down));  // [2I, D] gate rows first; [D, I]

  [[nodiscard]] bool exists() const noexcept { return gate_up.exists(); }
  [[nodiscard]] bool trained() const noexcept { return gate_up.trained() || down.trained(); }
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
  backend.linear(h.view(), p.down.matrix(), y, mode);
}

/// Adds the trained weights' gradients; adds to dx unless it is null. @shape dy, x, dx [T, D]
template <moe_backend Backend, parameter_role GateUp, parameter_role Down>
void swiglu_backward(Backend& backend, swiglu_parameters<Backend, GateUp, Down>& p, view_t<Backend, const value_t<Backend>, 2> dy,
                     view_t<Backend, const value_t<Backend>, 2> x, const swiglu_saved<Backend>& saved,
                     view_t<Backend, value_t<Backend>, 2>* dx, write_mode mode) {
  const index tokens = dy.extent(0);
  const index width = p.down.value.extent(1);
  auto h = backend.template make_tensor<value_t<Backend>>(extents<2>{tokens, width});
  if (p.down.trained()) {
    backend.swiglu(saved.gate_up.view(), h.view());
    backend.linear_dw(dy, h.view(), p.down.gradient_matrix());
  }
  if (dx == nullptr && !p.gate_up.trained()) return;
  backend.linear_dx(dy, p.down.matrix(), h.view(), write_mode::overwrite);  // h now holds dh
  auto dgate_up = backend.template make_tensor<value_t<Backend>>(extents<2>{tokens, 2 * width});
  backend.swiglu_backward(saved.gate_up.view(), h.view(), dgate_up.view());
  linear_backward_weight<Backend>(backend, dgate_up.view(), x, p.gate_up);
  if (dx != nullptr) backend.linear_dx(dgate_up.view(), p.gate_up.matrix(), *dx, mode);
}

}  // namespace esft
