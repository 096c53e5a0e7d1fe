// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `random_like`: as many experts per layer as another selection has, drawn at random.

#include <esft/core/error.hpp>
#include <esft/core/rng.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/score_check.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Options of `random_like`.
struct random_like_options {
  expert_set like;         ///< how many experts each layer gets
  std::uint64_t seed = 0;
  std::uint32_t draw = 0;  ///< number of the draw: an experiment needs several, independent of each other
};

/// The control that shows whether a relevance score matters: equal budget per layer, no knowledge of the task.
/// A pure function of (sizes, seed, draw, layer); scores only tell how many experts a layer has.
class random_like {
 public:
  static constexpr std::string_view name = "random";

  explicit random_like(random_like_options options = {}) : options_(std::move(options)) {}

  /// @throws error (bad_input) for a broken table; usage_error if `like` names other layers or more experts than there are
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    for (const auto& [index, experts] : options_.like.layers) {
      if (!table.layers.contains(index)) throw usage_error(where(index) + "the selection to imitate names it, the scores do not");
    }
    expert_set selected;
    for (const auto& [index, layer] : table.layers) {
      const auto found = options_.like.layers.find(index);
      if (found == options_.like.layers.end()) throw usage_error(where(index) + "the scores name it, the selection to imitate does not");
      if (found->second.size() > layer.scores.size())
        throw usage_error(where(index) + "the selection to imitate has more experts than the layer");
      std::vector<expert_index> ids;
      for (std::size_t e = 0; e < layer.scores.size(); ++e) ids.emplace_back(static_cast<std::int32_t>(e));
      shuffle(ids, counter_rng(options_.seed, rng_stream::random_policy,
                               (std::uint64_t{options_.draw} << 32U) | static_cast<std::uint32_t>(index.value)));
      ids.resize(found->second.size());
      selected.layers[index] = std::move(ids);
    }
    return selected;
  }

 private:
  static std::string where(layer_index index) { return "random: layer " + std::to_string(index.value) + ": "; }

  random_like_options options_;
};

}  // namespace esft
