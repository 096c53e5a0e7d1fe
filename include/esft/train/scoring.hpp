// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `observe_task`: shows a group of scorers whatever they read of a model on a task: routing, outputs, gradients, weights.

#include <esft/core/expert_records.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/model/decoder.hpp>
#include <esft/relevance/scorer_group.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

namespace esft {

/// Which real tokens count.
enum class scored_tokens : std::uint8_t {
  all,     ///< prompts included, as in the official code; gradients are then of the loss over every token
  answer,  ///< only the positions whose prediction is learned: the routing behind them is what training changes
};

/// How a task is observed.
struct scoring_options {
  scored_tokens tokens = scored_tokens::all;
  std::size_t layers_at_once = 0;  ///< MoE layers whose gradients are held together, 0: all. Fewer take less memory and more passes
  routing_observer also{};         ///< shown the routing too, such as a `routing_log_writer`; asks for a forward pass of its own accord
};

/// A batch in which only the wanted tokens count, and carry loss. @throws contract_violation as `check_batch`
[[nodiscard]] inline token_batch restricted(token_batch batch, scored_tokens which) {
  check_batch(batch);
  const std::size_t tokens = batch.tokens.size();
  for (std::size_t t = 0; t < tokens; ++t) {
    if (which == scored_tokens::answer) {
      if (batch.labels[t] == ignored_label) batch.sample[t] = -1;
    } else if (batch.sample[t] >= 0 && t + 1 < tokens && batch.sample[t + 1] == batch.sample[t]) {
      batch.labels[t] = batch.tokens[t + 1];
    }
  }
  return batch;
}

/// Passes over the data that the group costs, for whoever shows progress.
[[nodiscard]] inline std::size_t passes_over_data(const scorer_group& scorers, std::size_t moe_layers, const scoring_options& options) {
  const std::size_t at_once = options.layers_at_once == 0 ? std::max<std::size_t>(1, moe_layers) : options.layers_at_once;
  const bool forward = scorers.reads<routing_record>() || scorers.reads<expert_output_record>() || options.also;
  return (forward ? 1 : 0) + (scorers.reads<expert_gradient_record>() ? (moe_layers + at_once - 1) / at_once : 0);
}

namespace detail {
/// Gate, up and down of one expert in row-major order, gate rows first.
struct host_expert {
  std::vector<float> gate_up, down;
};
/// Rows of gate and up in turn become gate rows, then up rows.
inline std::vector<float> gate_rows_first(const std::vector<float>& in_turn, std::size_t columns) {
  std::vector<float> result(in_turn.size());
  const std::size_t rows = in_turn.size() / columns;
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t to = r / 2 + (r % 2) * (rows / 2);
    std::copy_n(in_turn.begin() + static_cast<std::ptrdiff_t>(r * columns), columns,
                result.begin() + static_cast<std::ptrdiff_t>(to * columns));
  }
  return result;
}
template <class Backend, class GateUp, class Down>
host_expert on_host(Backend& backend, const swiglu_clamp& clamp, const GateUp& gate_up, const Down& down) {
  host_expert values{std::vector<float>(static_cast<std::size_t>(gate_up.size())),
                     std::vector<float>(static_cast<std::size_t>(down.size()))};
  copy_out(backend, gate_up, std::span<float>(values.gate_up));
  copy_out(backend, down, std::span<float>(values.down));
  const auto columns = static_cast<std::size_t>(gate_up.size() / gate_up.count);
  if (clamp.exists()) values.gate_up = gate_rows_first(values.gate_up, columns);
  return values;
}

/// Calls `visit(parameters of the layer, weights record)` for every routed expert of a layer.
template <class Model, class Visit>
void for_each_expert(typename Model::backend_type& backend, const Model& model, layer_index layer, Visit&& visit) {
  const auto& p = model.parameters.blocks[static_cast<std::size_t>(layer.value)].moe;
  const index experts = p.down.value.extent(0);
  const index width = p.down.value.extent(1);
  const index inner = p.down.value.extent(2);
  for (index e = 0; e < experts; ++e) {
    const host_expert host = on_host(backend, p.clamp, p.gate_up.rows(e, 0, 2 * inner), p.down.rows(e, 0, width));
    visit(p, expert_weights_record{layer, expert_index(static_cast<std::int32_t>(e)), static_cast<int>(experts), width, inner, host.gate_up,
                                   host.down});
  }
}

/// Every expert of every MoE layer.
template <class Model>
std::map<layer_index, std::vector<expert_index>> every_expert(const Model& model) {
  std::map<layer_index, std::vector<expert_index>> result;
  for (const parameter_entry& entry : inventory(model.parameters)) {
    if (entry.key.role != parameter_role::expert_down) continue;
    for (std::int32_t e = 0; e < entry.experts; ++e) result[entry.key.layer].emplace_back(e);
  }
  return result;
}

/// Freezes the model when it goes, whatever ended the passes.
template <class Model>
struct frozen_at_the_end {
  Model& model;
  ~frozen_at_the_end() {
    for_each_parameter(model.parameters, [](parameter_key, auto& w) { w.freeze(); });
  }
};

/// One backward pass per batch for these experts.
template <class Model, class Batches>
void observe_gradients(typename Model::backend_type& backend, Model& model, const Batches& batches, scorer_group& scorers,
                       const trainable_set& experts, scored_tokens which) {
  const frozen_at_the_end<Model> guard{model};
  apply(backend, model.parameters, experts);
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const token_batch batch = restricted(batches[i], which);
    const auto learned = static_cast<std::int64_t>(batch.labels.size()) -
                         static_cast<std::int64_t>(std::count(batch.labels.begin(), batch.labels.end(), ignored_label));
    if (learned == 0) continue;
    for_each_parameter(model.parameters, [&](parameter_key, auto& w) {
      if (w.trained()) backend.fill(w.gradient_elements(), accum_t<typename Model::backend_type>{});
    });
    static_cast<void>(model.accumulate_gradients(backend, batch, {.loss_scale = 1.0 / static_cast<double>(learned)}));
    for (const auto& [layer, ids] : experts.experts) {
      for_each_expert(backend, model, layer, [&](const auto& p, const expert_weights_record& weights) {
        const index e = weights.expert.value;
        const host_expert gradient =
            on_host(backend, p.clamp, p.gate_up.gradient_rows(e, 0, 2 * weights.inner), p.down.gradient_rows(e, 0, weights.width));
        scorers.observe(expert_gradient_record{weights, gradient.gate_up, gradient.down, learned});
      });
    }
  }
}
}  // namespace detail

