// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The SwiGLU experts of a layer, forward and backward, on bf16 tiles: what lies between an expert's two products stays in the caches.

#include <esft/backends/eigen/bf16_factors.hpp>
#include <esft/backends/eigen/bf16_few_rows.hpp>
#include <esft/backends/eigen/bf16_forward.hpp>
#include <esft/backends/eigen/bf16_input_gradient.hpp>
#include <esft/backends/eigen/swiglu.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace esft::detail::eigen {

/// Operands of the backward through the experts, see `has_grouped_mlp`. @shape R rows in all, D columns of dy and dx, I inner ones
template <class T>
struct mlp_gradients {
  row_source<T> dy;                   ///< [R, D]
  const T* gate_up_weight = nullptr;  ///< [E, 2I, D]
  const T* down_weight = nullptr;     ///< [E, D, I]
  const T* gate_up = nullptr;         ///< [R, 2I]
  const float* weights = nullptr;     ///< [T, K]
  const std::int32_t* row_slot = nullptr;
  T* dgate_up = nullptr;    ///< [R, 2I], rows of trained experts
  T* weighted_h = nullptr;  ///< [R, I], likewise
  T* dx = nullptr;          ///< [R, D]
  float* dweights = nullptr;
  const product_factors* gate_up_factors = nullptr;  ///< their `inner` takes scale * dgate_up B
  const product_factors* down_factors = nullptr;     ///< their `inner` takes scale * dy B
};

/// The part of it between the two products, for rows [first, first + count). @shape dh, weighted_h [count, inner], dgate_up [count, 2 inner]
inline void activation_backward(machine& m, const mlp_gradients<bf16>& g, index first, index count, index inner, const bf16* dh,
                                bf16* dgate_up, bf16* weighted_h) {
  call<weighted_swiglu_backward_rows>(m.set, g.gate_up + first * 2 * inner, dh, g.weights, g.row_slot + first, count, inner, dgate_up,
                                      weighted_h, g.dweights);
}

/// Operands of the forward through the experts, see `has_grouped_mlp`. @shape R rows in all, D columns of x and y, I inner ones
template <class T>
struct mlp_operands {
  row_source<T> x;                    ///< [R, D]
  const T* gate_up_weight = nullptr;  ///< [E, 2I, D]
  const T* down_weight = nullptr;     ///< [E, D, I]
  T* gate_up = nullptr;               ///< [R, 2I]
  T* y = nullptr;                     ///< [R, D]
  const product_factors* gate_up_factors = nullptr;
  const product_factors* down_factors = nullptr;
};

#if ESFT_EIGEN_X86

/// Tasks of whole rows: an expert's rows, cut so that their packed form stays in the second-level cache, the longest first.
struct mlp_tasks {
  std::vector<row_group> tasks;
  index rows = 0;
  double operations = 0;

  mlp_tasks(const std::vector<row_group>& groups, index inner, index width, index depth, index kept)
      : tasks(cut_rows(groups, depth, kept)) {
    for (const row_group& task : tasks) rows += task.rows();
    operations = 6.0 * static_cast<double>(rows) * static_cast<double>(inner * width);
    std::stable_sort(tasks.begin(), tasks.end(), [](const row_group& a, const row_group& b) { return a.rows() > b.rows(); });
  }
  /// Whether so few tasks still keep all threads busy to the end.
  [[nodiscard]] bool enough_for(int threads) const noexcept {
    return threads == 1 || tasks.empty() || static_cast<index>(tasks.size()) >= 8 * index{threads};
  }
};

/// The tasks of `tiled_mlp` and of `tiled_mlp_backward`.
inline mlp_tasks mlp_forward_tasks(const std::vector<row_group>& groups, index inner, index width) {
  return {groups, inner, width, std::max(inner, width), 512 * 1024};
}
inline mlp_tasks mlp_backward_tasks(const std::vector<row_group>& groups, index inner, index width) {
  return {groups, inner, width, std::max(2 * inner, width), kept_gradient};
}

/// gate_up[r] = x[r] wg[matrix]^T and y[r] = (silu(gate) * up) wd[matrix]^T. Without factors the same bits as `tiled_swiglu_forward` and
/// `tiled_forward`; what factors add is rounded with the product, not after it.
/// @pre inner % 32 == 0 && width % 32 == 0
template <class Engine>
void tiled_mlp(machine& m, const mlp_operands<bf16>& o, const mlp_tasks& cut, index inner, index width) {
  const writing way = way_of(o.gate_up, cut.rows * 2 * inner, false);
  const writing y_way = way_of(o.y, cut.rows * width, false);
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const row_group& t = cut.tasks[static_cast<std::size_t>(i)];
    const bf16* const packed = packed_columns(m, slot, o.x, {t}, nullptr, width);
    bf16* const h = thread_buffer(m, slot, buffer::extra, padded_rows(t.rows()) * inner);
    const typename Engine::session open;
    const added_step to_gate_up = forward_factors<Engine>(m, slot, o.gate_up_factors, t, packed);
    swiglu_strips<Engine>(m, t.rows(), 0, inner / block_side, packed, o.gate_up_weight + t.matrix * 2 * inner * width, to_gate_up,
                          o.gate_up + t.begin * 2 * inner, inner, width, way,
                          [&](const bf16* product, index first, index count, index strip) {
                            bf16* const to = h + first * inner + strip * padded_rows(count) * block_side;
                            pack_rows_as_columns({{product, block_side}, 0, count}, count, block_side, to, writing::store);
                          });
    const added_step to_y = forward_factors<Engine>(m, slot, o.down_factors, t, h);
    forward_strips<Engine>(t.rows(), 0, width / block_side, h, o.down_weight + t.matrix * width * inner, to_y, o.y + t.begin * width, width,
                           inner, y_way);
    finish(way);
    finish(y_way);
  });
}

