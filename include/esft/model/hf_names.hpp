// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How Hugging Face checkpoints name and split our parameters: gate_up is two tensors, a stack of experts is two or one per expert.

#include <esft/core/expert_names.hpp>
#include <esft/core/low_rank_names.hpp>
#include <esft/core/shape.hpp>
#include <esft/core/trainable_set.hpp>
#include <esft/model/parameters.hpp>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

namespace esft {

/// One tensor of a checkpoint: `rows` consecutive rows of one of our parameters (of one expert of it, for a stack).
struct hf_piece {
  std::string name;              ///< e.g. model.layers.1.mlp.experts.7.up_proj.weight
  std::int32_t expert = -1;      ///< expert of a stack, -1 otherwise
  index first_row = 0;           ///< within the parameter or within the expert's slice
  std::vector<index> shape;      ///< @shape [rows, columns] or [rows]; [columns, rows] where `transposed`
  bool transposed = false;       ///< the file has columns where we have rows

  [[nodiscard]] index row_count() const { return transposed ? shape[1] : shape[0]; }
};

namespace detail {
/// [rows, columns] in row-major order becomes [columns, rows].
template <class T>
[[nodiscard]] std::vector<T> transpose_rows(std::span<const T> values, index rows, index columns) {
  std::vector<T> result(values.size());
  for (index r = 0; r < rows; ++r) {
    for (index c = 0; c < columns; ++c) result[static_cast<std::size_t>(c * rows + r)] = values[static_cast<std::size_t>(r * columns + c)];
  }
  return result;
}
}  // namespace detail

/// Values as a file has them become rows of a parameter, and the other way round. @pre as many values as `rows` has
template <class Backend, class T, class Rows>
void piece_in(Backend& backend, const hf_piece& piece, std::span<const T> host, const Rows& rows) {
  if (!piece.transposed) return copy_in(backend, host, rows);
  const std::vector<T> turned = detail::transpose_rows(host, piece.shape[0], piece.shape[1]);
  copy_in(backend, std::span<const T>(turned), rows);
}
template <class Backend, class T, class Rows>
void piece_out(Backend& backend, const hf_piece& piece, const Rows& rows, std::span<T> host) {
  copy_out(backend, rows, host);
  if (!piece.transposed) return;
  const std::vector<T> turned = detail::transpose_rows(std::span<const T>(host), piece.shape[1], piece.shape[0]);
  std::copy(turned.begin(), turned.end(), host.begin());
}

/// The checkpoint tensors that make up a parameter. @shape `shape` is the parameter's own: [D], [N, K] or [E, N, K]
/// @source names of the model families of docs/how_to, which agree save for `names`
[[nodiscard]] inline std::vector<hf_piece> hf_pieces(const checkpoint_names& names, parameter_key key, const std::vector<index>& shape) {
  const std::string layer = "model.layers." + std::to_string(key.layer.value) + ".";
  const auto whole = [&](const std::string& name) { return std::vector<hf_piece>{{name + ".weight", -1, 0, shape}}; };
  const auto halves = [&](const std::string& gate, const std::string& up, std::int32_t expert, index rows, index columns) {
    return std::vector<hf_piece>{{gate + ".weight", expert, 0, {rows / 2, columns}},
                                 {up + ".weight", expert, rows / 2, {rows / 2, columns}}};
  };
  const auto block = [&](const std::string& prefix) { return halves(prefix + ".gate_proj", prefix + ".up_proj", -1, shape[0], shape[1]); };
  const std::string moe = layer + std::string(names.experts.block) + ".";
  const auto slices = [&](std::string_view part) {  // of experts that are stored together: a matrix each, or a column of biases
    std::vector<hf_piece> all;
    for (index e = 0; e < shape[0]; ++e) {
      const bool matrix = !part.ends_with("_bias");
      const std::vector<index> one = matrix ? std::vector<index>{shape[2], shape[1]} : std::vector<index>{shape[1]};
      all.push_back({expert_matrix(moe, e, part), static_cast<std::int32_t>(e), 0, one, matrix});
    }
    return all;
  };
  std::vector<hf_piece> pieces;
  switch (key.role) {
    case parameter_role::embedding: return whole("model.embed_tokens");
    case parameter_role::head: return whole("lm_head");
    case parameter_role::final_norm: return whole("model.norm");
    case parameter_role::attention_norm: return whole(layer + "input_layernorm");
    case parameter_role::mlp_norm: return whole(layer + "post_attention_layernorm");
    case parameter_role::query: return whole(layer + (names.query_latent ? "self_attn.q_b_proj" : "self_attn.q_proj"));
    case parameter_role::query_a: return whole(layer + "self_attn.q_a_proj");
    case parameter_role::query_a_norm: return whole(layer + "self_attn.q_a_layernorm");
    case parameter_role::key_value_a: return whole(layer + "self_attn.kv_a_proj_with_mqa");
    case parameter_role::key_value_a_norm: return whole(layer + "self_attn.kv_a_layernorm");
    case parameter_role::key_value_b: return whole(layer + "self_attn.kv_b_proj");
    case parameter_role::key: return whole(layer + "self_attn.k_proj");
    case parameter_role::value: return whole(layer + "self_attn.v_proj");
    case parameter_role::attention_output: return whole(layer + "self_attn.o_proj");
    case parameter_role::query_bias: return {{layer + "self_attn.q_proj.bias", -1, 0, shape}};
    case parameter_role::key_bias: return {{layer + "self_attn.k_proj.bias", -1, 0, shape}};
    case parameter_role::value_bias: return {{layer + "self_attn.v_proj.bias", -1, 0, shape}};
    case parameter_role::query_norm: return whole(layer + "self_attn.q_norm");
    case parameter_role::key_norm: return whole(layer + "self_attn.k_norm");
    case parameter_role::attention_output_bias: return {{layer + "self_attn.o_proj.bias", -1, 0, shape}};
    case parameter_role::attention_sink: return {{layer + "self_attn.sinks", -1, 0, shape}};
    case parameter_role::router: return whole(moe + names.router);
    case parameter_role::router_bias: return {{moe + names.router + ".bias", -1, 0, shape}};
    case parameter_role::choice_bias: return {{moe + "gate.e_score_correction_bias", -1, 0, shape}};
    case parameter_role::dense_down: return whole(layer + "mlp.down_proj");
    case parameter_role::shared_down: return whole(moe + names.shared + ".down_proj");
    case parameter_role::shared_gate: return whole(moe + names.shared + "_gate");
    case parameter_role::dense_gate_up: return block(layer + "mlp");
    case parameter_role::shared_gate_up: return block(moe + names.shared);
    case parameter_role::expert_gate_up_bias: return slices("gate_up_proj_bias");
    case parameter_role::expert_down_bias: return slices("down_proj_bias");
    case parameter_role::expert_gate_up:
      if (names.together == fused_layout::interleaved) return slices("gate_up_proj");
      for (index e = 0; e < shape[0]; ++e) {
        const auto expert = static_cast<std::int32_t>(e);
        for (auto& piece : halves(expert_matrix(moe, e, names.experts.gate), expert_matrix(moe, e, names.experts.up), expert, shape[1],
                                  shape[2])) {
          pieces.push_back(std::move(piece));
        }
      }
      return pieces;
    case parameter_role::expert_down:
      if (names.together == fused_layout::interleaved) return slices("down_proj");
      for (index e = 0; e < shape[0]; ++e) {
        pieces.push_back({expert_matrix(moe, e, names.experts.down) + ".weight", static_cast<std::int32_t>(e), 0, {shape[1], shape[2]}});
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
void for_each_piece(const checkpoint_names& names, parameter_key key, Weight& w, Visit&& visit) {
  const auto& extents = w.value.shape();
  const std::vector<index> shape(extents.begin(), extents.end());
  for (const hf_piece& piece : hf_pieces(names, key, shape)) {
    visit(piece, w.rows(std::max(0, piece.expert), piece.first_row, piece.row_count()));
  }
}

/// What the names of a matrix's factors begin with: of each expert of a stack, or of the one matrix.
[[nodiscard]] inline std::vector<std::string> low_rank_stems(const checkpoint_names& names, parameter_key key,
                                                               const std::vector<index>& shape) {
  std::vector<std::string> stems(shape.size() == 3 ? static_cast<std::size_t>(shape[0]) : 1);
  for (const hf_piece& piece : hf_pieces(names, key, shape))
    stems[static_cast<std::size_t>(std::max(0, piece.expert))] = low_rank_stem(piece.name);
  return stems;
}

/// The tensors of an adapter that stand beside a live weight, factors and routers of factors: `visit(piece, matrix_rows)`.
template <class Weight, class Visit>
void for_each_factor(const checkpoint_names& names, parameter_key key, Weight& w, Visit&& visit) {
  if (!w.low_rank && !w.mixture) return;
  const auto& extents = w.value.shape();
  const std::vector<std::string> stems = low_rank_stems(names, key, {extents.begin(), extents.end()});
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

/// Checkpoint names of every tensor that a set trains, or lets move, in a model, sorted: what must change, and what an adapter must hold.
template <class Model>
[[nodiscard]] std::vector<std::string> planned_names(const Model& model, const trainable_set& trainable) {
  std::vector<std::string> names;
  for_each_parameter(model.parameters, [&](parameter_key key, const auto& w) {
    const auto& experts = trainable.experts_of(key.layer);
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto) {
      const bool selected = piece.expert >= 0 && std::binary_search(experts.begin(), experts.end(), expert_index{piece.expert});
      if (trainable.trains(key) || selected) names.push_back(piece.name);
    });
    const auto target = trainable.low_rank.find(key);
    if (target == trainable.low_rank.end()) return;
    const auto& extents = w.value.shape();
    const std::vector<std::string> stems = low_rank_stems(model.config.names, key, {extents.begin(), extents.end()});
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
  for_each_buffer(model.parameters, [&](parameter_key key, const auto& b) {
    if (trainable.trains(key)) names.push_back(hf_pieces(model.config.names, key, {b.value.extent(0)}).front().name);
  });
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace esft