/// Runs the model over `batches` (`size()`, `operator[]`) as often as the scorers need: one forward pass for those of routing and outputs,
/// forward and backward passes for those of gradients; weights are read without any. Padding does not count.
/// For gradients a batch is one observation, and batches without learned tokens are left out; they are held for `layers_at_once` layers
/// with all their experts, 4 bytes per weight. The weights stay as they are; gradient scorers leave the model frozen.
/// @throws what the scorers and the model throw
template <class Model, class Batches>
void observe_task(typename Model::backend_type& backend, Model& model, const Batches& batches, scorer_group& scorers,
                  const scoring_options& options = {}) {
  if (scorers.reads<routing_record>() || scorers.reads<expert_output_record>() || options.also) {
    const routing_observer routing = [&](const routing_record& record) {
      scorers.observe(record);
      if (options.also) options.also(record);
    };
    expert_output_observer outputs;
    if (scorers.reads<expert_output_record>()) outputs = [&](const expert_output_record& record) { scorers.observe(record); };
    for (std::size_t i = 0; i < batches.size(); ++i) {
      static_cast<void>(model.evaluate(backend, restricted(batches[i], options.tokens), routing, outputs));
    }
  }
  const auto experts = detail::every_expert(model);
  if (scorers.reads<expert_gradient_record>()) {
    trainable_set part;
    for (auto next = experts.begin(); next != experts.end();) {
      part.experts.insert(*next);
      const bool full = part.experts.size() == options.layers_at_once;
      if (++next != experts.end() && !full) continue;
      detail::observe_gradients(backend, model, batches, scorers, part, options.tokens);
      part.experts.clear();
    }
  }
  if (scorers.reads<expert_weights_record>()) {
    for (const auto& [layer, ids] : experts) {
      detail::for_each_expert(backend, model, layer, [&](const auto&, const expert_weights_record& record) { scorers.observe(record); });
    }
  }
}

}  // namespace esft
