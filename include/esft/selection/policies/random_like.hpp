// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `random_like`: as many experts per layer as another selection has, drawn at random.

#include <esft/core/rng.hpp>
#include <esft/selection/like_check.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/score_check.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
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
  static constexpr bool compares_p = false;
  static constexpr std::array<std::string_view, 3> takes{"like", "seed", "draw"};

  explicit random_like(random_like_options options = {}) : options_(std::move(options)) {}
  [[nodiscard]] static random_like from(const policy_arguments& given) {
    return random_like({required_like(given, name), given.seed, given.draw});
  }

  /// @throws error (bad_input) for a broken table; usage_error if `like` is of another model
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    check_like(name, options_.like, table);
    expert_set selected;
    for (const auto& [which, layer] : table.layers) {
      std::vector<expert_index> ids;
      for (std::size_t e = 0; e < layer.scores.size(); ++e) ids.emplace_back(static_cast<std::int32_t>(e));
      shuffle(ids, counter_rng(options_.seed, rng_stream::random_policy,
                               (std::uint64_t{options_.draw} << 32U) | static_cast<std::uint32_t>(which.value)));
      ids.resize(options_.like.layers.at(which).size());
      selected.layers[which] = std::move(ids);
    }
    return selected;
  }

 private:
  random_like_options options_;
};

}  // namespace esft
