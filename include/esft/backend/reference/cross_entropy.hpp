// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Plain-loop softmax cross-entropy, in place: logits become their gradient, so [T, V] is never stored twice.

#include <esft/backend/backend.hpp>
#include <esft/core/token_batch.hpp>

#include <algorithm>
#include <cmath>

namespace esft::reference {

/// Returns sum over labelled rows of -log softmax(logits)[label]; logits become scale * (softmax - onehot), 0 for ignored rows.
/// @shape logits [T, V], labels [T] in [0, V) or `ignored_label`
template <class A>
double cross_entropy(host_view<A, 2> logits, host_view<const std::int32_t, 1> labels, double scale) {
  double loss = 0;
  const index vocabulary = logits.extent(1);
  ESFT_EXPECTS(labels.size() == logits.extent(0), "logits [T,V], labels [T]");
  for (index t = 0; t < logits.extent(0); ++t) {
    if (labels[t] == ignored_label) {
      for (index v = 0; v < vocabulary; ++v) logits(t, v) = A{};
      continue;
    }
    ESFT_EXPECTS(labels[t] >= 0 && labels[t] < vocabulary, "a label lies in [0, V)");
    A peak = logits(t, 0);
    for (index v = 1; v < vocabulary; ++v) peak = std::max(peak, logits(t, v));
    A total{};
    for (index v = 0; v < vocabulary; ++v) total += std::exp(logits(t, v) - peak);
    const A lse = peak + std::log(total);
    loss += static_cast<double>(lse - logits(t, labels[t]));
    for (index v = 0; v < vocabulary; ++v) {
      const A onehot = v == labels[t] ? A(1) : A(0);
      logits(t, v) = static_cast<A>(scale) * (std::exp(logits(t, v) - lse) - onehot);
    }
  }
  return loss;
}

}  // namespace esft::reference
