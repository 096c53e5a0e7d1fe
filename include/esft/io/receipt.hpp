// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The receipt: proof on files alone that training changed what was planned and nothing else.

#include <esft/io/adapter.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json_value.hpp>
#include <esft/io/low_rank_merge.hpp>
#include <esft/io/model_directory.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// What a comparison of base, adapter and merged model found. All names are sorted.
struct receipt {
  std::size_t planned = 0;  ///< tensors that the plan trains
  std::size_t saved = 0;    ///< tensors in the adapter
  std::size_t changed = 0;  ///< saved tensors whose bytes differ from the base's; factors whose product is not zero
  std::size_t frozen = 0;   ///< tensors of the base that are not in the adapter and have no factors
  std::optional<std::size_t> frozen_identical;  ///< of these, equal to the base by SHA-256 in the merged model; absent without one
  std::optional<bool> base_matches;             ///< the adapter names this base; absent for official adapters, which name none
  std::string base_digest;
  std::string merged_digest;  ///< empty without a merged model

  std::vector<std::string> unsaved;     ///< planned, but not in the adapter; experts that `expert_cfg.json` names and the files do not hold
  std::vector<std::string> unplanned;   ///< in the adapter, but not planned, or of an expert that `expert_cfg.json` does not name
  std::vector<std::string> unchanged;   ///< planned and saved, but equal to the base; a factor of a pair that adds nothing
  std::vector<std::string> idle;        ///< factors that add nothing beside a matrix where other pairs do: their router never chose them
  std::vector<std::string> foreign;     ///< in the adapter, but fits nothing of the base: no such tensor, another shape or element type
  std::vector<std::string> damaged;     ///< in the adapter, with other bytes than were saved
  std::vector<std::string> moved;       ///< frozen, but the merged model has other bytes
  std::vector<std::string> unmerged;    ///< in the adapter or with factors there, but the merged model has other bytes
  std::vector<std::string> missing;     ///< in the base, but not in the merged model
  std::vector<std::string> added;       ///< in the merged model, but not in the base

  /// planned = changed = saved, every frozen tensor byte-identical, merged = base + adapter.
  [[nodiscard]] bool ok() const {
    return base_matches.value_or(true) && unsaved.empty() && unplanned.empty() && unchanged.empty() && foreign.empty() && damaged.empty() &&
           moved.empty() && unmerged.empty() && missing.empty() && added.empty();
  }
};

