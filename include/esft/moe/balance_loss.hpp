// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Balance losses of the router. Off unless a coefficient is given: with a frozen router they only disturb the experts below.

#include <esft/moe/router.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace esft {

/// Coefficients of the balance losses; 0 switches one off. With f_i = E / (K T) * (slots that chose i), P_i = mean over the tokens of s_i;
/// f is constant in the backward; no shared experts in E and K.
/// The form of Switch and of transformers, E sum_i (slots that chose i / T) P_i, is K times the expert loss: give K times its coefficient.
struct balance_terms {
  double expert = 0;         ///< sum_i f_i P_i @source DeepSeekMoE, arXiv 2401.06066, equations 12-14
  double device = 0;         ///< sum_d (mean of f in group d) (sum of P in d) @source DeepSeekMoE, equations 15-17
  double communication = 0;  ///< sum_d D / (M T) (tokens sent to d) (sum of P in d) @source DeepSeek-V2, arXiv 2405.04434, equations 29-31
  double sequence = 0;       ///< mean over samples of sum_i f_i P_i, s divided by its sum @source DeepSeek-V3, 2412.19437, equations 17-20
  index groups = 1;          ///< D, devices: groups of neighbouring experts @pre divides E
  index sent_to = 1;         ///< M, devices that a token may be sent to

  [[nodiscard]] bool any() const noexcept { return expert > 0 || device > 0 || communication > 0 || sequence > 0; }
};

/// Loss and its gradient with respect to the router's probabilities.
template <class Backend>
struct balance_gradient {
  double loss = 0;
  tensor_t<Backend, accum_t<Backend>, 2> dprobabilities;  ///< @shape [T, E]
};

namespace detail {

/// Decisions of T tokens in host memory, and the losses over some of them.
struct balance_sums {
  index active;
  index experts;
  std::vector<std::int32_t> ids;      ///< @shape [T, K]
  std::vector<double> probabilities;  ///< @shape [T, E]
  std::vector<double> gradient;       ///< @shape [T, E]
  double loss = 0;

  /// Adds the terms of whole batches over `tokens`.
  void add_batch(const std::vector<std::size_t>& tokens, const balance_terms& terms) {
    const auto count = static_cast<std::size_t>(experts);
    const std::size_t size = count / static_cast<std::size_t>(terms.groups);
    const double real = static_cast<double>(tokens.size());
    std::vector<double> factor = frequencies(tokens);  // of P_i in the loss, at first f_i
    for (std::size_t g = 0; g < count; g += size) {
      double mean = 0;
      for (std::size_t e = g; e < g + size; ++e) mean += factor[e] / static_cast<double>(size);
      const double received = terms.communication > 0 ? static_cast<double>(sent(tokens, g, g + size)) : 0;
      const double shared = terms.device * mean + terms.communication * received * static_cast<double>(terms.groups) /
                                                      (static_cast<double>(terms.sent_to) * real);
      for (std::size_t e = g; e < g + size; ++e) factor[e] = terms.expert * factor[e] + shared;
    }
    for (const std::size_t t : tokens) {
      for (std::size_t e = 0; e < count; ++e) {
        loss += factor[e] * probabilities[t * count + e] / real;
        gradient[t * count + e] += factor[e] / real;
      }
    }
  }

  /// Adds `share` times the sequence-wise loss of one sample.
  /// @eq s' = s / Z, Z = sum_j s_j; d/ds_j = share / T (f_j - sum_i f_i s'_i) / Z
  void add_sample(const std::vector<std::size_t>& tokens, double share) {
    const auto count = static_cast<std::size_t>(experts);
    const std::vector<double> f = frequencies(tokens);
    for (const std::size_t t : tokens) {
      const double* s = probabilities.data() + t * count;
      double sum = 0;
      double weighted = 0;
      for (std::size_t e = 0; e < count; ++e) sum += s[e];
      for (std::size_t e = 0; e < count; ++e) weighted += f[e] * s[e] / sum;
      const double part = share / static_cast<double>(tokens.size());
      loss += part * weighted;
      for (std::size_t e = 0; e < count; ++e) gradient[t * count + e] += part * (f[e] - weighted) / sum;
    }
  }

 private:
  [[nodiscard]] std::vector<double> frequencies(const std::vector<std::size_t>& tokens) const {
    std::vector<double> f(static_cast<std::size_t>(experts));
    const double one = static_cast<double>(experts) / (static_cast<double>(active) * static_cast<double>(tokens.size()));
    for_each_slot(tokens, [&](std::size_t, std::size_t id) { f[id] += one; });
    return f;
  }
  /// Tokens with an expert in [begin, end).
  [[nodiscard]] std::size_t sent(const std::vector<std::size_t>& tokens, std::size_t begin, std::size_t end) const {
    std::size_t count = 0;
    std::size_t last = static_cast<std::size_t>(-1);
    for_each_slot(tokens, [&](std::size_t t, std::size_t id) {
      if (id < begin || id >= end || t == last) return;
      last = t;
      ++count;
    });
    return count;
  }
  template <class Visit>
  void for_each_slot(const std::vector<std::size_t>& tokens, Visit&& visit) const {
    for (const std::size_t t : tokens) {
      for (std::size_t k = 0; k < static_cast<std::size_t>(active); ++k) {
        const std::int32_t id = ids[t * static_cast<std::size_t>(active) + k];
        if (id != no_expert) visit(t, static_cast<std::size_t>(id));
      }
    }
  }
};

}  // namespace detail

