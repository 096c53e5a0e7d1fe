// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Low-rank factors beside a frozen matrix: how they begin, what they add forward, and their gradients.

#include <esft/core/rng.hpp>
#include <esft/nn/low_rank_dropout.hpp>

#include <cmath>

namespace esft {

namespace detail {
/// `count` values uniform in +-1/sqrt(columns), a pure function of (seed, stream, part). They lie on the bf16 grid, so that they are the
/// same for every element type.
[[nodiscard]] inline std::vector<float> low_rank_values(index count, index columns, std::uint64_t seed, std::uint64_t stream,
                                                        std::uint64_t part) {
  const double bound = 1.0 / std::sqrt(static_cast<double>(columns));
  const counter_rng rng(seed, rng_stream::low_rank, (stream << 32U) + part);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(bf16(static_cast<float>(bound * (2 * rng.uniform(i) - 1))));
  }
  return values;
}
/// Factors beside a matrix of these extents, or beside parts of a stack of such: A uniform in +-1/sqrt(K), B zero.
template <backend Backend, std::size_t Rank>
void begin_low_rank(Backend& backend, low_rank_pair<Backend, Rank>& pair, extents<2> matrix, const low_rank_options& how,
                    std::vector<std::int32_t> experts, std::uint64_t stream) {
  ESFT_EXPECTS(how.rank >= 1 && how.dropout >= 0 && how.dropout < 1, "the rank is at least 1, the dropout in [0, 1)");
  const auto [rows, columns] = matrix;
  pair.experts = std::move(experts);
  pair.how = how;
  pair.stream = stream;
  if constexpr (Rank == 3) {
    const auto count = static_cast<index>(pair.experts.size());
    allocate(backend, pair.a, extents<3>{count, how.rank, columns});
    allocate(backend, pair.b, extents<3>{count, rows, how.rank});
  } else {
    allocate(backend, pair.a, extents<2>{how.rank, columns});
    allocate(backend, pair.b, extents<2>{rows, how.rank});
  }
  backend.fill(pair.b.elements(), value_t<Backend>{});
  for (index part = 0; part < pair.a.parts(); ++part) {
    const std::uint64_t expert = Rank == 3 ? static_cast<std::uint64_t>(pair.experts[static_cast<std::size_t>(part)]) : 0;
    const std::vector<float> values = low_rank_values(how.rank * columns, columns, how.seed, stream, expert);
    copy_in(backend, std::span<const float>(values), pair.a.rows(part, 0, how.rank));
  }
}
}  // namespace detail

/// Puts factors beside a matrix, or beside the named experts of a stack: A uniform in +-1/sqrt(K), B zero, so that the sum begins as W x.
/// Values are a pure function of (seed, stream, expert) and lie on the bf16 grid, so that they are the same for every element type.
/// @pre experts ascending, distinct, in [0, E); empty where the parameter is a single matrix
template <backend Backend, std::size_t Rank, parameter_role Role>
void make_low_rank(Backend& backend, weight<Backend, Rank, Role>& w, const low_rank_options& how, std::vector<std::int32_t> experts,
                   std::uint64_t stream) {
  static_assert(Rank > 1, "a vector has no low-rank factors");
  auto pair = std::make_unique<low_rank_pair<Backend, Rank>>();
  detail::begin_low_rank(backend, *pair, w.part_shape(), how, std::move(experts), stream);
  w.low_rank = std::move(pair);
}

