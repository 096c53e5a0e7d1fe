// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Balance losses of the router. Off unless a coefficient is given: with a frozen router they only disturb the experts below.

#include <esft/moe/router.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace esft {

/// Coefficients of the balance losses; 0 switches one off. With f_i = E / (C T) * (choices of i), P_i = mean over the tokens of s_i;
/// f is constant in the backward; no shared experts in E and K. Counted are the C = K experts that a token takes; of a router with a
/// capacity those that it would take if there were room (`routing::counted`), so that an overloaded expert does not pass for a full one.
struct balance_terms {
  double expert = 0;         ///< sum_i f_i P_i @source DeepSeekMoE, arXiv 2401.06066, equations 12-14
  double device = 0;         ///< sum_d (mean of f in group d) (sum of P in d) @source DeepSeekMoE, equations 15-17
  double communication = 0;  ///< sum_d D / (M T) (tokens sent to d) (sum of P in d) @source DeepSeek-V2, arXiv 2405.04434, equations 29-31
  double sequence = 0;       ///< mean over samples of sum_i f_i P_i, s divided by its sum @source DeepSeek-V3, 2412.19437, equations 17-20
  index groups = 1;          ///< D, devices: groups of neighbouring experts @pre divides E
  index sent_to = 1;         ///< M, devices that a token may be sent to
  std::vector<index> group_sizes{};  ///< experts of each device where they differ, in place of `groups` @pre each >= 1, their sum is E
  double switch_form = 0;    ///< E sum_i (choices of i / T) P_i, C times the expert loss @source Switch, arXiv 2101.03961, equations 4-6
  /// The same over the tokens of all layers together, once: a model's loss, not a layer's (`balance_across_layers.hpp`).
  double across_layers = 0;

  [[nodiscard]] bool any() const noexcept { return any_of_a_layer() || across_layers > 0; }
  [[nodiscard]] bool any_of_a_layer() const noexcept {
    return expert > 0 || device > 0 || communication > 0 || sequence > 0 || switch_form > 0;
  }
  /// Experts of each device. @pre as at the members
  [[nodiscard]] std::vector<index> devices(index experts) const {
    if (group_sizes.empty()) {
      ESFT_EXPECTS(groups >= 1 && experts % groups == 0, "devices hold the same number of experts, unless their sizes are given");
      return std::vector<index>(static_cast<std::size_t>(groups), experts / groups);
    }
    const bool positive = std::all_of(group_sizes.begin(), group_sizes.end(), [](index size) { return size >= 1; });
    ESFT_EXPECTS(positive && std::accumulate(group_sizes.begin(), group_sizes.end(), index{0}) == experts,
                 "each device holds an expert at least, and all hold every expert together");
    return group_sizes;
  }
};

/// Loss and its gradient with respect to the router's probabilities.
template <class Backend>
struct balance_gradient {
  double loss = 0;
  tensor_t<Backend, accum_t<Backend>, 2> dprobabilities;  ///< @shape [T, E]
};

namespace detail {

/// The elements of a tensor, in host memory.
template <class T, class Backend, class View>
[[nodiscard]] std::vector<T> values_of(Backend& backend, const View& view) {
  std::vector<T> host(static_cast<std::size_t>(view.size()));
  if (!host.empty()) backend.copy_out(view, std::span<T>(host));
  return host;
}

/// Experts of tokens in host memory, so many a token; `no_expert` where there is none.
struct host_choices {
  std::size_t each;
  std::vector<std::int32_t> ids;  ///< @shape [T, each]

  template <class Visit>
  void visit(std::size_t token, Visit&& visit) const {
    for (std::size_t k = token * each; k < (token + 1) * each; ++k) {
      if (ids[k] != no_expert) visit(static_cast<std::size_t>(ids[k]));
    }
  }
};
template <class Backend, class Ids>
[[nodiscard]] host_choices choices_of(Backend& backend, const Ids& ids) {
  return {static_cast<std::size_t>(ids.extent(1)), values_of<std::int32_t>(backend, ids.view())};
}
/// What load-balance losses count.
template <class Backend>
[[nodiscard]] host_choices counted_choices(Backend& backend, const routing<Backend>& decision) {
  return choices_of(backend, decision.counted.size() > 0 ? decision.counted : decision.ids);
}
template <class Backend>
[[nodiscard]] std::vector<double> affinities_of(Backend& backend, const routing<Backend>& decision) {
  const auto values = values_of<accum_t<Backend>>(backend, decision.probabilities.view());
  return {values.begin(), values.end()};
}
/// Calls `visit(token, sample)` for every token that is no padding; without samples all are of sample 0.
template <class Backend, class Visit>
void for_each_real_token(Backend& backend, index tokens, view_t<Backend, const std::int32_t, 1> sample, Visit&& visit) {
  const auto samples = values_of<std::int32_t>(backend, sample);
  for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
    const std::int32_t id = samples.empty() ? 0 : samples[t];
    if (id >= 0) visit(t, id);
  }
}

/// Decisions of T tokens in host memory, and the losses over some of them.
struct balance_sums {
  index experts;
  host_choices counted;
  host_choices served;
  std::vector<double> probabilities;  ///< @shape [T, E]
  std::vector<double> gradient;       ///< @shape [T, E]
  double loss = 0;

