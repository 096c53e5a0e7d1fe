// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Matrix products with their shapes checked and their rows cut into groups: what the members of `eigen_backend` hand on.

#include <esft/backend/backend.hpp>
#include <esft/backends/eigen/products.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace esft::detail::eigen {

template <class T, std::size_t R>
stacked<T> stack_of(matrix_view<T, R, host_space> w) {
  ESFT_EXPECTS(w.layout.fits(w.rows(), w.columns()), "the tiles of a layout fit the matrix");
  return {w.data(), w.layout};
}
template <class T, class Y>
void linear(machine& m, host_view<const T, 2> x, matrix_view<const T, 2, host_space> w, host_view<Y, 2> y, write_mode mode) {
  ESFT_EXPECTS(x.extent(1) == w.extent(1) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(0), "x [M,K], w [N,K], y [M,N]");
  product_forward(m, row_source<T>(x), stack_of(w), y.data(), {{0, x.extent(0), 0}}, w.extent(0), w.extent(1),
                  mode == write_mode::accumulate);
}
template <class T, class Y>
void linear_dx(machine& m, host_view<const Y, 2> dy, matrix_view<const T, 2, host_space> w, host_view<T, 2> dx, write_mode mode) {
  ESFT_EXPECTS(dy.extent(1) == w.extent(0) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(1), "dy [M,N], w [N,K], dx [M,K]");
  product_input_gradient(m, row_source<Y>(dy), stack_of(w), dx.data(), {{0, dy.extent(0), 0}}, w.extent(1), w.extent(0),
                         mode == write_mode::accumulate);
}
template <class T, class Y>
void linear_dw(machine& m, host_view<const Y, 2> dy, host_view<const T, 2> x, matrix_view<float, 2, host_space> dw) {
  ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(0) == dy.extent(1) && dw.extent(1) == x.extent(1), "dy [M,N], x [M,K], dw [N,K]");
  product_weight_gradient(m, row_source<Y>(dy), row_source<T>(x), stack_of(dw), {{0, x.extent(0), 0}}, dw.extent(0), dw.extent(1));
}
inline std::vector<row_group> groups_of(host_view<const std::int32_t, 1> offsets, index experts, index rows) {
  ESFT_EXPECTS(offsets.size() == experts + 1 && offsets[0] == 0 && offsets[experts] <= rows,
               "offsets [E+1] run from 0 to at most the number of rows");
  std::vector<row_group> result;
  result.reserve(static_cast<std::size_t>(experts));
  for (index e = 0; e < experts; ++e) {
    ESFT_EXPECTS(offsets[e] <= offsets[e + 1], "offsets ascend");
    result.push_back({offsets[e], offsets[e + 1], e});
  }
  return result;
}
/// The rows of the selected experts; expert selected[s] meets matrix s.
inline std::vector<row_group> groups_of(host_view<const std::int32_t, 1> offsets, std::span<const std::int32_t> selected, index rows) {
  std::vector<row_group> result;
  result.reserve(selected.size());
  for (std::size_t s = 0; s < selected.size(); ++s) {
    const index e = selected[s];
    ESFT_EXPECTS(e >= 0 && e + 1 < offsets.size(), "a selected expert lies in [0, E)");
    ESFT_EXPECTS(0 <= offsets[e] && offsets[e] <= offsets[e + 1] && offsets[e + 1] <= rows, "offsets ascend within the rows");
    result.push_back({offsets[e], offsets[e + 1], static_cast<index>(s)});
  }
  return result;
}
template <class T>
index count_rows(host_view<const T, 2> rows) {
  return rows.extent(0);
}
template <class T>
index count_rows(const gathered_rows<const T, host_space>& rows) {
  return rows.rows();
}
template <class T>
index width_of(host_view<const T, 2> rows) {
  return rows.extent(1);
}
template <class T>
index width_of(const gathered_rows<const T, host_space>& rows) {
  return rows.columns();
}
template <class T, class Rows>
void grouped_linear(machine& m, Rows x, matrix_view<const T, 3, host_space> w, host_view<const std::int32_t, 1> offsets,
                    host_view<T, 2> y) {
  ESFT_EXPECTS(width_of(x) == w.extent(2) && y.extent(0) == count_rows(x) && y.extent(1) == w.extent(1), "x [R,K], w [E,N,K], y [R,N]");
  product_forward(m, row_source<T>(x), stack_of(w), y.data(), groups_of(offsets, w.extent(0), count_rows(x)), w.extent(1), w.extent(2),
                  false);
}
template <class T, class Rows>
void grouped_linear_dx(machine& m, Rows dy, matrix_view<const T, 3, host_space> w, host_view<const std::int32_t, 1> offsets,
                       host_view<T, 2> dx) {
  ESFT_EXPECTS(width_of(dy) == w.extent(1) && dx.extent(0) == count_rows(dy) && dx.extent(1) == w.extent(2),
               "dy [R,N], w [E,N,K], dx [R,K]");
  product_input_gradient(m, row_source<T>(dy), stack_of(w), dx.data(), groups_of(offsets, w.extent(0), count_rows(dy)), w.extent(2),
                         w.extent(1), false);
}
template <class T, class Rows>
void selected_linear(machine& m, Rows x, matrix_view<const T, 3, host_space> w, host_view<const std::int32_t, 1> offsets,
                     std::span<const std::int32_t> selected, host_view<T, 2> y, write_mode mode) {
  ESFT_EXPECTS(static_cast<index>(selected.size()) == w.extent(0), "one matrix per selected expert");
  ESFT_EXPECTS(width_of(x) == w.extent(2) && y.extent(0) == count_rows(x) && y.extent(1) == w.extent(1), "x [R,K], w [S,N,K], y [R,N]");
  product_forward(m, row_source<T>(x), stack_of(w), y.data(), groups_of(offsets, selected, count_rows(x)), w.extent(1), w.extent(2),
                  mode == write_mode::accumulate);
}
template <class T, class Rows>
void selected_linear_dx(machine& m, Rows dy, matrix_view<const T, 3, host_space> w, host_view<const std::int32_t, 1> offsets,
                        std::span<const std::int32_t> selected, host_view<T, 2> dx, write_mode mode) {
  ESFT_EXPECTS(static_cast<index>(selected.size()) == w.extent(0), "one matrix per selected expert");
  ESFT_EXPECTS(width_of(dy) == w.extent(1) && dx.extent(0) == count_rows(dy) && dx.extent(1) == w.extent(2),
               "dy [R,N], w [S,N,K], dx [R,K]");
  product_input_gradient(m, row_source<T>(dy), stack_of(w), dx.data(), groups_of(offsets, selected, count_rows(dy)), w.extent(2),
                         w.extent(1), mode == write_mode::accumulate);
}
template <class T, class Left, class Right>
void grouped_linear_dw(machine& m, Left dy, Right x, host_view<const std::int32_t, 1> offsets, std::span<const std::int32_t> selected,
                       matrix_view<float, 3, host_space> dw) {
  ESFT_EXPECTS(static_cast<index>(selected.size()) == dw.extent(0), "one gradient slice per selected expert");
  ESFT_EXPECTS(count_rows(dy) == count_rows(x) && dw.extent(1) == width_of(dy) && dw.extent(2) == width_of(x),
               "dy [R,N], x [R,K], dw [S,N,K]");
  product_weight_gradient(m, row_source<T>(dy), row_source<T>(x), stack_of(dw), groups_of(offsets, selected, count_rows(x)), dw.extent(1),
                          dw.extent(2));
}
template <class T, class Rows>
void grouped_swiglu(machine& m, Rows x, matrix_view<const T, 3, host_space> w, host_view<const std::int32_t, 1> offsets,
                    host_view<T, 2> gate_up, host_view<T, 2> h) {
  ESFT_EXPECTS(width_of(x) == w.extent(2) && gate_up.extent(0) == count_rows(x) && gate_up.extent(1) == w.extent(1) &&
                   h.extent(0) == count_rows(x) && 2 * h.extent(1) == w.extent(1),
               "x [R,K], w [E,2I,K], gate_up [R,2I], h [R,I]");
  product_swiglu(m, row_source<T>(x), stack_of(w), gate_up.data(), h.data(), groups_of(offsets, w.extent(0), count_rows(x)), h.extent(1),
                 w.extent(2));
}

