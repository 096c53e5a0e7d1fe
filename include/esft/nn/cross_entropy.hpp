// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Language-model head fused with cross-entropy, in chunks of tokens: the logits of a batch never exist all at once.

#include <esft/backend/unattended.hpp>
#include <esft/nn/low_rank.hpp>

#include <algorithm>

namespace esft {

/// Tokens per chunk of the head. A chunk's logits take `head_chunk * V` accumulate elements.
inline constexpr index head_chunk = 1024;

/// Factors beside the head; null for most.
template <class Backend>
using head_factors = low_rank_pair<Backend, 2>;

/// Sum of -log softmax(x head^T)[label] over labelled tokens, without any gradient. @shape x [T, D], head [V, D], labels [T]
template <transformer_backend Backend>
[[nodiscard]] double head_loss(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x,
                               matrix_t<Backend, const value_t<Backend>, 2> head, view_t<Backend, const std::int32_t, 1> labels,
                               const head_factors<Backend>* factors = nullptr) {
  double loss = 0;
  auto logits = backend.template make_tensor<accum_t<Backend>>(extents<2>{std::min(head_chunk, x.extent(0)), head.extent(0)});
  for (index begin = 0; begin < x.extent(0); begin += head_chunk) {
    const index end = std::min(x.extent(0), begin + head_chunk);
    const auto part = logits.view().slice(0, end - begin);
    backend.logits(x.slice(begin, end), head, part);
    if (factors != nullptr) low_rank_logits<Backend>(backend, x.slice(begin, end), *factors, part, begin);
    loss += backend.cross_entropy(part, labels.slice(begin, end), 1.0);
  }
  return loss;
}

/// The same sum, and the gradients of `scale` times it: dx is overwritten unless null, dhead is added to unless empty (frozen),
/// and so are the gradients of the factors. With `numbers`, which only a backend with unattended steps has, the sum is added there, the
/// scale is the one that lies there, and 0 is returned.
/// @shape x, dx [T, D], head, dhead [V, D], labels [T]
template <transformer_backend Backend>
[[nodiscard]] double head_loss_backward(Backend& backend, view_t<Backend, const value_t<Backend>, 2> x,
                                        matrix_t<Backend, const value_t<Backend>, 2> head, view_t<Backend, const std::int32_t, 1> labels,
                                        double scale, view_t<Backend, value_t<Backend>, 2>* dx,
                                        matrix_t<Backend, accum_t<Backend>, 2> dhead, head_factors<Backend>* factors = nullptr,
                                        [[maybe_unused]] view_t<Backend, double, 1> numbers = {}) {
  double loss = 0;
  auto logits = backend.template make_tensor<accum_t<Backend>>(extents<2>{std::min(head_chunk, x.extent(0)), head.extent(0)});
  for (index begin = 0; begin < x.extent(0); begin += head_chunk) {
    const index end = std::min(x.extent(0), begin + head_chunk);
    const auto part = logits.view().slice(0, end - begin);
    backend.logits(x.slice(begin, end), head, part);
    if (factors != nullptr) low_rank_logits<Backend>(backend, x.slice(begin, end), *factors, part, begin);
    bool stays = false;
    if constexpr (has_unattended_steps<Backend>) {
      stays = numbers.size() > 0;
      if (stays) backend.cross_entropy(part, labels.slice(begin, end), numbers);
    }
    if (!stays) loss += backend.cross_entropy(part, labels.slice(begin, end), scale);
    if (dhead.size() > 0) backend.logits_dw(part, x.slice(begin, end), dhead);
    view_t<Backend, value_t<Backend>, 2> dx_part;
    if (dx != nullptr) backend.logits_dx(part, head, dx_part = dx->slice(begin, end), write_mode::overwrite);
    if (factors != nullptr) {
      low_rank_logits_backward<Backend>(backend, part, x.slice(begin, end), *factors, dx != nullptr ? &dx_part : nullptr, begin);
    }
  }
  return loss;
}

}  // namespace esft
