// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Plain-loop grouped-query attention over a key range per query, and its backward. Memory linear in the sequence length.

#include <esft/backend/backend.hpp>

#include <cmath>
#include <limits>

namespace esft::reference {

namespace detail {
/// Inner product of two heads.
template <class T>
accumulate_t<T> head_dot(const T* a, const T* b, index width) {
  using sum_type = accumulate_t<T>;
  sum_type sum{};
  for (index f = 0; f < width; ++f) sum += static_cast<sum_type>(a[f]) * static_cast<sum_type>(b[f]);
  return sum;
}
/// What attention and its backward ask of their inputs.
template <class T>
void expect_attention(host_view<const T, 3> q, host_view<const T, 3> k, host_view<const T, 3> v, host_view<const std::int32_t, 1> key_begin,
                      host_view<const std::int32_t, 1> key_end) {
  ESFT_EXPECTS(k.extent(1) > 0 && q.extent(1) % k.extent(1) == 0, "the number of heads is a multiple of the number of key-value heads");
  ESFT_EXPECTS(k.shape() == v.shape() && q.extent(2) == k.extent(2) && key_begin.size() == q.extent(0) && key_end.size() == q.extent(0),
               "q [T,H,F], k, v [S,G,F], key_begin, key_end [T]");
  for (index t = 0; t < q.extent(0); ++t) {
    ESFT_EXPECTS(key_begin[t] >= key_end[t] || (key_begin[t] >= 0 && key_end[t] <= k.extent(0)), "a key range lies in [0, S)");
  }
}
}  // namespace detail

/// o[t,h] = sum over s in [key_begin[t], key_end[t]) of softmax_s(scale <q[t,h], k[s,g]>) v[s,g], g = h / (H/G).
/// An empty key range gives o = 0 and lse = -inf.
/// @shape q, o [T, H, F], k, v [S, G, F], key_begin, key_end [T], lse [T, H]
template <class T>
void attention(host_view<const T, 3> q, host_view<const T, 3> k, host_view<const T, 3> v, host_view<const std::int32_t, 1> key_begin,
               host_view<const std::int32_t, 1> key_end, double scale, host_view<T, 3> o, host_view<accumulate_t<T>, 2> lse) {
  using sum_type = accumulate_t<T>;
  const index width = q.extent(2);
  detail::expect_attention<T>(q, k, v, key_begin, key_end);
  ESFT_EXPECTS(o.shape() == q.shape() && lse.extent(0) == q.extent(0) && lse.extent(1) == q.extent(1), "o [T,H,F], lse [T,H]");
  const index share = q.extent(1) / k.extent(1);
  for (index t = 0; t < q.extent(0); ++t) {
    for (index h = 0; h < q.extent(1); ++h) {
      const index g = h / share;
      sum_type peak = -std::numeric_limits<sum_type>::infinity();
      for (index s = key_begin[t]; s < key_end[t]; ++s) {
        peak = std::max(peak, static_cast<sum_type>(scale) * detail::head_dot(&q(t, h, 0), &k(s, g, 0), width));
      }
      sum_type total{};
      for (index s = key_begin[t]; s < key_end[t]; ++s) {
        total += std::exp(static_cast<sum_type>(scale) * detail::head_dot(&q(t, h, 0), &k(s, g, 0), width) - peak);
      }
      lse(t, h) = key_begin[t] < key_end[t] ? peak + std::log(total) : peak;
      for (index f = 0; f < width; ++f) {
        sum_type sum{};
        for (index s = key_begin[t]; s < key_end[t]; ++s) {
          const sum_type p = std::exp(static_cast<sum_type>(scale) * detail::head_dot(&q(t, h, 0), &k(s, g, 0), width) - lse(t, h));
          sum += p * static_cast<sum_type>(v(s, g, f));
        }
        o(t, h, f) = static_cast<T>(sum);
      }
    }
  }
}

/// Overwrites dq, dk, dv.
/// @eq dp = <do, v>;  ds = p (dp - <do, o>);  dq = scale sum ds k;  dk = scale sum ds q;  dv = sum p do
/// @shape q, o, d_o, dq [T, H, F], k, v, dk, dv [S, G, F], key_begin, key_end [T], lse [T, H]
template <class T>
void attention_backward(host_view<const T, 3> q, host_view<const T, 3> k, host_view<const T, 3> v, host_view<const T, 3> o,
                        host_view<const accumulate_t<T>, 2> lse, host_view<const T, 3> d_o, host_view<const std::int32_t, 1> key_begin,
                        host_view<const std::int32_t, 1> key_end, double scale, host_view<T, 3> dq, host_view<T, 3> dk,
                         host_view<T, 3> dv) {
  using sum_type = accumulate_t<T>;
  const index width = q.extent(2);
  detail::expect_attention<T>(q, k, v, key_begin, key_end);
  ESFT_EXPECTS(o.shape() == q.shape() && d_o.shape() == q.shape() && dq.shape() == q.shape() && dk.shape() == k.shape() &&
                   dv.shape() == k.shape() && lse.extent(0) == q.extent(0) && lse.extent(1) == q.extent(1),
               "o, d_o, dq [T,H,F], dk, dv [S,G,F], lse [T,H]");
  const index share = q.extent(1) / k.extent(1);
  const auto factor = static_cast<sum_type>(scale);
  auto wide_dk = make_host_tensor<sum_type, 3>(k.shape());
  auto wide_dv = make_host_tensor<sum_type, 3>(k.shape());
  auto wide_dq = make_host_tensor<sum_type, 1>({width});
  for (index i = 0; i < k.size(); ++i) wide_dk.data()[i] = wide_dv.data()[i] = sum_type{};
  for (index t = 0; t < q.extent(0); ++t) {
    for (index h = 0; h < q.extent(1); ++h) {
      const index g = h / share;
      const sum_type pull = detail::head_dot(&d_o(t, h, 0), &o(t, h, 0), width);
      for (index f = 0; f < width; ++f) wide_dq.data()[f] = sum_type{};
      for (index s = key_begin[t]; s < key_end[t]; ++s) {
        const sum_type p = std::exp(factor * detail::head_dot(&q(t, h, 0), &k(s, g, 0), width) - lse(t, h));
        const sum_type ds = p * (detail::head_dot(&d_o(t, h, 0), &v(s, g, 0), width) - pull);
        for (index f = 0; f < width; ++f) {
          wide_dq.data()[f] += factor * ds * static_cast<sum_type>(k(s, g, f));
          wide_dk.view()(s, g, f) += factor * ds * static_cast<sum_type>(q(t, h, f));
          wide_dv.view()(s, g, f) += p * static_cast<sum_type>(d_o(t, h, f));
        }
      }
      for (index f = 0; f < width; ++f) dq(t, h, f) = static_cast<T>(wide_dq.data()[f]);
    }
  }
  for (index i = 0; i < k.size(); ++i) {
    dk.data()[i] = static_cast<T>(wide_dk.data()[i]);
    dv.data()[i] = static_cast<T>(wide_dv.data()[i]);
  }
}

}  // namespace esft::reference
