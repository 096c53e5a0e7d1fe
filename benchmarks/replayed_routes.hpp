// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Routes that send the tokens of a layer where a case says, forced on a router that does all its work.

#include "shapes.hpp"

#include <esft/moe/placed_routes.hpp>

#include <span>

namespace esft::bench {

/// @shape ids [T, K] of the case
template <class Backend>
placed_routes<Backend> replayed_routes(Backend& backend, const bench_case& c, std::span<const std::int32_t> ids) {
  const layer_routes routes{static_cast<int>(c.shape->active), {ids.begin(), ids.end()}};
  return {backend, routes, layer_index{0}, extents<2>{c.tokens, c.shape->active}, c.shape->experts};
}

}  // namespace esft::bench
