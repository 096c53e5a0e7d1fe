// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How Hugging Face checkpoints name and split our parameters: gate_up is two tensors, a stack of experts is two or one per expert.

#include <esft/core/low_rank_names.hpp>
#include <esft/core/shape.hpp>
#include <esft/core/trainable_set.hpp>
#include <esft/model/parameters.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace esft {

/// One tensor of a checkpoint: `rows` consecutive rows of one of our parameters (of one expert of it, for a stack).
struct hf_piece {
  std::string name;              ///< e.g. model.layers.1.mlp.experts.7.up_proj.weight
  std::int32_t expert = -1;      ///< expert of a stack, -1 otherwise
  index first_row = 0;           ///< within the parameter or within the expert's slice
  std::vector<index> shape;         ///< @shape [rows, columns] or [rows]
};

/// The checkpoint tensors that make up a parameter. @shape `shape` is the parameter's own: [D], [N, K] or [E, N, K]
/// @source names of the model families deepseek, qwen3_moe and olmoe, which agree
[[nodiscard]] inline std::vector<hf_piece> hf_pieces(parameter_key key, const std::vector<index>& shape) {
  const std::string layer = "model.layers." + std::to_string(key.layer.value) + ".";
  const auto whole = [&](const std::string& name) { return std::vector<hf_piece>{{name + ".weight", -1, 0, shape}}; };
  const auto halves = [&](const std::string& prefix, std::int32_t expert, index rows, index columns) {
    return std::vector<hf_piece>{{prefix + ".gate_proj.weight", expert, 0, {rows / 2, columns}},
                                 {prefix + ".up_proj.weight", expert, rows / 2, {rows / 2, columns}}};
  };
  std::vector<hf_piece> pieces;
  switch (key.role) {
    case parameter_role::embedding: return whole("model.embed_tokens");
    case parameter_role::head: return whole("lm_head");
    case parameter_role::final_norm: return whole("model.norm");
    case parameter_role::attention_norm: return whole(layer + "input_layernorm");
    case parameter_role::mlp_norm: return whole(layer + "post_attention_layernorm");
    case parameter_role::query: return whole(layer + "self_attn.q_proj");
    case parameter_role::key: return whole(layer + "self_attn.k_proj");
    case parameter_role::value: return whole(layer + "self_attn.v_proj");
    case parameter_role::attention_output: return whole(layer + "self_attn.o_proj");
    case parameter_role::query_norm: return whole(layer + "self_attn.q_norm");
    case parameter_role::key_norm: return whole(layer + "self_attn.k_norm");
    case parameter_role::router: return whole(layer + "mlp.gate");
    case parameter_role::dense_down: return whole(layer + "mlp.down_proj");
    case parameter_role::shared_down: return whole(layer + "mlp.shared_experts.down_proj");
    case parameter_role::dense_gate_up: return halves(layer + "mlp", -1, shape[0], shape[1]);
    case parameter_role::shared_gate_up: return halves(layer + "mlp.shared_experts", -1, shape[0], shape[1]);
    case parameter_role::expert_gate_up:
      for (index e = 0; e < shape[0]; ++e) {
        const auto expert = static_cast<std::int32_t>(e);
        for (auto& piece : halves(layer + "mlp.experts." + std::to_string(e), expert, shape[1], shape[2]))
          pieces.push_back(std::move(piece));
      }
      return pieces;
    case parameter_role::expert_down:
      for (index e = 0; e < shape[0]; ++e) {
        pieces.push_back(
            {layer + "mlp.experts." + std::to_string(e) + ".down_proj.weight", static_cast<std::int32_t>(e), 0, {shape[1], shape[2]}});
      }
      return pieces;
    case parameter_role::low_rank_a:
    case parameter_role::low_rank_b:
    case parameter_role::low_rank_router: return pieces;  // named after their matrix: low_rank_stems
  }
  return pieces;
}

