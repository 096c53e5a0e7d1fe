// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `save_adapter`: what a model has learned, as an adapter of the base that it was loaded from.

#include <esft/core/error.hpp>
#include <esft/core/f16.hpp>
#include <esft/io/adapter.hpp>
#include <esft/model/decoder.hpp>
#include <esft/model/hf_names.hpp>
#include <esft/model/save.hpp>
#include <esft/train/trainer.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace esft {

namespace detail {
/// Which experts a set changes at a stack: trained ones, or those that have factors.
inline std::vector<expert_index> changed_experts(const trainable_set& trained, const parameter_entry& entry) {
  if (trained.trains(entry.key)) {
    std::vector<expert_index> all;
    for (int e = 0; e < entry.experts; ++e) all.emplace_back(e);
    return all;
  }
  const auto target = trained.low_rank.find(entry.key);
  const std::vector<expert_index>& whole = trained.experts_of(entry.key.layer);
  return whole.empty() && target != trained.low_rank.end() ? target->second.experts : whole;
}

/// Rounded while it is written, a weight would be another one than the model was measured with.
template <class Model>
void expect_on_grid(typename Model::backend_type& backend, const Model& model) {
  const dtype storage = model.config.storage;
  std::vector<float> host;
  const auto check = [&](const hf_piece& piece, auto rows) {
    host.resize(static_cast<std::size_t>(rows.size()));
    copy_out(backend, rows, std::span<float>(host));
    if (std::all_of(host.begin(), host.end(), [&](float value) { return !(std::abs(as_stored(value, storage) - value) > 0); })) return;
    throw usage_error(piece.name + " holds numbers that " + std::string(name_of(storage)) + ", the checkpoint's element type, does not " +
                      "have: saved, the model would be another one; after updates of your own call `round_to_storage`, as `trainer` does");
  };
  for_each_parameter(model.parameters, [&](parameter_key key, const auto& w) {
    for_each_piece(model.config.names, key, w, [&](const hf_piece& piece, auto rows) {
      if (w.trained() && (piece.expert < 0 || std::binary_search(w.selected.begin(), w.selected.end(), piece.expert))) check(piece, rows);
    });
    if (w.factors_trained()) for_each_factor(model.config.names, key, w, check);
  });
}
}  // namespace detail

/// Rounds what is trained to the element type of the checkpoint. For loops with an optimizer of your own, after the update (or before you
/// measure and save): `trainer` does it in every step, so that what is saved is what was trained, bit for bit.
template <class Model>
void round_to_storage(typename Model::backend_type& backend, Model& model) {
  std::vector<float> host;
  for (const auto& slice : trained_slices(model)) {
    host.resize(static_cast<std::size_t>(slice.value.size()));
    backend.copy_out(slice.value, std::span<float>(host));
    for (float& value : host) value = as_stored(value, model.config.storage);
    backend.copy_in(std::span<const float>(host), slice.value);
  }
}

/// What an adapter says of what a set trains: the names that checkpoints have for it, experts (ascending), how factors are scaled, and how
/// many of several pairs a token uses.
/// @throws usage_error for factors that an adapter cannot tell apart: it has one alpha, dropout and seed for all of them, and one number of
/// active pairs for a layer. Ranks may differ
template <class Model>
[[nodiscard]] adapter_manifest describe_adapter(const Model& model, const trainable_set& trained, std::string method,
                                                std::string base_digest) {
  adapter_manifest result{std::move(method), std::move(base_digest), planned_names(model, trained), {}, {}};
  const parameter_inventory parameters = inventory(model.parameters);
  for (const parameter_entry& entry : parameters) {
    if (entry.experts == 0) continue;
    auto& listed = result.experts.experts.layers[entry.key.layer];
    if (listed.empty()) listed = detail::changed_experts(trained, entry);
  }
  const auto shared = [](const parameter_entry& e) {
    const parameter_role role = e.key.role;
    return role == parameter_role::shared_gate_up || role == parameter_role::shared_down || role == parameter_role::shared_gate;
  };
  const auto all = [&](auto&& belongs) {
    return std::any_of(parameters.begin(), parameters.end(), belongs) &&
           std::all_of(parameters.begin(), parameters.end(), [&](const auto& e) { return !belongs(e) || trained.trains(e.key); });
  };
  result.experts.shared_experts = all(shared);
  result.experts.non_expert_modules = all([&](const parameter_entry& e) { return e.experts == 0 && !shared(e); });

  for (const auto& [key, target] : trained.low_rank) {
    const std::string layer = "layer " + std::to_string(key.layer.value);
    low_rank_options how = target.how;
    if (!result.low_rank) result.low_rank = how;
    how.rank = result.low_rank->rank;  // a pair's own rank is that of its shape
    if (how != *result.low_rank) {
      throw usage_error(layer + ": factors with another alpha, dropout or seed than the rest. An adapter has one of each, and the loaded " +
                        "model would be another one: give all factors of the plan the same");
    }
    const low_rank_mixture_options& mixture = target.mixture;
    if (mixture.routed() && result.low_rank_active.emplace(key.layer, mixture.active).first->second != mixture.active) {
      throw usage_error(layer + ": routers of factors that use different numbers of pairs: an adapter has one number for a layer");
    }
  }
  return result;
}

/// Writes what `model` trains as an adapter: `apply_plan` said what (`trained`), `base` is the directory that the model was loaded from.
/// `verify_adapter` then proves it on the files, `merge_adapter` makes a checkpoint of both. `properties` are yours to fill.
/// @throws usage_error as `describe_adapter`, when the model trains something else than `trained`, and for numbers that the checkpoint's
/// element type does not have (`round_to_storage`); what `write_adapter` throws
/// @cost reads the base once, for its digest
template <class Model>
void save_adapter(const std::filesystem::path& directory, typename Model::backend_type& backend, const Model& model,
                  const model_directory& base, const trainable_set& trained, std::string method,
                  std::map<std::string, std::string> properties = {}) {
  const std::vector<tensor_source> tensors = tensor_sources(backend, model, save_scope::trained_only);
  adapter_manifest manifest = describe_adapter(model, trained, std::move(method), base.digest());
  manifest.properties = std::move(properties);
  std::vector<std::string> names;
  for (const tensor_source& tensor : tensors) names.push_back(tensor.name);
  std::vector<std::string> planned = manifest.planned;
  std::sort(names.begin(), names.end());
  std::sort(planned.begin(), planned.end());
  if (names != planned) {
    throw usage_error(directory.string() + ": the set names " + std::to_string(planned.size()) + " tensors, and the model trains " +
                      (names.size() == planned.size() ? "others" : std::to_string(names.size())) +
                      ": save with the set that `apply_plan` gave, before another one is applied or a scorer of gradients runs");
  }
  detail::expect_on_grid(backend, model);
  write_adapter(directory, manifest, tensors);
}

}  // namespace esft