/// Factors as the kernels take them, @throws contract_violation where they do not belong to matrices [N, K].
/// @return nothing for no factors
inline std::optional<product_factors> factors_of(const grouped_factors<bf16, host_space>* f, index experts, index height, index width,
                                                 index rows) {
  if (f == nullptr) return std::nullopt;
  const index count = static_cast<index>(f->experts.size());
  const index rank = f->a.extent(1);
  ESFT_EXPECTS(f->a.extent(0) == count && f->a.extent(2) == width && f->b.extent(0) == count && f->b.extent(1) == height &&
                   f->b.extent(2) == rank && f->inner.shape() == (extents<2>{rows, rank}),
               "a [S,r,K], b [S,N,r], inner [R,r]");
  product_factors result{stack_of(f->a), stack_of(f->b), rank, height, width, f->scale, f->inner.data(), {}};
  result.part.assign(static_cast<std::size_t>(experts), -1);
  for (index s = 0; s < count; ++s) {
    const std::int32_t e = f->experts[static_cast<std::size_t>(s)];
    ESFT_EXPECTS(e >= 0 && e < experts, "an expert with factors lies in [0, E)");
    result.part[static_cast<std::size_t>(e)] = static_cast<std::int32_t>(s);
  }
  return result;
}
inline bool too_high(const std::optional<product_factors>& f) noexcept { return f && f->rank > block_side; }
inline const product_factors* pointer_to(const std::optional<product_factors>& f) noexcept { return f ? &*f : nullptr; }

