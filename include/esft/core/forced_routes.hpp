// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `forced_routes`: experts that tokens must take, by layer, and `route_recorder`, which makes them of what a pass or a log shows.

#include <esft/core/contract.hpp>
#include <esft/core/routing_record.hpp>

#include <cstdint>
#include <map>
#include <vector>

namespace esft {

/// Experts that the T tokens of one layer must take, whatever its router would choose. A row for every token, padding included.
struct layer_routes {
  int active = 0;                 ///< K, routed experts per token
  std::vector<std::int32_t> ids;  ///< @shape [T, K], distinct values in [0, E) per row, or `no_expert`
  /// @shape [T, K], factors on the experts' outputs, constants of which no router learns; those of empty slots are ignored. Empty: the
  /// layer's router computes the factors from its own affinities, as if it had chosen these experts itself
  std::vector<float> weights{};
};

/// Layers without an entry are routed by their routers.
using forced_routes = std::map<layer_index, layer_routes>;

/// Appends every record that it is shown to `routes`: an observer of forward passes, a visitor of routing logs (which have no rows for
/// padding). Weights are kept on request only.
struct route_recorder {
  forced_routes& routes;
  bool with_weights = false;

  /// @pre all records of a layer have the same number of active experts
  void operator()(const routing_record& record) const {
    layer_routes& layer = routes.try_emplace(record.layer, layer_routes{record.active, {}}).first->second;
    ESFT_EXPECTS(layer.active == record.active, "all tokens of a layer take the same number of experts");
    layer.ids.insert(layer.ids.end(), record.ids.begin(), record.ids.end());
    if (with_weights) layer.weights.insert(layer.weights.end(), record.weights.begin(), record.weights.end());
  }
};

}  // namespace esft
