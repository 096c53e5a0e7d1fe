// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `purify`: audits what an adapter changed against clean data, and sets the most suspicious dimensions back to the base's values.
/// After Fine-purifying (arXiv 2305.04547), not the exact method: see relevance/drift_audit.hpp.

#include <esft/relevance/drift_audit.hpp>
#include <esft/io/adapter.hpp>
#include <esft/model/decoder.hpp>
#include <esft/model/hf_names.hpp>
#include <esft/train/apply_adapter.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace esft {

struct purify_options {
  double reset = 0;              ///< share of the dimensions to set back, 0: only look
  bool per_tensor = false;       ///< that share of every tensor, instead of the worst of all together
  double epsilon_share = 1e-2;  ///< epsilon is this share of the mean information, over the tensor or over all; ours
};

/// What the audit found of one tensor of the adapter.
struct tensor_audit {
  std::string name;
  std::int32_t expert = -1;  ///< routed expert that it belongs to, or -1
  layer_index layer{};
  std::size_t dimensions = 0;
  std::size_t reset = 0;   ///< set back
  double drift = 0;        ///< sum of squared changes
  double indicator = 0;    ///< sum of r over the dimensions
  double information = 0;  ///< mean empirical Fisher information
};

/// The tensors that an adapter of whole weights replaces, as what a plan trains.
/// @throws usage_error for an adapter with low-rank factors: their dimensions have no base value to go back to
template <class Model>
[[nodiscard]] trainable_set replaced_by(const Model& model, const adapter& changes) {
  if (changes.manifest().low_rank)
    throw usage_error(
        changes.path().string() + ": low-rank factors have no values of the base to go back to; audit an adapter that holds whole weights");
  trainable_set result;
  for_each_parameter(model.parameters, [&](parameter_key key, const auto& w) {
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto) {
      if (changes.find(piece.name) == nullptr) return;
      if (piece.expert < 0) {
        result.whole.insert(key);
        return;
      }
      std::vector<expert_index>& experts = result.experts[key.layer];
      const auto at = std::lower_bound(experts.begin(), experts.end(), expert_index(piece.expert));
      if (at == experts.end() || *at != expert_index(piece.expert)) experts.insert(at, expert_index(piece.expert));
    });
  });
  return result;
}

namespace detail {
struct audited_tensor {
  tensor_audit about;
  std::vector<float> base, now;
  std::vector<double> fisher;
};
/// Calls `visit(piece, rows of the value, rows of the gradient)` for every trained piece.
template <class Model, class Visit>
void for_each_trained_piece(Model& model, Visit&& visit) {
  for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    if (!w.trained()) return;
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto rows) {
      index part = 0;
      if (piece.expert >= 0) {
        const auto at = std::lower_bound(w.selected.begin(), w.selected.end(), piece.expert);
        if (at == w.selected.end() || *at != piece.expert) return;
        part = at - w.selected.begin();
      }
      visit(key, piece, rows, w.gradient_rows(part, piece.first_row, piece.row_count()));
    });
  });
}
}  // namespace detail

