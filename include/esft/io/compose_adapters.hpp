// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `compose_adapters`: several adapters of one base as one, where they train different experts, or by a rule where they overlap.

#include <esft/core/low_rank_names.hpp>
#include <esft/io/adapter.hpp>
#include <esft/io/factor_matrix.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/peft_names.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// What to do where two adapters hold the same expert, or the same tensor outside experts.
enum class overlap_rule : std::uint8_t {
  error,
  first,  ///< that of the adapter named first
  last,   ///< that of the adapter named last
  mean,   ///< of replaced tensors: mean of the values, in double, rounded once. Factors have no mean
};

/// What was composed.
struct composition {
  std::size_t tensors = 0;
  std::vector<std::string> overlaps;  ///< experts and tensors that more than one adapter holds
};

namespace detail {

/// What must come from one adapter: an expert with its matrices and factors, else a matrix with its factors, else a tensor.
[[nodiscard]] inline std::string composition_unit(const std::string& name) {
  const std::string stem = is_factor_name(name)            ? low_rank_matrix_stem(stem_of_factor(name))
                           : is_low_rank_router_name(name) ? stem_of_router(name)
                                                           : low_rank_stem(name);
  const auto expert = split_expert_stem(stem);
  return expert ? expert->stack + "." + std::to_string(expert->expert) : stem;
}

/// What one adapter holds of a unit.
struct held_unit {
  const adapter* owner = nullptr;
  std::vector<std::string> names;  ///< sorted
};

/// The mean of one tensor over adapters that hold it, in its own type. @pre equal shapes and types @cost two tensors
[[nodiscard]] inline tensor_source mean_source(const std::string& name, const std::vector<held_unit>& held) {
  const tensor_record& first = *held.front().owner->find(name);
  const dtype type = first.type;
  return {name, type, first.shape, [name, type, &held](const byte_sink& sink) {
            std::vector<double> sum(held.front().owner->find(name)->element_count());
            std::vector<float> values(sum.size());
            for (const held_unit& one : held) {
              one.owner->read_floats(name, values);
              for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(values[i]);
            }
            for (std::size_t i = 0; i < sum.size(); ++i) values[i] = static_cast<float>(sum[i] / static_cast<double>(held.size()));
            sink(stored_bytes(values, type));
          }};
}

/// Adapters whose tensors of one unit are averaged must hold the same of it.
inline void expect_same_tensors(const std::vector<held_unit>& held) {
  const held_unit& first = held.front();
  for (const held_unit& one : held) {
    bool same = one.names == first.names;
    for (std::size_t i = 0; same && i < first.names.size(); ++i) {
      const tensor_record& a = *first.owner->find(first.names[i]);
      const tensor_record& b = *one.owner->find(first.names[i]);
      same = a.shape == b.shape && a.type == b.type && is_stored_type(a.type) && !is_low_rank_name(first.names[i]);
    }
    if (same) continue;
    throw usage_error(one.owner->path().string() + ": " + one.names.front() + " has no mean with what " + first.owner->path().string() +
                      " holds there (factors, or other tensors, shapes or element types); choose the overlap rule first or last");
  }
}

/// One base, one way of scaling factors.
inline adapter_manifest composed_manifest(std::span<const adapter> parts, const model_directory* base) {
  adapter_manifest result;
  for (const adapter& part : parts) {
    const adapter_manifest& one = part.manifest();
    const auto refuse = [&](const std::string& problem) { throw usage_error(part.path().string() + ": " + problem); };
    const std::string digest = part.is_official() ? std::string() : one.base_digest;
    if (!digest.empty() && !result.base_digest.empty() && digest != result.base_digest)
      refuse("was trained on another base than the others");
    if (!digest.empty()) result.base_digest = digest;
    if (one.low_rank) {
      if (result.low_rank &&
          (one.low_rank->alpha != result.low_rank->alpha || one.low_rank->rank_stabilised != result.low_rank->rank_stabilised)) {
        refuse("scales its factors otherwise (alpha, rank stabilisation) than the adapters before it");
      }
      if (!result.low_rank) result.low_rank = one.low_rank;
    }
    for (const auto& [layer, active] : one.low_rank_active) {
      if (!result.low_rank_active.emplace(layer, active).second && result.low_rank_active[layer] != active) {
        refuse("uses another number of low-rank experts a token in layer " + std::to_string(layer.value));
      }
    }
    result.method = result.method.empty() || result.method == one.method ? one.method : "composed";
    result.experts.shared_experts = result.experts.shared_experts || one.experts.shared_experts;
    result.experts.non_expert_modules = result.experts.non_expert_modules || one.experts.non_expert_modules;
    for (const auto& [layer, experts] : one.experts.experts.layers) {
      auto& list = result.experts.experts.layers[layer];
      for (const expert_index expert : experts) {
        if (std::find(list.begin(), list.end(), expert) == list.end()) list.push_back(expert);
      }
    }
    result.properties["composed." + std::to_string(&part - parts.data())] = part.path().filename().string();
  }
  if (base != nullptr) {
    const std::string digest = base->digest();
    if (!result.base_digest.empty() && result.base_digest != digest) {
      throw input_error(input_error_code::wrong_base, {base->path().string(), {}, {}},
                        "is not the base of these adapters (SHA-256 differs)");
    }
    result.base_digest = digest;
  }
  if (result.base_digest.empty()) throw usage_error("official adapters do not name their base: give the base as well");
  return result;
}

}  // namespace detail

