// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Expert-level balance loss of DeepSeekMoE. Off unless a coefficient is given: with a frozen router it only disturbs the experts below.

#include <esft/moe/router.hpp>

#include <vector>

namespace esft {

/// Loss and its gradient with respect to the router's probabilities.
template <class Backend>
struct balance_gradient {
  double loss = 0;
  tensor_t<Backend, accum_t<Backend>, 2> dprobabilities;  ///< @shape [T, E]
};

namespace detail {
template <class Backend>
struct broadcast_real_rows {
  view_t<Backend, const accum_t<Backend>, 1> row;
  view_t<Backend, const std::int32_t, 1> sample;
  view_t<Backend, accum_t<Backend>, 2> out;
  ESFT_HOST_DEVICE void operator()(index t) const {
    const bool real = sample.size() == 0 || sample[t] >= 0;
    for (index e = 0; e < out.extent(1); ++e) out(t, e) = real ? row[e] : accum_t<Backend>{};
  }
};
}  // namespace detail

/// @eq L = coefficient * sum_i f_i P_i, f_i = E / (K T) * (tokens that chose i), P_i = mean over tokens of s_i; f is constant in the backward
/// @source DeepSeekMoE, arXiv 2401.06066, equations 12-14 (no shared experts inside E and K)
/// @param sample [T] -1 marks padding, which does not count; empty: every token counts
/// @param gradient_scale factor on the gradient alone (1 / number of micro-batches)
template <backend Backend>
[[nodiscard]] balance_gradient<Backend> balance_loss(Backend& backend, const routing<Backend>& decision, double coefficient,
                                                     view_t<Backend, const std::int32_t, 1> sample, double gradient_scale = 1) {
  using A = accum_t<Backend>;
  const index tokens = decision.ids.extent(0);
  const index active = decision.ids.extent(1);
  const index experts = decision.probabilities.extent(1);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(tokens * active));
  std::vector<A> probabilities(static_cast<std::size_t>(tokens * experts));
  std::vector<std::int32_t> samples(static_cast<std::size_t>(sample.size()));
  backend.copy_out(decision.ids.view(), std::span<std::int32_t>(ids));
  backend.copy_out(decision.probabilities.view(), std::span<A>(probabilities));
  if (!samples.empty()) backend.copy_out(sample, std::span<std::int32_t>(samples));
  std::vector<double> counts(static_cast<std::size_t>(experts));
  std::vector<double> mass(static_cast<std::size_t>(experts));
  double real = 0;
  for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
    if (!samples.empty() && samples[t] < 0) continue;
    real += 1;
    for (std::size_t k = 0; k < static_cast<std::size_t>(active); ++k) {
      const std::int32_t id = ids[t * static_cast<std::size_t>(active) + k];
      if (id != no_expert) counts[static_cast<std::size_t>(id)] += 1;
    }
    for (std::size_t e = 0; e < counts.size(); ++e) mass[e] += static_cast<double>(probabilities[t * counts.size() + e]);
  }
  balance_gradient<Backend> result;
  result.dprobabilities = backend.template make_tensor<A>(decision.probabilities.shape());
  std::vector<A> row(counts.size());
  for (std::size_t e = 0; e < counts.size() && real > 0; ++e) {
    const double frequency = static_cast<double>(experts) / (static_cast<double>(active) * real) * counts[e];
    result.loss += coefficient * frequency * mass[e] / real;
    row[e] = static_cast<A>(gradient_scale * coefficient * frequency / real);
  }
  auto device_row = backend.template make_tensor<A>(extents<1>{experts});
  backend.copy_in(std::span<const A>(row), device_row.view());
  backend.for_each(tokens, detail::broadcast_real_rows<Backend>{std::as_const(device_row).view(), sample, result.dprobabilities.view()});
  return result;
}

}  // namespace esft
