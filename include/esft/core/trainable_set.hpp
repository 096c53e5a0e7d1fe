// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `trainable_set`: what a plan decided to train. Everything it does not name is frozen.

#include <esft/core/low_rank.hpp>
#include <esft/core/strong_index.hpp>

#include <algorithm>
#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

namespace esft {

/// What a parameter does in the model. `expert_*` are stacked over the routed experts of a layer.
enum class parameter_role : std::uint8_t {
  embedding, head, final_norm,
  attention_norm, query, key, value, attention_output, query_norm, key_norm,
  mlp_norm, dense_gate_up, dense_down,
  router, shared_gate_up, shared_down,
  expert_gate_up, expert_down,
  low_rank_a, low_rank_b,  ///< factors beside any of the matrices; their keys name the matrix
  // The numbers seed random streams: new roles come last.
  choice_bias,                                                     ///< of a router's choice; moves by its load where it is named
  query_a, query_a_norm, key_value_a, key_value_a_norm, key_value_b,  ///< latent attention; its `query` reads the latent of `query_a`
  query_bias, key_bias, value_bias, shared_gate,
  low_rank_router,  ///< chooses among several pairs of factors beside one matrix; its key names the matrix
  attention_output_bias, attention_sink, router_bias,
  expert_gate_up_bias, expert_down_bias,  ///< belong to an expert as its matrices do
};

/// Whether a parameter is added to something: zero where training begins, and without weight decay.
[[nodiscard]] constexpr bool is_bias(parameter_role role) {
  switch (role) {
    case parameter_role::query_bias:
    case parameter_role::key_bias:
    case parameter_role::value_bias:
    case parameter_role::attention_output_bias:
    case parameter_role::attention_sink:
    case parameter_role::router_bias:
    case parameter_role::expert_gate_up_bias:
    case parameter_role::expert_down_bias: return true;
    default: return false;
  }
}

/// Which tensor beside a matrix is meant: the matrix itself, one of its low-rank factors, or the router among several pairs of them.
enum class low_rank_factor : std::uint8_t { none, a, b, router };

/// Identity of a parameter, independent of how checkpoints name it. Model-wide parameters have layer -1.
struct parameter_key {
  parameter_role role{};
  layer_index layer{-1};
  low_rank_factor factor = low_rank_factor::none;
  friend constexpr auto operator<=>(const parameter_key&, const parameter_key&) = default;
};

/// One parameter of a model, as a plan sees it.
struct parameter_entry {
  parameter_key key;
  std::int64_t elements = 0;  ///< elements of the whole tensor
  int experts = 0;            ///< E for a stack over routed experts, else 0
  std::int64_t rows = 0;      ///< of the matrix, or of one expert's; 0 for a vector
  std::int64_t columns = 0;
  friend bool operator==(const parameter_entry&, const parameter_entry&) = default;
};
/// Every parameter of a model, in its visiting order.
using parameter_inventory = std::vector<parameter_entry>;

/// Factors to train beside a frozen matrix.
struct low_rank_target {
  low_rank_options how;
  std::vector<expert_index> experts;  ///< ascending ids: the experts of a stack that get factors; empty for a single matrix
  low_rank_mixture_options mixture{};  ///< several pairs beside a single matrix, chosen by a router
  friend bool operator==(const low_rank_target&, const low_rank_target&) = default;
};

/// What a plan trains: whole tensors, slices of the stacked expert tensors, and low-rank factors beside matrices that stay frozen.
struct trainable_set {
  std::set<parameter_key> whole;                              ///< every element of these is trained
  std::map<layer_index, std::vector<expert_index>> experts;   ///< ascending ids; all that is stacked of each is trained
  std::map<parameter_key, low_rank_target> low_rank{};        ///< matrix -> its factors

  [[nodiscard]] bool trains(parameter_key key) const { return whole.contains(key); }
  [[nodiscard]] const std::vector<expert_index>& experts_of(layer_index layer) const {
    static const std::vector<expert_index> none;
    const auto found = experts.find(layer);
    return found == experts.end() ? none : found->second;
  }
  [[nodiscard]] bool empty() const {
    return whole.empty() && low_rank.empty() &&
           std::all_of(experts.begin(), experts.end(), [](const auto& entry) { return entry.second.empty(); });
  }
};

}  // namespace esft
