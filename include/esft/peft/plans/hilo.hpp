// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// HiLo: low-rank experts with a router of their own beside each linear map, their number, rank and active count set layer by layer.

#include <esft/peft/low_rank_layers.hpp>
#include <esft/peft/plan.hpp>

namespace esft {

/// Trains N_l pairs of factors of rank r_l and a router beside each target matrix of layer l; a token uses k_l of them. The model itself is
/// frozen. A layer with one pair has no router: there it is `lora_plan`, bit for bit, and can be merged.
/// MoLA is this plan with one rank; AdaMoE adds null experts. Matrices of routed experts, their router and the head are no targets.
/// @source HiLo, arXiv 2502.03884; MoLA, arXiv 2402.08562; AdaMoE, arXiv 2406.13233
/// @deviation gate and up are one matrix with one router, and each pair has one A for both; the sources have two of each
struct hilo_plan {
  static constexpr std::string_view name = "hilo";

  low_rank_options how{};            ///< its rank is not used: ranks are given by layer
  layer_pattern low_rank_experts{4};  ///< N, bottom to top; the paper's own is 2, 4, 6, 8
  layer_pattern ranks{8};             ///< r
  layer_pattern active{2};            ///< k, null experts counted; without meaning in a layer without a router
  int null_experts = 0;               ///< M of each router (AdaMoE)
  double balance = 0;                 ///< coefficient of each router's balance loss
  std::set<parameter_role> targets{};  ///< empty: attention, dense and shared feed-forward

  /// @throws usage_error when a pattern does not suit the model, a target cannot have low-rank experts or matches nothing, or an option is
  /// out of range
  [[nodiscard]] trainable_set trainable(const parameter_inventory& model) const {
    expect_low_rank_options(how);
    if (null_experts < 0) throw usage_error("the number of null experts is not negative");
    if (!(balance >= 0)) throw usage_error("the coefficient of a balance loss is not negative");
    for (const parameter_role role : targets) {
      if (!takes_low_rank_experts(role))
        throw usage_error("no low-rank experts stand beside '" + low_rank_name_of(role) +
                          "': what is routed already, the router and the head take plain factors, those of the plan lora");
    }
    const std::size_t layers = layer_count(model);
    const layer_pattern n = spread(low_rank_experts, layers);
    const layer_pattern r = spread(ranks, layers);
    const layer_pattern k = spread(active, layers);
    for (std::size_t l = 0; l < layers; ++l) expect_layer(l, n[l], r[l], k[l]);
    std::set<parameter_role> unmatched = targets_to_match(targets);
    trainable_set result;
    for (const parameter_entry& entry : model) {
      const bool wanted = targets.empty() ? takes_low_rank_experts(entry.key.role) : targets.contains(entry.key.role);
      if (!wanted) continue;
      unmatched.erase(entry.key.role);
      const auto l = static_cast<std::size_t>(entry.key.layer.value);
      low_rank_target target{how, {}, {}};
      target.how.rank = r[l];
      if (n[l] > 1) target.mixture = {static_cast<int>(n[l]), static_cast<int>(k[l]), null_experts, balance};
      result.low_rank.emplace(entry.key, std::move(target));
    }
    expect_matched(unmatched);
    return result;
  }

 private:
  void expect_layer(std::size_t layer, std::int64_t n, std::int64_t r, std::int64_t k) const {
    const std::string where = "layer " + std::to_string(layer) + ": ";
    if (n < 1 || r < 1 || k < 1) throw usage_error(where + "numbers, ranks and active counts of low-rank experts are at least 1");
    if (n == 1) return;
    if (k > n + null_experts) {
      throw usage_error(where + std::to_string(k) + " active low-rank experts of " + std::to_string(n) +
                        (null_experts > 0 ? " and " + std::to_string(null_experts) + " null experts" : "") + " are too many");
    }
    if (null_experts > 0 && k < 2)
      throw usage_error(where + "null experts need at least 2 active choices: the gate of a lone one is 1 whatever the router says");
  }
};

}  // namespace esft