namespace detail {

/// What must be equal for two tensors to be the same: element type, shape and bytes.
inline std::string tensor_identity(const tensor_record& record, const std::string& digest) {
  return std::string(safetensors_name(record.type)) + to_string(record.shape) + digest;
}

/// The identity of W + scale B A.
inline std::string identity_with_factors(const model_directory& base, const std::string& name, const adapter& changes) {
  const tensor_record& record = base.at(name);
  sha256 hash;
  low_rank_source(base.shard_of(name), record, changes).write([&](std::span<const std::byte> bytes) { hash.update(bytes); });
  return tensor_identity(record, hash.hex_digest());
}

struct hashed_model {
  std::map<std::string, std::string> identities;
  std::string digest;
};

/// One pass over a model gives the digest of each tensor and of the whole.
inline hashed_model hash_model(const model_directory& model) {
  hashed_model result;
  sha256 whole;
  for (const std::string& name : model.names()) {
    const tensor_record& record = model.at(name);
    const std::string digest = model.tensor_digest(name);
    add_to_model_digest(whole, record, digest);
    result.identities.emplace(name, tensor_identity(record, digest));
  }
  result.digest = whole.hex_digest();
  return result;
}

/// Factors: B begins as zero, so a pair whose A or B is zero throughout adds nothing to the base. A router does something as soon as one of
/// its pairs does; of pairs that it never chose it is no fault that they add nothing.
inline void check_low_rank(receipt& result, const model_directory& base, const adapter& changes) {
  const std::set<std::string> stems = low_rank_stems(changes);
  std::set<std::string> working;  // stems of matrices to which a pair adds something
  std::set<std::string> zero;     // stems of pairs that fit but add nothing
  std::set<std::string> foreign;
  for (const std::string& stem : stems) {
    const bool routed = stem != low_rank_matrix_stem(stem);
    const bool fits = low_rank_problem(base, changes, stem).empty() &&
                      (!routed || low_rank_router_problem(base, changes, low_rank_matrix_stem(stem)).empty());
    if (!fits) {
      foreign.insert(stem);
    } else if (is_zero(changes, low_rank_name(stem, low_rank_factor::a)) || is_zero(changes, low_rank_name(stem, low_rank_factor::b))) {
      zero.insert(stem);
    } else {
      working.insert(low_rank_matrix_stem(stem));
    }
  }
  for (const std::string& stem : stems) {
    for (const low_rank_factor factor : {low_rank_factor::a, low_rank_factor::b}) {
      const std::string name = low_rank_name(stem, factor);
      if (changes.find(name) == nullptr) continue;
      if (foreign.contains(stem)) {
        result.foreign.push_back(name);
      } else if (zero.contains(stem)) {
        (working.contains(low_rank_matrix_stem(stem)) ? result.idle : result.unchanged).push_back(name);
      } else {
        ++result.changed;
      }
    }
  }
  for (const std::string& name : changes.names()) {
    if (!is_low_rank_router_name(name)) continue;
    const std::string stem = stem_of_router(name);
    if (!low_rank_router_problem(base, changes, stem).empty()) {
      result.foreign.push_back(name);
    } else if (!working.contains(stem)) {
      result.unchanged.push_back(name);
    } else {
      ++result.changed;
    }
  }
}

inline void check_adapter(receipt& result, const hashed_model& base, const adapter& changes,
                          const std::map<std::string, std::string>& identities) {
  std::vector<std::string> base_names;
  for (const auto& [name, identity] : base.identities) base_names.push_back(name);
  const std::vector<std::string> listed =
      changes.is_official() ? planned_tensors(changes.manifest().experts, base_names) : changes.manifest().planned;
  const std::set<std::string> planned(listed.begin(), listed.end());
  result.planned = planned.size();
  result.saved = identities.size();
  for (const std::string& name : planned) {
    if (!identities.contains(name)) result.unsaved.push_back(name);
  }
  for (const auto& [name, identity] : identities) {
    if (!planned.contains(name)) result.unplanned.push_back(name);
    const std::string stated = changes.stated_digest(name);
    if (!stated.empty() && !identity.ends_with(stated)) result.damaged.push_back(name);
    if (is_low_rank_name(name)) continue;
    const auto original = base.identities.find(name);
    const std::size_t digest_size = 64;
    if (original == base.identities.end() ||
        original->second.substr(0, original->second.size() - digest_size) != identity.substr(0, identity.size() - digest_size)) {
      result.foreign.push_back(name);
    } else if (original->second == identity) {
      result.unchanged.push_back(name);
    } else {
      ++result.changed;
    }
  }
}

/// The routed expert of which a tensor is a part, as checkpoints name them: `model.layers.<l>.<block>.experts.<e>.<part>`.
inline std::optional<std::pair<layer_index, expert_index>> expert_of(std::string_view name) {
  const auto number_behind = [&](std::string_view mark) {
    const std::size_t at = name.find(mark);
    std::int32_t value = -1;
    if (at != std::string_view::npos) std::from_chars(name.data() + at + mark.size(), name.data() + name.size(), value);
    return value;
  };
  const std::int32_t layer = number_behind("layers.");
  const std::int32_t expert = number_behind(".experts.");
  if (layer < 0 || expert < 0) return std::nullopt;
  return std::pair(layer_index(layer), expert_index(expert));
}

/// `expert_cfg.json` is what other tools go by: for an adapter of whole experts it names the very experts that the files hold.
inline void check_experts(receipt& result, const adapter& changes) {
  if (changes.is_official() || changes.manifest().method != "esft") return;
  std::set<std::pair<layer_index, expert_index>> named;
  for (const auto& [layer, experts] : changes.manifest().experts.experts.layers) {
    for (const expert_index expert : experts) named.emplace(layer, expert);
  }
  std::set<std::pair<layer_index, expert_index>> held;
  for (const std::string& name : changes.names()) {
    const auto expert = expert_of(name);
    if (!expert) continue;
    held.insert(*expert);
    const bool said = std::find(result.unplanned.begin(), result.unplanned.end(), name) != result.unplanned.end();
    if (!named.contains(*expert) && !said) result.unplanned.push_back(name);
  }
  for (const auto& [layer, expert] : named) {
    if (held.contains({layer, expert})) continue;
    result.unsaved.push_back("expert " + std::to_string(expert.value) + " of layer " + std::to_string(layer.value) + " of " +
                             std::string(adapter_files::experts));
  }
}

inline void check_merged(receipt& result, const hashed_model& base, const hashed_model& merged,
                         const std::map<std::string, std::string>& trained) {
  result.merged_digest = merged.digest;
  result.frozen_identical = 0;
  for (const auto& [name, identity] : base.identities) {
    const auto in_merged = merged.identities.find(name);
    const auto in_adapter = trained.find(name);
    if (in_merged == merged.identities.end()) {
      result.missing.push_back(name);
    } else if (in_adapter != trained.end()) {
      if (in_merged->second != in_adapter->second) result.unmerged.push_back(name);
    } else if (in_merged->second != identity) {
      result.moved.push_back(name);
    } else {
      ++*result.frozen_identical;
    }
  }
  for (const auto& [name, identity] : merged.identities) {
    if (!base.identities.contains(name)) result.added.push_back(name);
  }
}

}  // namespace detail

