// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Rotary embedding beyond the backend's `rope`: YaRN's rates, interleaved pairs, and part of a head only.

#include <esft/backend/backend.hpp>
#include <esft/core/rotary_scaling.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace esft {

/// Angle per position of each pair of columns. @shape result [width / 2]
/// @eq r_i = theta^(-2i/F) (1 - b_i + b_i / factor), b_i = clamp((i - low) / (high - low), 0, 1), where low and high are the pairs that
/// turn beta_fast and beta_slow times within the original context
/// @source YaRN, arXiv 2309.00071, section 3.2
[[nodiscard]] inline std::vector<double> rotary_rates(index width, double theta, const rotary_scaling& scaling) {
  const auto wide = static_cast<double>(width);
  std::vector<double> rates(static_cast<std::size_t>(width / 2));
  const auto pair_of = [&](double turns) {
    return wide * std::log(scaling.original_positions / (turns * 2 * std::acos(-1.0))) / (2 * std::log(theta));
  };
  double low = 0;
  double high = 0;
  if (scaling.factor != 1) {
    low = scaling.truncate ? std::floor(pair_of(scaling.beta_fast)) : pair_of(scaling.beta_fast);
    high = scaling.truncate ? std::ceil(pair_of(scaling.beta_slow)) : pair_of(scaling.beta_slow);
    low = std::max(low, 0.0);
    high = std::min(high, wide - 1);
    if (low == high) high += 0.001;
  }
  for (std::size_t i = 0; i < rates.size(); ++i) {
    rates[i] = std::pow(theta, -2.0 * static_cast<double>(i) / wide);
    if (scaling.factor == 1) continue;
    const double blend = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    rates[i] *= 1 - blend + blend / scaling.factor;
  }
  return rates;
}

/// Cosine and sine of every token and pair, computed once for all layers of a pass.
template <class Backend>
struct rotary_table {
  tensor_t<Backend, accum_t<Backend>, 2> cosine, sine;  ///< @shape [T, F/2], empty where the backend's own `rope` does
};

/// @param width F, columns of a head that are rotated
template <backend Backend>
[[nodiscard]] rotary_table<Backend> make_rotary_table(Backend& backend, std::span<const std::int32_t> positions, index width, double theta,
                                                      const rotary_scaling& scaling) {
  using A = accum_t<Backend>;
  const std::vector<double> rates = rotary_rates(width, theta, scaling);
  std::vector<A> cosine;
  std::vector<A> sine;
  cosine.reserve(positions.size() * rates.size());
  sine.reserve(positions.size() * rates.size());
  // Documents of a batch begin at the same positions: each is computed once.
  std::unordered_map<std::int32_t, std::size_t> known;
  for (const std::int32_t position : positions) {
    const auto [at, first_time] = known.try_emplace(position, cosine.size());
    if (!first_time) {
      for (std::size_t i = 0; i < rates.size(); ++i) {
        cosine.push_back(cosine[at->second + i]);
        sine.push_back(sine[at->second + i]);
      }
      continue;
    }
    for (const double rate : rates) {
      cosine.push_back(static_cast<A>(scaling.magnitude * std::cos(position * rate)));
      sine.push_back(static_cast<A>(scaling.magnitude * std::sin(position * rate)));
    }
  }
  const extents<2> shape{static_cast<index>(positions.size()), static_cast<index>(rates.size())};
  rotary_table<Backend> table{backend.template make_tensor<A>(shape), backend.template make_tensor<A>(shape)};
  backend.copy_in(std::span<const A>(cosine), table.cosine.view().flat());
  backend.copy_in(std::span<const A>(sine), table.sine.view().flat());
  return table;
}

/// Which columns of a head form a pair.
enum class rotary_pairs : bool {
  halves,      ///< (i, i + F/2), as the backend's `rope`
  neighbours,  ///< (2i, 2i + 1): DeepSeek-V2 and V3
};

namespace detail {
/// One head of one token.
template <class Backend>
struct rotate_strip {
  static constexpr index strip = 8;
  view_t<Backend, value_t<Backend>, 3> x;
  view_t<Backend, const accum_t<Backend>, 2> cosine, sine;
  index first, strips;
  rotary_pairs pairs;
  accum_t<Backend> direction;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    using T = value_t<Backend>;
    const index t = i / strips / x.extent(1);
    const index h = i / strips % x.extent(1);
    const index half = cosine.extent(1);
    const index begin = i % strips * strip;
    const index end = begin + strip < half ? begin + strip : half;
    for (index p = begin; p < end; ++p) {
      T& one = x(t, h, first + (pairs == rotary_pairs::halves ? p : 2 * p));
      T& two = x(t, h, first + (pairs == rotary_pairs::halves ? p + half : 2 * p + 1));
      const A a = static_cast<A>(one);
      const A b = static_cast<A>(two);
      const A s = direction * sine(t, p);
      one = static_cast<T>(a * cosine(t, p) - b * s);
      two = static_cast<T>(b * cosine(t, p) + a * s);
    }
  }
};
}  // namespace detail

/// Rotates the columns [first, first + F) of every head in place; direction -1 is the backward. @shape x [T, H, W], W >= first + F
template <backend Backend>
void rotate(Backend& backend, view_t<Backend, value_t<Backend>, 3> x, const rotary_table<Backend>& table, index first, rotary_pairs pairs,
            int direction) {
  const auto [tokens, half] = table.cosine.shape();
  ESFT_EXPECTS(x.extent(0) == tokens && first + 2 * half <= x.extent(2), "the table is that of the tokens");
  using body = detail::rotate_strip<Backend>;
  const index strips = (half + body::strip - 1) / body::strip;
  backend.for_each(x.extent(0) * x.extent(1) * strips,
                   body{x, table.cosine.view(), table.sine.view(), first, strips, pairs, static_cast<accum_t<Backend>>(direction)});
}

}  // namespace esft