/// Puts `changes` into the model (which holds the base), measures the information that clean data give on what they replaced, and sets back
/// the dimensions that moved furthest for it. The model is left with what remains of the adapter, and with that trained, so that
/// `tensor_sources(backend, model, save_scope::trained_only)` is the purified adapter; everything else keeps its bits.
/// @param clean batches of one clean sample each: a batch is one observation of the empirical Fisher information
/// @return one entry per tensor of the adapter, the highest indicator per dimension first
/// @throws usage_error for low-rank adapters and where no batch has a learned token; what `apply_adapter` throws
/// @cost memory 16 bytes, time one backward pass a batch, for and over what the adapter holds
template <class Model, class Batches>
[[nodiscard]] std::vector<tensor_audit> purify(typename Model::backend_type& backend, Model& model, const adapter& changes,
                                               const Batches& clean, const purify_options& options) {
  const trainable_set replaced = replaced_by(model, changes);
  apply(backend, model.parameters, replaced);
  std::vector<detail::audited_tensor> tensors;
  detail::for_each_trained_piece(model, [&](parameter_key key, const hf_piece& piece, auto rows, auto) {
    const auto size = static_cast<std::size_t>(rows.size());
    auto& one =
        tensors.emplace_back(detail::audited_tensor{{}, std::vector<float>(size), std::vector<float>(size), std::vector<double>(size)});
    one.about.name = piece.name;
    one.about.expert = piece.expert;
    one.about.layer = key.layer;
    one.about.dimensions = size;
    piece_out(backend, piece, rows, std::span<float>(one.base));
  });
  apply_adapter(backend, model, changes);
  apply(backend, model.parameters, replaced);

  std::int64_t observations = 0;
  std::vector<float> gradient;
  for (std::size_t i = 0; i < clean.size(); ++i) {
    const token_batch batch = clean[i];
    const auto learned = static_cast<std::int64_t>(batch.labels.size()) -
                         static_cast<std::int64_t>(std::count(batch.labels.begin(), batch.labels.end(), ignored_label));
    if (learned == 0) continue;
    for_each_parameter(model.parameters, [&](parameter_key, auto& w) {
      if (w.trained()) backend.fill(w.gradient_elements(), accum_t<typename Model::backend_type>{});
    });
    static_cast<void>(model.accumulate_gradients(backend, batch, {.loss_scale = 1.0 / static_cast<double>(learned)}));
    ++observations;
    auto next = tensors.begin();
    detail::for_each_trained_piece(model, [&](parameter_key, const hf_piece& piece, auto, auto rows) {
      gradient.resize(static_cast<std::size_t>(rows.size()));
      piece_out(backend, piece, rows, std::span<float>(gradient));
      std::transform(gradient.begin(), gradient.end(), next->fisher.begin(), next->fisher.begin(),
                     [](float g, double sum) { return sum + static_cast<double>(g) * static_cast<double>(g); });
      ++next;
    });
  }
  if (observations == 0) throw usage_error("the clean data hold no token whose prediction is learned: give records with answers");

  std::size_t all = 0;
  double information = 0;
  for (auto& one : tensors) {
    for (double& value : one.fisher) value /= static_cast<double>(observations);
    const double sum = std::accumulate(one.fisher.begin(), one.fisher.end(), 0.0);
    one.about.information = sum / static_cast<double>(one.about.dimensions);
    information += sum;
    all += one.about.dimensions;
  }
  information /= static_cast<double>(std::max<std::size_t>(1, all));
  std::vector<double> together;
  std::vector<std::vector<double>> indicators;
  detail::for_each_trained_piece(model, [&, next = tensors.begin()](parameter_key, const hf_piece& piece, auto rows, auto) mutable {
    piece_out(backend, piece, rows, std::span<float>(next->now));
    const double mean = options.per_tensor ? next->about.information : information;
    indicators.push_back(drift_indicator(next->base, next->now, next->fisher, options.epsilon_share * mean));
    next->about.indicator = std::accumulate(indicators.back().begin(), indicators.back().end(), 0.0);
    for (std::size_t i = 0; i < next->now.size(); ++i) {
      const double moved = static_cast<double>(next->now[i]) - static_cast<double>(next->base[i]);
      next->about.drift += moved * moved;
    }
    if (!options.per_tensor) together.insert(together.end(), indicators.back().begin(), indicators.back().end());
    ++next;
  });
  std::vector<std::size_t> worst = options.per_tensor ? std::vector<std::size_t>() : worst_dimensions(together, options.reset);
  std::size_t begin = 0;
  std::size_t at = 0;
  detail::for_each_trained_piece(model, [&](parameter_key, const hf_piece& piece, auto rows, auto) {
    auto& one = tensors[at];
    if (options.per_tensor) worst = worst_dimensions(indicators[at], options.reset);
    const std::size_t offset = options.per_tensor ? 0 : begin;
    const auto first = std::lower_bound(worst.begin(), worst.end(), offset);
    const auto last = std::lower_bound(first, worst.end(), offset + one.about.dimensions);
    for (auto i = first; i != last; ++i) one.now[*i - offset] = one.base[*i - offset];
    one.about.reset = static_cast<std::size_t>(last - first);
    if (one.about.reset > 0) piece_in(backend, piece, std::span<const float>(one.now), rows);
    begin += one.about.dimensions;
    ++at;
  });
  std::vector<tensor_audit> result;
  for (auto& one : tensors) result.push_back(std::move(one.about));
  std::stable_sort(result.begin(), result.end(), [](const tensor_audit& a, const tensor_audit& b) {
    return a.indicator / static_cast<double>(a.dimensions) > b.indicator / static_cast<double>(b.dimensions);
  });
  return result;
}

}  // namespace esft
