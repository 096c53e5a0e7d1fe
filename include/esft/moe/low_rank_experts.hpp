// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Low-rank factors of routed experts, on routed rows: thin grouped products over the rows of those experts that have factors.

#include <esft/moe/routed_rows.hpp>
#include <esft/nn/low_rank.hpp>

#include <vector>

namespace esft {

namespace detail {

/// Rows [begin, end) of an operand, contiguous.
template <class Backend>
struct contiguous_part {
  tensor_t<Backend, value_t<Backend>, 2> copy;
  view_t<Backend, const value_t<Backend>, 2> rows;

  contiguous_part(Backend&, view_t<Backend, const value_t<Backend>, 2> from, index begin, index end) : rows(from.slice(begin, end)) {}
  contiguous_part(Backend& backend, const gathered_t<Backend>& from, index begin, index end)
      : copy(backend.template make_tensor<value_t<Backend>>(extents<2>{end - begin, from.columns()})), rows(std::as_const(copy).view()) {
    backend.gather(from.x, from.slot.slice(begin, end), from.active, copy.view());
  }
};
template <class T, memory_space Space>
matrix_view<T, 2, Space> part_of(const matrix_view<T, 3, Space>& stack, index s) {
  return {stack.elements[s], stack.layout};
}
template <class T, memory_space Space>
tensor_view<T, 2, Space> part_of(const tensor_view<T, 3, Space>& stack, index s) {
  return stack[s];
}
/// Calls `visit(s, begin, end)` with the rows of each selected expert that has any.
template <class Backend, class Visit>
void for_selected_rows(Backend& backend, view_t<Backend, const std::int32_t, 1> offsets, const std::vector<std::int32_t>& selected,
                       Visit&& visit) {
  std::vector<std::int32_t> host(static_cast<std::size_t>(offsets.size()));
  backend.copy_out(offsets, std::span<std::int32_t>(host));
  for (std::size_t s = 0; s < selected.size(); ++s) {
    const auto e = static_cast<std::size_t>(selected[s]);
    if (host[e] < host[e + 1]) visit(static_cast<index>(s), index{host[e]}, index{host[e + 1]});
  }
}

/// y[r] (+)= x[r] w[s]^T, dx[r] (+)= dy[r] w[s] for the rows of the selected experts: expert by expert where the backend has no such op.
template <class Backend, class Rows>
void selected_linear(Backend& backend, const Rows& x, matrix_t<Backend, const value_t<Backend>, 3> w,
                     view_t<Backend, const std::int32_t, 1> offsets, const std::vector<std::int32_t>& selected,
                     view_t<Backend, value_t<Backend>, 2> y, write_mode mode) {
  if constexpr (has_selected_products<Backend>) {
    backend.grouped_linear(x, w, offsets, selected, y, mode);
  } else {
    for_selected_rows(backend, offsets, selected, [&](index s, index begin, index end) {
      backend.linear(contiguous_part<Backend>(backend, x, begin, end).rows, part_of(w, s), y.slice(begin, end), mode);
    });
  }
}
template <class Backend, class Rows>
void selected_linear_dx(Backend& backend, const Rows& dy, matrix_t<Backend, const value_t<Backend>, 3> w,
                        view_t<Backend, const std::int32_t, 1> offsets, const std::vector<std::int32_t>& selected,
                        view_t<Backend, value_t<Backend>, 2> dx, write_mode mode) {
  if constexpr (has_selected_products<Backend>) {
    backend.grouped_linear_dx(dy, w, offsets, selected, dx, mode);
  } else {
    for_selected_rows(backend, offsets, selected, [&](index s, index begin, index end) {
      backend.linear_dx(contiguous_part<Backend>(backend, dy, begin, end).rows, part_of(w, s), dx.slice(begin, end), mode);
    });
  }
}

/// The input of the factors as an operand of grouped products.
template <class Backend>
class routed_input {
 public:
  routed_input(Backend& backend, const input_rows<Backend>& from, const low_rank_pair<Backend, 3>& f) : seen_(backend, from, f) {
    if constexpr (!has_gathering<Backend>) {
      if (seen_.gathered()) {
        copy_ = backend.template make_tensor<value_t<Backend>>(extents<2>{from.rows(), from.x.extent(1)});
        backend.gather(from.x, from.slot, from.active, copy_.view());
      }
    }
  }
  /// Calls `use(rows)`.
  template <class Use>
  void operator()(Use&& use) const {
    if (!seen_.gathered()) return use(seen_());
    if constexpr (has_gathering<Backend>) {
      use(gathered_t<Backend>{seen_.from().x, seen_.from().slot, seen_.from().active});
    } else {
      use(copy_.view());
    }
  }