  /// Adds the terms of whole batches over `tokens`.
  void add_batch(const std::vector<std::size_t>& tokens, const balance_terms& terms) {
    const auto count = static_cast<std::size_t>(experts);
    const double real = static_cast<double>(tokens.size());
    const std::vector<index> devices = terms.devices(experts);
    const double alone = terms.expert + terms.switch_form * static_cast<double>(counted.each);
    std::vector<double> factor = frequencies(tokens);  // of P_i in the loss, at first f_i
    std::size_t begin = 0;
    for (const index size : devices) {
      const std::size_t end = begin + static_cast<std::size_t>(size);
      double mean = 0;
      for (std::size_t e = begin; e < end; ++e) mean += factor[e] / static_cast<double>(size);
      const double received = terms.communication > 0 ? static_cast<double>(sent(tokens, begin, end)) : 0;
      const double shared = terms.device * mean + terms.communication * received * static_cast<double>(devices.size()) /
                                                      (static_cast<double>(terms.sent_to) * real);
      for (std::size_t e = begin; e < end; ++e) factor[e] = alone * factor[e] + shared;
      begin = end;
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
    const double one = static_cast<double>(experts) / static_cast<double>(counted.each * tokens.size());
    for (const std::size_t t : tokens) counted.visit(t, [&](std::size_t id) { f[id] += one; });
    return f;
  }
  /// Tokens that an expert in [begin, end) serves.
  [[nodiscard]] std::size_t sent(const std::vector<std::size_t>& tokens, std::size_t begin, std::size_t end) const {
    std::size_t count = 0;
    for (const std::size_t t : tokens) {
      bool here = false;
      served.visit(t, [&](std::size_t id) { here = here || (id >= begin && id < end); });
      count += here ? 1 : 0;
    }
    return count;
  }
};

}  // namespace detail

/// The balance losses of one layer and their gradient. Computed on the host: the decision is copied out.
/// @param sample [T] -1 marks padding, which does not count; empty: every token counts, all of one sample
/// @param gradient_scale factor on the gradient alone (1 / number of micro-batches)
/// @param slope [E] added to every real token's gradient before that factor: of a loss that is not this layer's alone; empty: none
/// @pre `terms.devices(E)` exists; `terms.across_layers` is 0: one layer does not know it
template <backend Backend>
[[nodiscard]] balance_gradient<Backend> balance_loss(Backend& backend, const routing<Backend>& decision, const balance_terms& terms,
                                                     view_t<Backend, const std::int32_t, 1> sample, double gradient_scale = 1,
                                                     std::span<const double> slope = {}) {
  using A = accum_t<Backend>;
  ESFT_EXPECTS(terms.across_layers == 0, "the loss across layers is no single layer's: balance_across_layers sums it and gives its slope");
  const index experts = decision.probabilities.extent(1);
  ESFT_EXPECTS(slope.empty() || static_cast<index>(slope.size()) == experts, "the slope has one entry per expert");
  detail::balance_sums sums{experts,
                            detail::counted_choices(backend, decision),
                            terms.communication > 0 ? detail::choices_of(backend, decision.ids) : detail::host_choices{},
                            detail::affinities_of(backend, decision),
                            std::vector<double>(static_cast<std::size_t>(decision.probabilities.size()))};
  std::vector<std::size_t> real;
  std::map<std::int32_t, std::vector<std::size_t>> by_sample;
  detail::for_each_real_token(backend, decision.probabilities.extent(0), sample, [&](std::size_t t, std::int32_t id) {
    real.push_back(t);
    if (terms.sequence > 0) by_sample[id].push_back(t);
  });
  if (!real.empty()) sums.add_batch(real, terms);
  for (const auto& [id, tokens] : by_sample) sums.add_sample(tokens, terms.sequence / static_cast<double>(by_sample.size()));
  for (const std::size_t t : real) {
    for (std::size_t e = 0; e < slope.size(); ++e) sums.gradient[t * slope.size() + e] += slope[e];
  }
  balance_gradient<Backend> result{sums.loss, backend.template make_tensor<A>(decision.probabilities.shape())};
  std::vector<A> values(sums.gradient.size());
  std::transform(sums.gradient.begin(), sums.gradient.end(), values.begin(),
                 [&](double value) { return static_cast<A>(gradient_scale * value); });
  backend.copy_in(std::span<const A>(values), result.dprobabilities.view());
  return result;
}

/// How many real tokens chose each expert, whether or not it had room. @shape sample [T] as for `balance_loss`; result [E]
template <backend Backend>
[[nodiscard]] std::vector<std::int64_t> expert_load(Backend& backend, const routing<Backend>& decision,
                                                    view_t<Backend, const std::int32_t, 1> sample) {
  std::vector<std::int64_t> load(static_cast<std::size_t>(decision.probabilities.extent(1)));
  const detail::host_choices counted = detail::counted_choices(backend, decision);
  detail::for_each_real_token(backend, decision.probabilities.extent(0), sample,
                              [&](std::size_t t, std::int32_t) { counted.visit(t, [&](std::size_t id) { ++load[id]; }); });
  return load;
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