/// Writes one adapter to `output` that does what all of `parts` do. `base` binds official adapters, which name none, and may be null else.
/// @throws usage_error naming the experts that overlap when `rule` is `error`, or what does not go together; input_error; storage_error
inline composition compose_adapters(std::span<const adapter> parts, const std::filesystem::path& output,
                                    overlap_rule rule = overlap_rule::error, const model_directory* base = nullptr) {
  if (parts.size() < 2) throw usage_error("composing takes at least two adapters");
  adapter_manifest manifest = detail::composed_manifest(parts, base);
  std::map<std::string, std::vector<detail::held_unit>> owners;  // unit -> adapters that hold any of it
  for (const adapter& part : parts) {
    part.verify_digests();
    for (const std::string& name : part.names()) {
      auto& list = owners[detail::composition_unit(name)];
      if (list.empty() || list.back().owner != &part) list.push_back({&part, {}});
      list.back().names.push_back(name);
    }
  }
  composition result;
  for (const auto& [unit, list] : owners) {
    if (list.size() > 1) result.overlaps.push_back(unit);
  }
  if (!result.overlaps.empty() && rule == overlap_rule::error) {
    std::string named;
    constexpr std::size_t shown = 8;
    for (std::size_t i = 0; i < std::min(shown, result.overlaps.size()); ++i) named += (i == 0 ? "" : ", ") + result.overlaps[i];
    if (result.overlaps.size() > shown) named += " and " + std::to_string(result.overlaps.size() - shown) + " more";
    throw usage_error("more than one adapter trains " + named + "; choose the overlap rule first, last or mean");
  }
  std::vector<tensor_source> sources;
  std::map<std::string, std::pair<std::string, index>> ranks;  // stack -> a stem of it and its rank
  for (const auto& [unit, list] : owners) {
    const detail::held_unit& chosen = rule == overlap_rule::last ? list.back() : list.front();
    const bool averaged = rule == overlap_rule::mean && list.size() > 1;
    if (averaged) detail::expect_same_tensors(list);
    for (const std::string& name : chosen.names) {
      sources.push_back(averaged ? detail::mean_source(name, list) : chosen.owner->source(name));
      manifest.planned.push_back(name);
      if (!name.ends_with(".lora_A.weight")) continue;
      const auto place = split_expert_stem(stem_of_factor(name));
      if (!place) continue;
      const index rank = chosen.owner->find(name)->shape[0];
      const auto& [known, is_new] = ranks.emplace(place->stack + "." + place->leaf, std::pair(name, rank));
      if (known->second.second != rank) {
        throw usage_error("the experts of a layer share one rank: " + name + " has " + std::to_string(rank) + ", " + known->second.first +
                          " " + std::to_string(known->second.second));
      }
    }
  }
  std::sort(manifest.planned.begin(), manifest.planned.end());
  result.tensors = sources.size();
  write_adapter(output, manifest, sources);
  return result;
}

}  // namespace esft