namespace detail {
template <class View>
struct scale_row {
  View x;
  double factor;
  ESFT_HOST_DEVICE void operator()(index r) const {
    using T = std::remove_cvref_t<decltype(x(0, 0))>;
    using A = accumulate_t<T>;
    for (index c = 0; c < x.extent(1); ++c) x(r, c) = static_cast<T>(static_cast<A>(factor) * static_cast<A>(x(r, c)));
  }
};
template <class Backend>
struct add_sums_row {
  view_t<Backend, const accum_t<Backend>, 2> x;
  view_t<Backend, accum_t<Backend>, 2> y;
  ESFT_HOST_DEVICE void operator()(index r) const {
    for (index c = 0; c < x.extent(1); ++c) y(r, c) += x(r, c);
  }
};
template <class Backend>
void scale_rows(Backend& backend, view_t<Backend, value_t<Backend>, 2> x, double factor) {
  if (factor != 1) backend.for_each(x.extent(0), scale_row<view_t<Backend, value_t<Backend>, 2>>{x, factor});
}
/// scale * x a^T: what B is multiplied with. @shape x [M, K], result [M, r]
template <class Backend>
auto low_rank_inner(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const low_rank_pair<Backend, 2>& f) {
  auto t = backend.template make_tensor<value_t<Backend>>(extents<2>{x.extent(0), f.how.rank});
  backend.linear(x, f.a.matrix(), t.view(), write_mode::overwrite);
  scale_rows(backend, t.view(), f.how.scale());
  return t;
}
/// What remains once dt = scale * dy b is known: A's gradient, and the rows' where somebody wants it.
template <class Backend>
void low_rank_backward_inner(Backend& backend, view_t<Backend, value_t<Backend>, 2> dt, const dropped_input<Backend>& seen,
                             low_rank_pair<Backend, 2>& f, view_t<Backend, value_t<Backend>, 2>* dx) {
  scale_rows(backend, dt, f.how.scale());
  if (f.trained()) backend.linear_dw(dt, seen(), f.a.gradient_matrix());
  if (dx == nullptr) return;
  if (!drops(f)) return backend.linear_dx(dt, f.a.matrix(), *dx, write_mode::accumulate);
  auto through = backend.template make_tensor<value_t<Backend>>(dx->shape());
  backend.linear_dx(dt, f.a.matrix(), through.view(), write_mode::overwrite);
  add_masked(backend, seen.from(), f, std::as_const(through).view(), *dx);
}
}  // namespace detail

/// y += scale * (drop(x) A^T) B^T. @shape x [M, K], y [M, N] @cost 2 M r (N + K) flops
template <moe_backend Backend>
void low_rank_forward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const low_rank_pair<Backend, 2>& f,
                      view_t<Backend, value_t<Backend>, 2> y) {
  const detail::dropped_input<Backend> seen(backend, {x}, f);
  const auto t = detail::low_rank_inner(backend, seen(), f);
  backend.linear(t.view(), f.b.matrix(), y, write_mode::accumulate);
}

/// Adds to the gradients of A and B where they are trained, and to dx unless it is null. @shape dy [M, N], x, dx [M, K]
/// @eq t = s drop(x) A^T, dt = s dy B: dB += dy^T t, dA += dt^T drop(x), dx += drop'(dt A)
template <moe_backend Backend>
void low_rank_backward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> dy, view_t<Backend, const value_t<Backend>, 2> x,
                       low_rank_pair<Backend, 2>& f, view_t<Backend, value_t<Backend>, 2>* dx) {
  const detail::dropped_input<Backend> seen(backend, {x}, f);
  const auto t = detail::low_rank_inner(backend, seen(), f);
  if (f.trained()) backend.linear_dw(dy, t.view(), f.b.gradient_matrix());
  auto dt = backend.template make_tensor<value_t<Backend>>(t.shape());
  backend.linear_dx(dy, f.b.matrix(), dt.view(), write_mode::overwrite);
  detail::low_rank_backward_inner(backend, dt.view(), seen, f, dx);
}

/// The same for a matrix whose output is in the accumulate type (router, head); row 0 is row `first` of what dropout sees. @shape y [M, N]
template <moe_backend Backend>
void low_rank_logits(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, const low_rank_pair<Backend, 2>& f,
                     view_t<Backend, accum_t<Backend>, 2> y, index first = 0) {
  const detail::dropped_input<Backend> seen(backend, {x, {}, 0, first}, f);
  const auto t = detail::low_rank_inner(backend, seen(), f);
  auto added = backend.template make_tensor<accum_t<Backend>>(y.shape());
  backend.logits(t.view(), f.b.matrix(), added.view());
  backend.for_each(y.extent(0), detail::add_sums_row<Backend>{std::as_const(added).view(), y});
}
template <moe_backend Backend>
void low_rank_logits_backward(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> dy,
                              view_t<Backend, const value_t<Backend>, 2> x, low_rank_pair<Backend, 2>& f,
                              view_t<Backend, value_t<Backend>, 2>* dx, index first = 0) {
  const detail::dropped_input<Backend> seen(backend, {x, {}, 0, first}, f);
  const auto t = detail::low_rank_inner(backend, seen(), f);
  if (f.trained()) backend.logits_dw(dy, t.view(), f.b.gradient_matrix());
  auto dt = backend.template make_tensor<value_t<Backend>>(t.shape());
  backend.logits_dx(dy, f.b.matrix(), dt.view(), write_mode::overwrite);
  detail::low_rank_backward_inner(backend, dt.view(), seen, f, dx);
}

}  // namespace esft
