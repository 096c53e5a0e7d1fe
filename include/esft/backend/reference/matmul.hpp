// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Plain-loop matrix products, single and grouped by expert: the lesson and the oracle of every faster kernel.

#include <esft/backend/backend.hpp>

namespace esft::reference {

/// y = x w^T. @shape x [M, K], w [N, K], y [M, N]
template <class T, class Out>
void linear(host_view<const T, 2> x, host_view<const T, 2> w, host_view<Out, 2> y, write_mode mode) {
  using sum_type = accumulate_t<T>;
  ESFT_EXPECTS(x.extent(1) == w.extent(1) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(0), "x [M,K], w [N,K], y [M,N]");
  for (index m = 0; m < y.extent(0); ++m) {
    for (index n = 0; n < y.extent(1); ++n) {
      sum_type sum = mode == write_mode::accumulate ? static_cast<sum_type>(y(m, n)) : sum_type{};
      for (index k = 0; k < x.extent(1); ++k) sum += static_cast<sum_type>(x(m, k)) * static_cast<sum_type>(w(n, k));
      y(m, n) = static_cast<Out>(sum);
    }
  }
}

/// dx = dy w. @shape dy [M, N], w [N, K], dx [M, K]
template <class T, class In>
void linear_dx(host_view<const In, 2> dy, host_view<const T, 2> w, host_view<T, 2> dx, write_mode mode) {
  using sum_type = accumulate_t<T>;
  ESFT_EXPECTS(dy.extent(1) == w.extent(0) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(1), "dy [M,N], w [N,K], dx [M,K]");
  for (index m = 0; m < dx.extent(0); ++m) {
    for (index k = 0; k < dx.extent(1); ++k) {
      sum_type sum = mode == write_mode::accumulate ? static_cast<sum_type>(dx(m, k)) : sum_type{};
      for (index n = 0; n < dy.extent(1); ++n) sum += static_cast<sum_type>(dy(m, n)) * static_cast<sum_type>(w(n, k));
      dx(m, k) = static_cast<T>(sum);
    }
  }
}

/// dw += dy^T x. @shape dy [M, N], x [M, K], dw [N, K]
template <class T, class In>
void linear_dw(host_view<const In, 2> dy, host_view<const T, 2> x, host_view<accumulate_t<T>, 2> dw) {
  using sum_type = accumulate_t<T>;
  ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(0) == dy.extent(1) && dw.extent(1) == x.extent(1), "dy [M,N], x [M,K], dw [N,K]");
  for (index n = 0; n < dw.extent(0); ++n) {
    for (index k = 0; k < dw.extent(1); ++k) {
      sum_type sum{};
      for (index m = 0; m < dy.extent(0); ++m) sum += static_cast<sum_type>(dy(m, n)) * static_cast<sum_type>(x(m, k));
      dw(n, k) += sum;
    }
  }
}

namespace detail {
/// The rows of experts follow one another from row 0.
inline void expect_offsets(host_view<const std::int32_t, 1> offsets, index experts, index rows) {
  ESFT_EXPECTS(offsets.size() == experts + 1 && offsets[0] == 0 && offsets[experts] <= rows,
               "offsets [E+1] run from 0 to at most the number of rows");
}
}  // namespace detail

/// y[r] = x[r] w[e(r)]^T for rows sorted by expert. @shape x [R, K], w [E, N, K], offsets [E+1], y [R, N]
template <class T>
void grouped_linear(host_view<const T, 2> x, host_view<const T, 3> w, host_view<const std::int32_t, 1> offsets, host_view<T, 2> y) {
  ESFT_EXPECTS(x.extent(1) == w.extent(2) && y.extent(0) == x.extent(0) && y.extent(1) == w.extent(1), "x [R,K], w [E,N,K], y [R,N]");
  detail::expect_offsets(offsets, w.extent(0), x.extent(0));
  for (index e = 0; e < w.extent(0); ++e) {
    linear<T, T>(x.slice(offsets[e], offsets[e + 1]), w[e], y.slice(offsets[e], offsets[e + 1]), write_mode::overwrite);
  }
}

/// dx[r] = dy[r] w[e(r)]. @shape dy [R, N], w [E, N, K], offsets [E+1], dx [R, K]
template <class T>
void grouped_linear_dx(host_view<const T, 2> dy, host_view<const T, 3> w, host_view<const std::int32_t, 1> offsets, host_view<T, 2> dx) {
  ESFT_EXPECTS(dy.extent(1) == w.extent(1) && dx.extent(0) == dy.extent(0) && dx.extent(1) == w.extent(2), "dy [R,N], w [E,N,K], dx [R,K]");
  detail::expect_offsets(offsets, w.extent(0), dy.extent(0));
  for (index e = 0; e < w.extent(0); ++e) {
    linear_dx<T, T>(dy.slice(offsets[e], offsets[e + 1]), w[e], dx.slice(offsets[e], offsets[e + 1]), write_mode::overwrite);
  }
}

/// dw[s] += dy^T x over the rows of expert selected[s]. @shape dy [R, N], x [R, K], offsets [E+1], selected [S], dw [S, N, K]
template <class T>
void grouped_linear_dw(host_view<const T, 2> dy, host_view<const T, 2> x, host_view<const std::int32_t, 1> offsets,
                       std::span<const std::int32_t> selected, host_view<accumulate_t<T>, 3> dw) {
  ESFT_EXPECTS(static_cast<index>(selected.size()) == dw.extent(0), "one gradient slice per selected expert");
  ESFT_EXPECTS(dy.extent(0) == x.extent(0) && dw.extent(1) == dy.extent(1) && dw.extent(2) == x.extent(1), "dy [R,N], x [R,K], dw [S,N,K]");
  for (index s = 0; s < dw.extent(0); ++s) {
    const std::int32_t e = selected[static_cast<std::size_t>(s)];
    ESFT_EXPECTS(e >= 0 && e + 1 < offsets.size(), "a selected expert lies in [0, E)");
    linear_dw<T, T>(dy.slice(offsets[e], offsets[e + 1]), x.slice(offsets[e], offsets[e + 1]), dw[s]);
  }
}

}  // namespace esft::reference