/// dx[r] = the gradient of `tiled_mlp` times the row's weight, and that weight's own gradient. Without factors the same bits as
/// `tiled_input_gradient`, `weighted_swiglu_backward_rows` and `tiled_input_gradient`. dgate_up and weight * h are stored for trained experts only.
/// @param trained by number of the matrix @pre inner % 32 == 0 && width % 32 == 0
template <class Engine>
void tiled_mlp_backward(machine& m, const mlp_gradients<bf16>& g, const mlp_tasks& cut, const std::vector<char>& trained, index inner,
                        index width) {
  const writing way = way_of(g.dx, cut.rows * width, false);
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const row_group& t = cut.tasks[static_cast<std::size_t>(i)];
    const bool kept = trained[static_cast<std::size_t>(t.matrix)] != 0;
    bf16* const packed = thread_buffer(m, slot, buffer::left, padded_rows(t.rows()) * std::max(2 * inner, width));
    bf16* const turned = thread_buffer(m, slot, buffer::right, 2 * block_side * std::max(2 * inner, width));
    bf16* const dh = thread_buffer(m, slot, buffer::extra, t.rows() * inner);
    bf16* const panel_dgate_up = thread_buffer(m, slot, buffer::more, panel_side * 2 * inner);
    bf16* const panel_h = thread_buffer(m, slot, buffer::partial, panel_side * inner);
    const typename Engine::session open;
    pack_gradient_rows(g.dy, t.begin, t.rows(), width, packed);
    const added_step to_dh = gradient_factors<Engine>(m, slot, g.down_factors, t, packed, turned);
    input_gradient_strips<Engine, 1>(t.rows(), 0, inner / block_side, packed, g.down_weight + t.matrix * width * inner, to_dh, turned, dh,
                                     inner, width, writing::store);
    const panel_cut panels(t.rows());
    for (index p = 0; p < panels.count(); ++p) {  // the packed dy is not needed any more: what is packed here takes its place
      const index first = t.begin + panels.begin(p);
      bf16* const dgate_up = kept ? g.dgate_up + first * 2 * inner : panel_dgate_up;
      activation_backward(m, g, first, panels.rows(p), inner, dh + panels.begin(p) * inner, dgate_up,
                          kept ? g.weighted_h + first * inner : panel_h);
      pack_rows_as_rows<bf16>({{dgate_up, 2 * inner}, 0, panels.rows(p)}, panels.rows(p), 2 * inner, packed + panels.begin(p) * 2 * inner,
                              writing::store);
    }
    const added_step to_dx = gradient_factors<Engine>(m, slot, g.gate_up_factors, t, packed, turned);
    input_gradient_strips<Engine, 1>(t.rows(), 0, width / block_side, packed, g.gate_up_weight + t.matrix * 2 * inner * width, to_dx,
                                     turned, g.dx + t.begin * width, width, 2 * inner, way);
    finish(way);
  });
}

/// The same for groups of at most four rows, op by op. @pre no factors
inline void few_rows_mlp(machine& m, const mlp_operands<bf16>& o, const std::vector<row_group>& few, index rows, index inner, index width) {
  if (few.empty()) return;
  auto h = make_cached_tensor<bf16, 2>({rows, inner});
  few_rows_swiglu_forward(m, o.x, o.gate_up_weight, o.gate_up, h.data(), few, inner, width);
  few_rows_forward(m, row_source<bf16>(h.data(), inner), o.down_weight, o.y, few, width, inner, false);
}
inline void few_rows_mlp_backward(machine& m, const mlp_gradients<bf16>& g, const std::vector<row_group>& few, index rows, index inner,
                                  index width) {
  if (few.empty()) return;
  auto dh = make_cached_tensor<bf16, 2>({rows, inner});
  few_rows_input_gradient(m, g.dy, g.down_weight, dh.data(), few, inner, width, false);
  const auto groups = static_cast<index>(few.size());
  m.run(groups, 8.0 * static_cast<double>(groups * few_rows * inner), [&](index i, int) {
    const row_group& t = few[static_cast<std::size_t>(i)];
    activation_backward(m, g, t.begin, t.rows(), inner, dh.data() + t.begin * inner, g.dgate_up + t.begin * 2 * inner,
                        g.weighted_h + t.begin * inner);
  });
  few_rows_input_gradient(m, row_source<bf16>(g.dgate_up, 2 * inner), g.gate_up_weight, g.dx, few, width, 2 * inner, false);
}

#endif

}  // namespace esft::detail::eigen