/// The checkpoint tensors of a live weight, and the rows of it that they are: `visit(piece, matrix_rows)`.
template <class Weight, class Visit>
void for_each_piece(parameter_key key, Weight& w, Visit&& visit) {
  const auto& extents = w.value.shape();
  const std::vector<index> shape(extents.begin(), extents.end());
  for (const hf_piece& piece : hf_pieces(key, shape)) {
    visit(piece, w.rows(std::max(0, piece.expert), piece.first_row, piece.shape[0]));
  }
}

/// What the names of a matrix's factors begin with: of each expert of a stack, or of the one matrix.
[[nodiscard]] inline std::vector<std::string> low_rank_stems(parameter_key key, const std::vector<index>& shape) {
  std::vector<std::string> stems(shape.size() == 3 ? static_cast<std::size_t>(shape[0]) : 1);
  for (const hf_piece& piece : hf_pieces(key, shape))
    stems[static_cast<std::size_t>(std::max(0, piece.expert))] = low_rank_stem(piece.name);
  return stems;
}

/// The tensors of an adapter that stand beside a live weight, factors and routers of factors: `visit(piece, matrix_rows)`.
template <class Weight, class Visit>
void for_each_factor(parameter_key key, Weight& w, Visit&& visit) {
  if (!w.low_rank && !w.mixture) return;
  const auto& extents = w.value.shape();
  const std::vector<std::string> stems = low_rank_stems(key, {extents.begin(), extents.end()});
  const auto one = [&](const std::string& name, std::int32_t expert, auto& factor, index part) {
    const auto shape = factor.part_shape();
    visit(hf_piece{name, expert, 0, {shape[0], shape[1]}}, factor.rows(part, 0, shape[0]));
  };
  const auto all = [&](auto& pairs, const auto& stem_of) {
    for (index part = 0; part < pairs.a.parts(); ++part) {
      const std::int32_t expert = pairs.experts.empty() ? -1 : pairs.experts[static_cast<std::size_t>(part)];
      one(low_rank_name(stem_of(expert), low_rank_factor::a), expert, pairs.a, part);
      one(low_rank_name(stem_of(expert), low_rank_factor::b), expert, pairs.b, part);
    }
  };
  if (w.low_rank) all(*w.low_rank, [&](std::int32_t expert) { return stems[static_cast<std::size_t>(std::max(0, expert))]; });
  if (!w.mixture) return;
  all(w.mixture->pairs, [&](std::int32_t expert) { return low_rank_expert_stem(stems.front(), expert); });
  one(low_rank_router_name(stems.front()), -1, w.mixture->router, 0);
}

/// Checkpoint names of every tensor that a set trains in a model, sorted: what must change, and what an adapter must hold.
template <class Parameters>
[[nodiscard]] std::vector<std::string> planned_names(const Parameters& parameters, const trainable_set& trainable) {
  std::vector<std::string> names;
  for_each_parameter(parameters, [&](parameter_key key, const auto& w) {
    const auto& experts = trainable.experts_of(key.layer);
    for_each_piece(key, w, [&](const hf_piece& piece, auto) {
      const bool selected = piece.expert >= 0 && std::binary_search(experts.begin(), experts.end(), expert_index{piece.expert});
      if (trainable.trains(key) || selected) names.push_back(piece.name);
    });
    const auto target = trainable.low_rank.find(key);
    if (target == trainable.low_rank.end()) return;
    const auto& extents = w.value.shape();
    const std::vector<std::string> stems = low_rank_stems(key, {extents.begin(), extents.end()});
    const auto add = [&](const std::string& stem) {
      names.push_back(low_rank_name(stem, low_rank_factor::a));
      names.push_back(low_rank_name(stem, low_rank_factor::b));
    };
    const low_rank_mixture_options& mixture = target->second.mixture;
    for (const expert_index e : target->second.experts) add(stems[static_cast<std::size_t>(e.value)]);
    if (mixture.routed()) {
      for (int e = 0; e < mixture.experts; ++e) add(low_rank_expert_stem(stems.front(), e));
      names.push_back(low_rank_router_name(stems.front()));
    } else if (target->second.experts.empty()) {
      add(stems.front());
    }
  });
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace esft