 private:
  dropped_input<Backend> seen_;
  tensor_t<Backend, value_t<Backend>, 2> copy_;
};

template <class Backend>
struct weigh_row {
  view_t<Backend, const value_t<Backend>, 2> x;
  view_t<Backend, const accum_t<Backend>, 1> weights;
  view_t<Backend, const std::int32_t, 1> slot;
  view_t<Backend, value_t<Backend>, 2> y;
  ESFT_HOST_DEVICE void operator()(index r) const {
    if (slot[r] == no_expert) return;
    for (index c = 0; c < y.extent(1); ++c)
      y(r, c) = static_cast<value_t<Backend>>(weights[slot[r]] * static_cast<accum_t<Backend>>(x(r, c)));
  }
};

}  // namespace detail

/// t[r] = scale * drop(x[r]) A[s]^T for the rows of the experts that have factors, zero on the others. @shape result [R, r]
template <moe_backend Backend>
tensor_t<Backend, value_t<Backend>, 2> routed_low_rank_inner(Backend& backend, const detail::input_rows<Backend>& x,
                                                             view_t<Backend, const std::int32_t, 1> offsets,
                                                             const low_rank_pair<Backend, 3>& f) {
  auto t = backend.template make_tensor<value_t<Backend>>(extents<2>{x.rows(), f.how.rank});
  backend.fill(t.view(), value_t<Backend>{});
  const detail::routed_input<Backend> input(backend, x, f);
  input([&](const auto& rows) {
    detail::selected_linear(backend, rows, f.a.matrix(), offsets, f.experts, t.view(), write_mode::overwrite);
  });
  detail::scale_rows(backend, t.view(), f.how.scale());
  return t;
}
/// y[r] += t[r] B[s]^T for the rows of the experts that have factors. Returns t of `routed_low_rank_inner`: the backward needs it.
/// @shape y [R, N], result [R, r] @cost 2 r (N + K) flops for each of these rows
template <moe_backend Backend>
tensor_t<Backend, value_t<Backend>, 2> routed_low_rank_forward(Backend& backend, const detail::input_rows<Backend>& x,
                                                               view_t<Backend, const std::int32_t, 1> offsets,
                                                               const low_rank_pair<Backend, 3>& f,
                                                               view_t<Backend, value_t<Backend>, 2> y) {
  auto t = routed_low_rank_inner(backend, x, offsets, f);
  detail::selected_linear(backend, std::as_const(t).view(), f.b.matrix(), offsets, f.experts, y, write_mode::accumulate);
  return t;
}
/// t[r] times the gate weight of its slot: what the forward's t would be for an input with the weight in it.
/// @shape t and the result [R, r], weights [T, K], slot [R]
template <moe_backend Backend>
[[nodiscard]] auto weighted_inner(Backend& backend, view_t<Backend, const value_t<Backend>, 2> t,
                                  view_t<Backend, const accum_t<Backend>, 2> weights, view_t<Backend, const std::int32_t, 1> slot) {
  auto result = backend.template make_tensor<value_t<Backend>>(t.shape());
  backend.for_each(t.extent(0), detail::weigh_row<Backend>{t, weights.flat(), slot, result.view()});
  return result;
}

/// dt = scale * dy B on the rows of the experts that have factors, zero on the others. @shape dy [R, N], result [R, r]
template <moe_backend Backend, class Rows>
[[nodiscard]] auto routed_low_rank_dt(Backend& backend, const Rows& dy, index rows, view_t<Backend, const std::int32_t, 1> offsets,
                                      const low_rank_pair<Backend, 3>& f) {
  auto dt = backend.template make_tensor<value_t<Backend>>(extents<2>{rows, f.how.rank});
  backend.fill(dt.view(), value_t<Backend>{});
  detail::selected_linear_dx(backend, dy, f.b.matrix(), offsets, f.experts, dt.view(), write_mode::overwrite);
  detail::scale_rows(backend, dt.view(), f.how.scale());
  return dt;
}
/// dx[r] += drop'(dt[r] A[s]). @shape dt [R, r], slot [R], dx [R, K]
template <moe_backend Backend>
void routed_low_rank_dx(Backend& backend, view_t<Backend, const value_t<Backend>, 2> dt, view_t<Backend, const std::int32_t, 1> slot,
                        view_t<Backend, const std::int32_t, 1> offsets, const low_rank_pair<Backend, 3>& f,
                        view_t<Backend, value_t<Backend>, 2> dx) {
  if (!detail::drops(f)) {
    return detail::selected_linear_dx(backend, dt, f.a.matrix(), offsets, f.experts, dx, write_mode::accumulate);
  }
  auto through = backend.template make_tensor<value_t<Backend>>(dx.shape());
  backend.fill(through.view(), value_t<Backend>{});
  detail::selected_linear_dx(backend, dt, f.a.matrix(), offsets, f.experts, through.view(), write_mode::overwrite);
  detail::add_masked(backend, detail::input_rows<Backend>{{}, slot, 0, 0}, f, std::as_const(through).view(), dx);
}
/// dB[s] += dy^T t, dA[s] += dt^T drop(x), over the rows of each expert that has factors. @pre the factors are trained
/// @shape dy [R, N], dt, t [R, r], x [R, K], offsets [E+1], dB [S, N, r], dA [S, r, K]
template <moe_backend Backend, class Rows>
void routed_low_rank_dw(Backend& backend, const Rows& dy, view_t<Backend, const value_t<Backend>, 2> dt,
                        view_t<Backend, const value_t<Backend>, 2> t, const detail::input_rows<Backend>& x,
                        view_t<Backend, const std::int32_t, 1> offsets, low_rank_pair<Backend, 3>& f) {
  backend.grouped_linear_dw(dy, t, offsets, f.experts, f.b.gradient_matrix());
  const detail::routed_input<Backend> input(backend, x, f);
  input([&](const auto& rows) { backend.grouped_linear_dw(dt, rows, offsets, f.experts, f.a.gradient_matrix()); });
}

}  // namespace esft