/// Of the experts of a layer, with the rows that meet them.
struct mlp_extents {
  index rows, width, inner, experts;
};
template <class Rows>
mlp_extents mlp_extents_of(const Rows& outer, matrix_view<const bf16, 3, host_space> gate_up_weight,
                           matrix_view<const bf16, 3, host_space> down_weight) {
  const mlp_extents of{count_rows(outer), width_of(outer), down_weight.extent(2), down_weight.extent(0)};
  ESFT_EXPECTS(gate_up_weight.extent(0) == of.experts && gate_up_weight.extent(1) == 2 * of.inner &&
                   gate_up_weight.extent(2) == of.width && down_weight.extent(1) == of.width,
               "x or dy [R,D], gate_up_weight [E,2I,D], down_weight [E,D,I]");
  return of;
}

template <class Rows>
bool grouped_mlp(machine& m, Rows x, matrix_view<const bf16, 3, host_space> gate_up_weight,
                 matrix_view<const bf16, 3, host_space> down_weight, host_view<const std::int32_t, 1> offsets,
                 const grouped_factors<bf16, host_space>* gate_up_factors, const grouped_factors<bf16, host_space>* down_factors,
                 host_view<bf16, 2> gate_up, host_view<bf16, 2> y) {
  const auto [rows, width, inner, experts] = mlp_extents_of(x, gate_up_weight, down_weight);
  ESFT_EXPECTS(gate_up.shape() == (extents<2>{rows, 2 * inner}) && y.shape() == (extents<2>{rows, width}), "gate_up [R,2I], y [R,D]");
  const auto beside_gate_up = factors_of(gate_up_factors, experts, 2 * inner, width, rows);
  const auto beside_down = factors_of(down_factors, experts, width, inner, rows);
  if (too_high(beside_gate_up) || too_high(beside_down)) return false;
  const mlp_operands<bf16> o{row_source<bf16>(x), gate_up_weight.data(),      down_weight.data(),     gate_up.data(),
                             y.data(),            pointer_to(beside_gate_up), pointer_to(beside_down)};
  return product_mlp(m, o, stack_of(gate_up_weight).layout, stack_of(down_weight).layout, groups_of(offsets, experts, rows), rows, inner,
                     width);
}
template <class Rows>
bool grouped_mlp_backward(machine& m, Rows dy, matrix_view<const bf16, 3, host_space> gate_up_weight,
                          matrix_view<const bf16, 3, host_space> down_weight, host_view<const std::int32_t, 1> offsets,
                          std::span<const std::int32_t> selected, const grouped_factors<bf16, host_space>* gate_up_factors,
                          const grouped_factors<bf16, host_space>* down_factors, host_view<const bf16, 2> gate_up,
                          host_view<const float, 2> weights, host_view<const std::int32_t, 1> row_slot, host_view<bf16, 2> dgate_up,
                          host_view<bf16, 2> weighted_h, host_view<bf16, 2> dx, host_view<float, 2> dweights) {
  const auto [rows, width, inner, experts] = mlp_extents_of(dy, gate_up_weight, down_weight);
  ESFT_EXPECTS(gate_up.shape() == (extents<2>{rows, 2 * inner}) && dgate_up.shape() == gate_up.shape() &&
                   weighted_h.shape() == (extents<2>{rows, inner}) && dx.shape() == (extents<2>{rows, width}) && row_slot.size() == rows &&
                   weights.size() == dweights.size(),
               "gate_up, dgate_up [R,2I], weighted_h [R,I], dx [R,D], row_slot [R], weights, dweights [T,K]");
  std::vector<char> trained(static_cast<std::size_t>(experts), 0);
  for (const std::int32_t e : selected) {
    ESFT_EXPECTS(e >= 0 && e < experts, "a selected expert lies in [0, E)");
    trained[static_cast<std::size_t>(e)] = 1;
  }
  const auto beside_gate_up = factors_of(gate_up_factors, experts, 2 * inner, width, rows);
  const auto beside_down = factors_of(down_factors, experts, width, inner, rows);
  if (too_high(beside_gate_up) || too_high(beside_down)) return false;
  const mlp_gradients<bf16> g{row_source<bf16>(dy), gate_up_weight.data(),      down_weight.data(),     gate_up.data(),
                              weights.data(),       row_slot.data(),            dgate_up.data(),        weighted_h.data(),
                              dx.data(),            dweights.data(),            pointer_to(beside_gate_up), pointer_to(beside_down)};
  return product_mlp_backward(m, g, stack_of(gate_up_weight).layout, stack_of(down_weight).layout, groups_of(offsets, experts, rows),
                              trained, rows, inner, width);
}

}  // namespace esft::detail::eigen
