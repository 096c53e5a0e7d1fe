// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Moving columns between matrices of different widths: what joins and splits the parts of attention heads.

#include <esft/backend/backend.hpp>

#include <algorithm>
#include <utility>

namespace esft {

namespace detail {
/// One strip of at most `strip` columns of one row: short enough for neighbouring threads of a device to read neighbouring memory, long
/// enough that a processor does not spend its time on the division.
template <class Backend>
struct copy_columns_strip {
  static constexpr index strip = 8;
  view_t<Backend, const value_t<Backend>, 2> from;
  view_t<Backend, value_t<Backend>, 2> to;
  index from_first, to_first, count, share, zeros, strips;

  ESFT_HOST_DEVICE void operator()(index i) const {
    const index row = i / strips;
    const index begin = i % strips * strip;
    const index end = begin + strip < count + zeros ? begin + strip : count + zeros;
    for (index f = begin; f < end; ++f) to(row, to_first + f) = f < count ? from(row / share, from_first + f) : value_t<Backend>{};
  }
};

/// One column of the sum over the heads of a token.
template <class Backend>
struct sum_heads_column {
  view_t<Backend, const value_t<Backend>, 2> from;
  view_t<Backend, value_t<Backend>, 2> to;
  index from_first, to_first, count, heads;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index t = i / count;
    const index f = i % count;
    A sum{};
    for (index h = 0; h < heads; ++h) sum += static_cast<A>(from(t * heads + h, from_first + f));
    to(t, to_first + f) = static_cast<value_t<Backend>>(sum);
  }
};
}  // namespace detail

/// Which columns `copy_columns` moves.
struct column_range {
  index from_first = 0;
  index to_first = 0;
  index count = 0;
  index share = 1;  ///< rows of `to` that read the same row of `from`
  index zeros = 0;  ///< columns behind them that become zero
};

/// to[i, to_first + f] = from[i / share, from_first + f] for f in [0, count), and 0 in the `zeros` columns behind.
/// @shape from [N / share, A], to [N, B]
template <backend Backend>
void copy_columns(Backend& backend, view_t<Backend, const value_t<Backend>, 2> from, view_t<Backend, value_t<Backend>, 2> to,
                  const column_range& range) {
  ESFT_EXPECTS(range.from_first + range.count <= from.extent(1) && range.to_first + range.count + range.zeros <= to.extent(1),
               "the columns exist");
  ESFT_EXPECTS(from.extent(0) * range.share == to.extent(0), "rows correspond");
  using body = detail::copy_columns_strip<Backend>;
  const index strips = (range.count + range.zeros + body::strip - 1) / body::strip;
  backend.for_each(to.extent(0) * strips,
                   body{from, to, range.from_first, range.to_first, range.count, range.share, range.zeros, strips});
}

/// to[t, to_first + f] = sum over h of from[t heads + h, from_first + f] for f in [0, count): the backward of a copy to all heads.
/// @shape from [T heads, A], to [T, B]
template <backend Backend>
void sum_heads(Backend& backend, view_t<Backend, const value_t<Backend>, 2> from, view_t<Backend, value_t<Backend>, 2> to, index heads,
               const column_range& range) {
  ESFT_EXPECTS(range.from_first + range.count <= from.extent(1) && range.to_first + range.count <= to.extent(1), "the columns exist");
  ESFT_EXPECTS(from.extent(0) == to.extent(0) * heads, "rows correspond");
  backend.for_each(to.extent(0) * range.count,
                   detail::sum_heads_column<Backend>{from, to, range.from_first, range.to_first, range.count, heads});
}

}  // namespace esft