/// Compares files: the base, the adapter, and the merged model if there is one. Differences are results, not errors.
/// @cost reads every byte of each model once, whatever their sharding; memory does not grow with tensor sizes
/// @throws input_error when a file cannot be read; usage_error for a merged model of an adapter that cannot be merged
inline receipt verify_adapter(const std::filesystem::path& base_directory, const std::filesystem::path& adapter_directory,
                              const std::optional<std::filesystem::path>& merged_directory = std::nullopt) {
  const model_directory base_model = model_directory::open(base_directory);
  const detail::hashed_model base = detail::hash_model(base_model);
  const adapter changes = read_adapter(adapter_directory);
  if (merged_directory) expect_mergeable(changes);
  std::map<std::string, std::string> identities;
  for (const std::string& name : changes.names())
    identities.emplace(name, detail::tensor_identity(*changes.find(name), changes.tensor_digest(name)));
  receipt result;
  result.base_digest = base.digest;
  if (!changes.is_official()) result.base_matches = changes.manifest().base_digest == base.digest;
  detail::check_adapter(result, base, changes, identities);
  detail::check_experts(result, changes);
  detail::check_low_rank(result, base_model, changes);
  if (merged_directory) {
    for (const auto& [name, identity] : base.identities) {
      if (!has_low_rank(changes, name) || !low_rank_problem(base_model, changes, low_rank_stem(name)).empty()) continue;
      identities[name] = detail::identity_with_factors(base_model, name, changes);
    }
  }
  result.frozen = static_cast<std::size_t>(std::count_if(base.identities.begin(), base.identities.end(), [&](const auto& tensor) {
    return !identities.contains(tensor.first) && !has_low_rank(changes, tensor.first);
  }));
  std::sort(result.unchanged.begin(), result.unchanged.end());
  std::sort(result.idle.begin(), result.idle.end());
  std::sort(result.foreign.begin(), result.foreign.end());
  if (merged_directory) detail::check_merged(result, base, detail::hash_model(model_directory::open(*merged_directory)), identities);
  return result;
}

/// JSON text of a receipt.
inline std::string write_receipt(const receipt& result) {
  json_value root = json_object();
  root.add("ok", result.ok())
      .add("planned", result.planned)
      .add("saved", result.saved)
      .add("changed", result.changed)
      .add("frozen", result.frozen);
  root.add("frozen_identical", result.frozen_identical ? json_value(*result.frozen_identical) : json_value(nullptr));
  root.add("base_matches", result.base_matches ? json_value(*result.base_matches) : json_value(nullptr));
  root.add("base_sha256", result.base_digest);
  root.add("merged_sha256", result.merged_digest.empty() ? json_value(nullptr) : json_value(result.merged_digest));
  const auto list = [&](const char* key, const std::vector<std::string>& names) {
    json_value array = json_array();
    for (const std::string& name : names) array.push(name);
    root.add(key, std::move(array));
  };
  list("unsaved", result.unsaved);
  list("unplanned", result.unplanned);
  list("unchanged", result.unchanged);
  if (!result.idle.empty()) list("idle", result.idle);
  list("foreign", result.foreign);
  list("damaged", result.damaged);
  list("moved", result.moved);
  list("unmerged", result.unmerged);
  list("missing", result.missing);
  list("added", result.added);
  return write_json(root);
}

/// Writes a receipt, whole or not at all.
inline void save_receipt(const std::filesystem::path& path, const receipt& result) { write_file_atomically(path, write_receipt(result)); }

}  // namespace esft
