// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Attention sinks: a logit of each head that takes part in the softmax over the keys and carries no value. Any attention op gains them.

#include <esft/nn/weight.hpp>

#include <cmath>

namespace esft {

namespace detail {
/// One head of one token: what attention without the sink computed becomes what attention with it computes.
template <class Backend>
struct add_sink {
  view_t<Backend, const value_t<Backend>, 1> sinks;
  view_t<Backend, accum_t<Backend>, 2> lse;
  view_t<Backend, value_t<Backend>, 2> output;

  ESFT_HOST_DEVICE void operator()(index i) const {
    using A = accum_t<Backend>;
    const index t = i / sinks.size();
    const index h = i % sinks.size();
    const index width = output.extent(1) / sinks.size();
    const A sink = static_cast<A>(sinks[h]);
    const A peak = lse(t, h) > sink ? lse(t, h) : sink;
    const A with = peak + std::log(std::exp(lse(t, h) - peak) + std::exp(sink - peak));
    const A share = std::exp(lse(t, h) - with);
    lse(t, h) = with;
    for (index f = h * width; f < (h + 1) * width; ++f) {
      output(t, f) = static_cast<value_t<Backend>>(share * static_cast<A>(output(t, f)));
    }
  }
};

/// @eq ds_h = - sum_t exp(s_h - lse_th) <do_th, o_th>
template <class Backend>
struct sink_gradient {
  view_t<Backend, const value_t<Backend>, 1> sinks;
  view_t<Backend, const accum_t<Backend>, 2> lse;
  view_t<Backend, const value_t<Backend>, 2> output, d_output;
  view_t<Backend, accum_t<Backend>, 1> gradient;

  ESFT_HOST_DEVICE void operator()(index h) const {
    using A = accum_t<Backend>;
    const index width = output.extent(1) / sinks.size();
    A sum{};
    for (index t = 0; t < lse.extent(0); ++t) {
      A dot{};
      for (index f = h * width; f < (h + 1) * width; ++f) dot += static_cast<A>(d_output(t, f)) * static_cast<A>(output(t, f));
      sum += std::exp(static_cast<A>(sinks[h]) - lse(t, h)) * dot;
    }
    gradient[h] -= sum;
  }
};
}  // namespace detail

/// Puts the sinks into the result of an attention op; nothing where the layer has none. Its backward then needs no change: with the sink in
/// lse its probabilities are those beside the sink, and <do, o> lacks nothing because the sink's value is zero.
/// @eq lse' = log(exp(lse) + exp(s)), o' = exp(lse - lse') o @shape lse [T, H], output [T, H F]
/// @source GPT-OSS model card, arXiv 2508.10925, section 2.2
template <backend Backend, parameter_role Role>
void sink_forward(Backend& backend, const weight<Backend, 1, Role>& sinks, view_t<Backend, accum_t<Backend>, 2> lse,
                  view_t<Backend, value_t<Backend>, 2> output) {
  if (!sinks.exists()) return;
  ESFT_EXPECTS(sinks.value.extent(0) == lse.extent(1), "each head has one sink");
  backend.for_each(lse.size(), detail::add_sink<Backend>{sinks.value.view(), lse, output});
}

/// Adds to the sinks' gradient where they are trained. @pre lse and output are those of `sink_forward`
/// @shape lse [T, H], output, d_output [T, H F], sinks [H]
template <backend Backend, parameter_role Role>
void sink_backward(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> lse, view_t<Backend, const value_t<Backend>, 2> output,
                   view_t<Backend, const value_t<Backend>, 2> d_output, weight<Backend, 1, Role>& sinks) {
  if (!sinks.trained()) return;
  backend.for_each(lse.extent(1),
                   detail::sink_gradient<Backend>{std::as_const(sinks.value).view(), lse, output, d_output, sinks.gradient.view()});
}

}  // namespace esft
