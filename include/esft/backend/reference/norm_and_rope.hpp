// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Plain-loop RMSNorm and rotary position embedding, forward beside backward.

#include <esft/backend/backend.hpp>

#include <cmath>

namespace esft::reference {

/// y = x rstd weight, rstd = (mean x^2 + epsilon)^(-1/2). @shape x, y [N, D], weight [D], rstd [N] @source arXiv 1910.07467
template <class T>
void rms_norm(host_view<const T, 2> x, host_view<const T, 1> weight, double epsilon, host_view<T, 2> y,
              host_view<accumulate_t<T>, 1> rstd) {
  using sum_type = accumulate_t<T>;
  const index width = x.extent(1);
  ESFT_EXPECTS(x.shape() == y.shape() && weight.size() == width && rstd.size() == x.extent(0), "x, y [N,D], weight [D], rstd [N]");
  for (index n = 0; n < x.extent(0); ++n) {
    sum_type squares{};
    for (index d = 0; d < width; ++d) squares += static_cast<sum_type>(x(n, d)) * static_cast<sum_type>(x(n, d));
    rstd[n] = sum_type(1) / std::sqrt(squares / static_cast<sum_type>(width) + static_cast<sum_type>(epsilon));
    for (index d = 0; d < width; ++d) y(n, d) = static_cast<T>(static_cast<sum_type>(x(n, d)) * rstd[n] * static_cast<sum_type>(weight[d]));
  }
}

/// @eq dx = rstd (w dy - x rstd^2 mean(x w dy)) @shape dy, x, dx [N, D], weight [D], rstd [N]
template <class T>
void rms_norm_dx(host_view<const T, 2> dy, host_view<const T, 2> x, host_view<const T, 1> weight, host_view<const accumulate_t<T>, 1> rstd,
                 host_view<T, 2> dx, write_mode mode) {
  using sum_type = accumulate_t<T>;
  const index width = x.extent(1);
  ESFT_EXPECTS(dy.shape() == x.shape() && dx.shape() == x.shape() && weight.size() == width && rstd.size() == x.extent(0),
               "dy, x, dx [N,D], weight [D], rstd [N]");
  for (index n = 0; n < x.extent(0); ++n) {
    sum_type dot{};
    for (index d = 0; d < width; ++d) {
      dot += static_cast<sum_type>(x(n, d)) * static_cast<sum_type>(weight[d]) * static_cast<sum_type>(dy(n, d));
    }
    const sum_type pull = dot * rstd[n] * rstd[n] / static_cast<sum_type>(width);
    for (index d = 0; d < width; ++d) {
      const sum_type value =
          rstd[n] * (static_cast<sum_type>(weight[d]) * static_cast<sum_type>(dy(n, d)) - static_cast<sum_type>(x(n, d)) * pull);
      dx(n, d) = static_cast<T>(mode == write_mode::accumulate ? static_cast<sum_type>(dx(n, d)) + value : value);
    }
  }
}

/// dweight += sum over rows of dy x rstd. @shape dy, x [N, D], rstd [N], dweight [D]
template <class T>
void rms_norm_dw(host_view<const T, 2> dy, host_view<const T, 2> x, host_view<const accumulate_t<T>, 1> rstd,
                 host_view<accumulate_t<T>, 1> dweight) {
  using sum_type = accumulate_t<T>;
  ESFT_EXPECTS(dy.shape() == x.shape() && dweight.size() == x.extent(1) && rstd.size() == x.extent(0),
               "dy, x [N,D], rstd [N], dweight [D]");
  for (index d = 0; d < x.extent(1); ++d) {
    sum_type sum{};
    for (index n = 0; n < x.extent(0); ++n) sum += static_cast<sum_type>(dy(n, d)) * static_cast<sum_type>(x(n, d)) * rstd[n];
    dweight[d] += sum;
  }
}

/// Rotates the pairs (i, i + F/2) of every head in place by direction * position * theta^(-2i/F).
/// @shape x [T, H, F], positions [T] @source arXiv 2104.09864 (rotate-half pairing, as Llama checkpoints store it)
template <class T>
void rope(host_view<T, 3> x, host_view<const std::int32_t, 1> positions, double theta, int direction) {
  using sum_type = accumulate_t<T>;
  const index half = x.extent(2) / 2;
  ESFT_EXPECTS(positions.size() == x.extent(0) && x.extent(2) == 2 * half, "x [T,H,F] with even F, positions [T]");
  for (index t = 0; t < x.extent(0); ++t) {
    for (index i = 0; i < half; ++i) {
      const double rate = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(x.extent(2)));
      const double angle = static_cast<double>(positions[t]) * rate;
      const auto c = static_cast<sum_type>(std::cos(angle));
      const auto s = static_cast<sum_type>(direction * std::sin(angle));
      for (index h = 0; h < x.extent(1); ++h) {
        const auto first = static_cast<sum_type>(x(t, h, i));
        const auto second = static_cast<sum_type>(x(t, h, i + half));
        x(t, h, i) = static_cast<T>(first * c - second * s);
        x(t, h, i + half) = static_cast<T>(second * c + first * s);
      }
    }
  }
}

}  // namespace esft::reference
