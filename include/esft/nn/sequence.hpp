// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `sequence_context`: where each token of a flattened batch stands, in the backend's memory.

#include <esft/backend/backend.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/nn/rotary.hpp>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace esft {

/// Positions and attention ranges of T tokens. Token t sees the keys [key_begin[t], key_end[t]).
template <class Backend>
struct sequence_context {
  tensor_t<Backend, std::int32_t, 1> positions;  ///< @shape [T]
  tensor_t<Backend, std::int32_t, 1> key_begin;  ///< @shape [T]
  tensor_t<Backend, std::int32_t, 1> key_end;    ///< @shape [T]
  rotary_table<Backend> rotary{};                ///< for models that do not rotate as the backend's `rope` does
  tensor_t<Backend, std::int32_t, 1> windowed_begin{};  ///< @shape [T] in place of key_begin for layers with a window; empty where none has
};

/// What one layer reads of a context, which must outlive it: layers that look back over different distances share all but one list.
template <class Backend>
struct sequence_view {
  using integers = view_t<Backend, const std::int32_t, 1>;
  integers positions, key_begin, key_end;  ///< @shape [T]
  const rotary_table<Backend>* rotary;

  sequence_view(const sequence_context<Backend>& context)  // NOLINT(google-explicit-constructor): a layer reads all of it
      : sequence_view(context, false) {}
  /// @pre not `windowed`, or the context has `windowed_begin`
  sequence_view(const sequence_context<Backend>& context, bool windowed)
      : positions(context.positions.view()),
        key_begin((windowed ? context.windowed_begin : context.key_begin).view()),
        key_end(context.key_end.view()),
        rotary(&context.rotary) {}
};
/// The parameter type of functions that take a context for one of its views: their backend is deduced elsewhere.
template <class Backend>
using context_view = std::type_identity_t<sequence_view<Backend>>;

/// Copies host integers into the backend's memory.
template <backend Backend>
[[nodiscard]] auto upload(Backend& backend, const std::vector<std::int32_t>& host) {
  auto result = backend.template make_tensor<std::int32_t>(extents<1>{static_cast<index>(host.size())});
  backend.copy_in(std::span<const std::int32_t>(host), result.view());
  return result;
}

/// Where the keys of each token of a packed batch end: behind itself.
[[nodiscard]] inline std::vector<std::int32_t> causal_key_end(const token_batch& batch) {
  std::vector<std::int32_t> key_end(batch.tokens.size());
  for (std::size_t t = 0; t < key_end.size(); ++t) key_end[t] = static_cast<std::int32_t>(t) + 1;
  return key_end;
}

/// Causal attention inside each document of a packed batch.
template <backend Backend>
[[nodiscard]] sequence_context<Backend> causal_context(Backend& backend, const token_batch& batch) {
  return {upload(backend, batch.position), upload(backend, batch.key_begin), upload(backend, causal_key_end(batch))};
}

/// Key ranges that begin at most `window` keys back: token t, whose range ends at key_end[t], sees the last `window` of its keys.
/// @pre window >= 1
[[nodiscard]] inline std::vector<std::int32_t> window_begin(const std::vector<std::int32_t>& key_begin,
                                                           const std::vector<std::int32_t>& key_end, index window) {
  ESFT_EXPECTS(window >= 1, "a token sees at least itself");
  std::vector<std::int32_t> result(key_begin.size());
  for (std::size_t t = 0; t < result.size(); ++t) {
    const auto earliest = static_cast<std::int32_t>(std::max<index>(0, key_end[t] - window));
    result[t] = std::max(key_begin[t], earliest);
  }
  return result;
}

}  // namespace esft
