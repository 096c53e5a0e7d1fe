// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `placed_batch`: a packed batch in the backend's memory, with the routes that are forced on it.

#include <esft/core/token_batch.hpp>
#include <esft/moe/placed_routes.hpp>
#include <esft/nn/sequence.hpp>

#include <cstddef>
#include <cstdint>
#include <map>

namespace esft {

/// A packed batch in the backend's memory: all that a pass over it reads.
template <class Backend>
struct placed_batch {
  sequence_context<Backend> context;
  tensor_t<Backend, std::int32_t, 1> tokens, labels, sample;  ///< @shape [T]
  std::int64_t labelled = 0;
  std::map<layer_index, placed_routes<Backend>> routes{};  ///< checked against the model

  /// Null where the layer's router chooses.
  [[nodiscard]] const placed_routes<Backend>* forced_at(std::size_t layer) const {
    const auto found = routes.find(layer_index(static_cast<std::int32_t>(layer)));
    return found == routes.end() ? nullptr : &found->second;
  }
};

/// Whether `batch` can take the place of the one that lies there: as many tokens, and the same layers forced in the same way.
template <class Backend>
[[nodiscard]] bool same_form(const token_batch& batch, const placed_batch<Backend>& there) {
  if (there.tokens.size() != static_cast<index>(batch.tokens.size()) || there.routes.size() != batch.routes.size()) return false;
  for (const auto& [layer, routes] : batch.routes) {
    const auto found = there.routes.find(layer);
    if (found == there.routes.end() || found->second.weighed() == routes.weights.empty()) return false;
  }
  return true;
}

/// Another batch of the same form where this one lies, for recorded passes. @pre `same_form`
template <backend Backend>
void replace(Backend& backend, const placed_batch<Backend>& from, placed_batch<Backend>& to) {
  const sequence_context<Backend>& a = from.context;
  sequence_context<Backend>& b = to.context;
  backend.copy(a.positions.view(), b.positions.view());
  backend.copy(a.key_begin.view(), b.key_begin.view());
  backend.copy(a.key_end.view(), b.key_end.view());
  backend.copy(a.rotary.cosine.view(), b.rotary.cosine.view());
  backend.copy(a.rotary.sine.view(), b.rotary.sine.view());
  backend.copy(a.windowed_begin.view(), b.windowed_begin.view());
  backend.copy(from.tokens.view(), to.tokens.view());
  backend.copy(from.labels.view(), to.labels.view());
  backend.copy(from.sample.view(), to.sample.view());
  to.labelled = from.labelled;
  for (const auto& [layer, routes] : from.routes) to.routes.at(layer).take(backend, routes);
}

}  // namespace esft