/// The balance losses of one layer and their gradient. Computed on the host: the decision is copied out.
/// @param sample [T] -1 marks padding, which does not count; empty: every token counts, all of one sample
/// @param gradient_scale factor on the gradient alone (1 / number of micro-batches)
/// @pre `terms.groups` divides E
template <backend Backend>
[[nodiscard]] balance_gradient<Backend> balance_loss(Backend& backend, const routing<Backend>& decision, const balance_terms& terms,
                                                     view_t<Backend, const std::int32_t, 1> sample, double gradient_scale = 1) {
  const auto size = static_cast<std::size_t>(decision.probabilities.size());
  ESFT_EXPECTS(terms.groups >= 1 && decision.probabilities.extent(1) % terms.groups == 0, "devices hold the same number of experts");
  detail::balance_sums sums{decision.ids.extent(1), decision.probabilities.extent(1),
                            std::vector<std::int32_t>(static_cast<std::size_t>(decision.ids.size())), std::vector<double>(size),
                            std::vector<double>(size)};
  std::vector<accum_t<Backend>> values(size);
  std::vector<std::int32_t> samples(static_cast<std::size_t>(sample.size()));
  backend.copy_out(decision.ids.view(), std::span<std::int32_t>(sums.ids));
  backend.copy_out(decision.probabilities.view(), std::span<accum_t<Backend>>(values));
  if (!samples.empty()) backend.copy_out(sample, std::span<std::int32_t>(samples));
  std::copy(values.begin(), values.end(), sums.probabilities.begin());

  std::vector<std::size_t> real;
  std::map<std::int32_t, std::vector<std::size_t>> by_sample;
  for (std::size_t t = 0; t < static_cast<std::size_t>(decision.ids.extent(0)); ++t) {
    const std::int32_t id = samples.empty() ? 0 : samples[t];
    if (id < 0) continue;
    real.push_back(t);
    if (terms.sequence > 0) by_sample[id].push_back(t);
  }
  if (!real.empty()) sums.add_batch(real, terms);
  for (const auto& [id, tokens] : by_sample) sums.add_sample(tokens, terms.sequence / static_cast<double>(by_sample.size()));
  balance_gradient<Backend> result{sums.loss, backend.template make_tensor<accum_t<Backend>>(decision.probabilities.shape())};
  std::transform(sums.gradient.begin(), sums.gradient.end(), values.begin(),
                 [&](double value) { return static_cast<accum_t<Backend>>(gradient_scale * value); });
  backend.copy_in(std::span<const accum_t<Backend>>(values), result.dprobabilities.view());
  return result;
}

namespace detail {
template <class Backend>
struct z_loss_row {
  view_t<Backend, const accum_t<Backend>, 2> logits;
  view_t<Backend, const std::int32_t, 1> sample;
  accum_t<Backend> factor;
  view_t<Backend, accum_t<Backend>, 2> dlogits;
  view_t<Backend, accum_t<Backend>, 1> square;
  ESFT_HOST_DEVICE void operator()(index t) const {
    using A = accum_t<Backend>;
    square[t] = A{};
    if (sample.size() > 0 && sample[t] < 0) return;
    const A* z = &logits(t, 0);
    A peak = z[0];
    for (index e = 1; e < logits.extent(1); ++e) peak = z[e] > peak ? z[e] : peak;
    A total{};
    for (index e = 0; e < logits.extent(1); ++e) total += std::exp(z[e] - peak);
    const A lse = peak + std::log(total);
    square[t] = lse * lse;
    for (index e = 0; e < logits.extent(1); ++e) dlogits(t, e) += factor * 2 * lse * std::exp(z[e] - lse);
  }
};
}  // namespace detail

/// Keeps logits small: coefficient * mean over the real tokens of logsumexp(z)^2. Adds its gradient to dlogits and returns the loss.
/// @source ST-MoE, arXiv 2202.08906, equation 5 @shape logits, dlogits [T, E], sample [T] as for `balance_loss`
template <backend Backend>
double z_loss(Backend& backend, view_t<Backend, const accum_t<Backend>, 2> logits, double coefficient,
              view_t<Backend, const std::int32_t, 1> sample, double gradient_scale, view_t<Backend, accum_t<Backend>, 2> dlogits) {
  using A = accum_t<Backend>;
  std::vector<std::int32_t> samples(static_cast<std::size_t>(sample.size()));
  if (!samples.empty()) backend.copy_out(sample, std::span<std::int32_t>(samples));
  const auto padding = std::count_if(samples.begin(), samples.end(), [](std::int32_t id) { return id < 0; });
  const double real = static_cast<double>(logits.extent(0) - padding);
  if (real == 0) return 0;
  auto square = backend.template make_tensor<A>(extents<1>{logits.extent(0)});
  const auto factor = static_cast<A>(gradient_scale * coefficient / real);
  backend.for_each(logits.extent(0), detail::z_loss_row<Backend>{logits, sample, factor, dlogits, square.view()});
  std::vector<A> host(static_cast<std::size_t>(square.size()));
  backend.copy_out(std::as_const(square).view(), std::span<A>(host));
  double sum = 0;
  for (const A value : host) sum += static_cast<double>(value);
  return coefficient * sum / real;
}

}  // namespace esft
