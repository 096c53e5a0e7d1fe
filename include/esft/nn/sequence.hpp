// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `sequence_context`: where each token of a flattened batch stands, in the backend's memory.

#include <esft/backend/backend.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/nn/rotary.hpp>

#include <vector>

namespace esft {

/// Positions and attention ranges of T tokens. Token t sees the keys [key_begin[t], key_end[t]).
template <class Backend>
struct sequence_context {
  tensor_t<Backend, std::int32_t, 1> positions;  ///< @shape [T]
  tensor_t<Backend, std::int32_t, 1> key_begin;  ///< @shape [T]
  tensor_t<Backend, std::int32_t, 1> key_end;    ///< @shape [T]
  rotary_table<Backend> rotary{};                ///< for models that do not rotate as the backend's `rope` does
};

/// Copies host integers into the backend's memory.
template <backend Backend>
[[nodiscard]] auto upload(Backend& backend, const std::vector<std::int32_t>& host) {
  auto result = backend.template make_tensor<std::int32_t>(extents<1>{static_cast<index>(host.size())});
  backend.copy_in(std::span<const std::int32_t>(host), result.view());
  return result;
}

/// Causal attention inside each document of a packed batch.
template <backend Backend>
[[nodiscard]] sequence_context<Backend> causal_context(Backend& backend, const token_batch& batch) {
  std::vector<std::int32_t> key_end(batch.tokens.size());
  for (std::size_t t = 0; t < key_end.size(); ++t) key_end[t] = static_cast<std::int32_t>(t) + 1;
  return {upload(backend, batch.position), upload(backend, batch.key_begin), upload(backend, key_end)};
}

/// A packed batch in the backend's memory: all that a pass over it reads.
template <class Backend>
struct placed_batch {
  sequence_context<Backend> context;
  tensor_t<Backend, std::int32_t, 1> tokens, labels, sample;  ///< @shape [T]
  std::int64_t labelled = 0;
};

/// Another batch of the same size where this one lies, for recorded passes. @pre equally many tokens
template <backend Backend>
void replace(Backend& backend, const placed_batch<Backend>& from, placed_batch<Backend>& to) {
  backend.copy(from.context.positions.view(), to.context.positions.view());
  backend.copy(from.context.key_begin.view(), to.context.key_begin.view());
  backend.copy(from.context.key_end.view(), to.context.key_end.view());
  backend.copy(from.context.rotary.cosine.view(), to.context.rotary.cosine.view());
  backend.copy(from.context.rotary.sine.view(), to.context.rotary.sine.view());
  backend.copy(from.tokens.view(), to.tokens.view());
  backend.copy(from.labels.view(), to.labels.view());
  backend.copy(from.sample.view(), to.sample.view());
  to.labelled = from.labelled;
}

}  // namespace esft
