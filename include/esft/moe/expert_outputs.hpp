// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `expert_output_norms`: how long each chosen expert's answer was, for scorers that want more than the routing.

#include <esft/moe/layer.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace esft {

/// L2 norms of the routed experts' outputs before their gate weights. The forward pass adds outputs into the layer's and keeps none, so
/// they are computed once more from what it saved: the layer itself pays nothing for being observable.
/// @shape result [T, K], 0 for an empty slot @pre `moe_forward` filled `saved` @cost 2 R D I flops and R D values, R = T K
template <moe_backend Backend>
[[nodiscard]] std::vector<float> expert_output_norms(Backend& backend, const moe_parameters<Backend>& p, const moe_saved<Backend>& saved) {
  using T = value_t<Backend>;
  const index rows = saved.gate_up.extent(0);
  const index width = p.down.value.extent(1);
  auto h = backend.template make_tensor<T>(extents<2>{rows, p.down.value.extent(2)});
  activate_experts<Backend>(backend, p.clamp, saved.gate_up.view(), h.view());
  auto outputs = backend.template make_tensor<T>(extents<2>{rows, width});
  backend.grouped_linear(std::as_const(h).view(), p.down.matrix(), saved.plan.offsets.view(), outputs.view());
  if (p.down.low_rank) {
    routed_low_rank_forward<Backend>(backend, {std::as_const(h).view(), saved.plan.row_slot.view(), 0, 0}, saved.plan.offsets.view(),
                                     *p.down.low_rank, outputs.view());
  }
  add_expert_bias(backend, p.down_bias, saved.plan.offsets.view(), outputs.view());
  std::vector<float> host(static_cast<std::size_t>(rows * width));
  std::vector<std::int32_t> slot(static_cast<std::size_t>(rows));
  backend.copy_out(std::as_const(outputs).view(), std::span<float>(host));
  backend.copy_out(saved.plan.row_slot.view(), std::span<std::int32_t>(slot));
  std::vector<float> norms(slot.size());
  for (std::size_t r = 0; r < slot.size(); ++r) {
    if (slot[r] == no_expert) continue;
    double squares = 0;
    for (const float value : std::span<const float>(host).subspan(r * static_cast<std::size_t>(width), static_cast<std::size_t>(width))) {
      squares += static_cast<double>(value) * static_cast<double>(value);
    }
    norms[static_cast<std::size_t>(slot[r])] = static_cast<float>(std::sqrt(squares));
  }
  return norms;
}

}  // namespace esft
