// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Language-model head fused with cross-entropy, in chunks of tokens: the logits of a batch never exist all at once.

#include <esft/nn/weight.hpp>

#include <algorithm>

namespace esft {

/// Tokens per chunk of the head. A chunk's logits take `head_chunk * V` accumulate elements.
inline constexpr index head_chunk = 1024;

/// Sum of -log softmax(x head^T)[label] over labelled tokens. With `backward`, also dx (overwritten) and, if trained, the head's gradient,
/// both of `scale` times that sum. @shape x, dx [T, D], head value [V, D], labels [T]
template <transformer_backend Backend, class HeadWeight>
double head_loss(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x, HeadWeight& head,
                 view_t<Backend, const std::int32_t, 1> labels, double scale, view_t<Backend, value_t<Backend>, 2>* dx, bool backward) {
  double loss = 0;
  const index tokens = x.extent(0);
  auto logits = backend.template make_tensor<accum_t<Backend>>(extents<2>{std::min(head_chunk, tokens), head.value.extent(0)});
  for (index begin = 0; begin < tokens; begin += head_chunk) {
    const index end = std::min(tokens, begin + head_chunk);
    auto part = logits.view().slice(0, end - begin);
    backend.logits(x.slice(begin, end), head.value.view(), part);
    loss += backend.cross_entropy(part, labels.slice(begin, end), scale);
    if (!backward) continue;
    if (head.trained()) backend.logits_dw(part, x.slice(begin, end), head.gradient.view());
    if (dx != nullptr) backend.logits_dx(part, head.value.view(), dx->slice(begin, end), write_mode::overwrite);
  }
  return loss;
}

}  // namespace esft
