// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `expert_cfg.json`: the official file that says which experts are trained.

#include <esft/core/expert_set.hpp>
#include <esft/io/file.hpp>
#include <esft/io/hf_config.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <charconv>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace esft {

/// Content of an `expert_cfg.json`.
struct expert_config {
  expert_set experts;               ///< absolute layer indices; experts in selection order
  bool shared_experts = false;      ///< also train the shared experts of every MoE layer
  bool non_expert_modules = false;  ///< also train attention, norms, embeddings, routers and dense layers
  friend bool operator==(const expert_config&, const expert_config&) = default;
};

namespace detail {

/// A decimal index that is a JSON key: digits only, no leading zero, below `limit`.
inline std::int32_t index_key(const std::string& key, index limit, const json_reader& place) {
  std::int32_t value = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), value);
  if (error != std::errc{} || end != key.data() + key.size() || std::to_string(value) != key || value < 0 || value >= limit) {
    place.fail(input_error_code::out_of_range, "the key must be a decimal index below " + std::to_string(limit));
  }
  return value;
}

}  // namespace detail

/// Reads the text of an `expert_cfg.json`. Unknown keys are ignored: other tools add their own. Missing flags are false.
/// @throws input_error
inline expert_config parse_expert_config(std::string_view text, const std::string& file) {
  const json_value tree = parse_json(text, file);
  const json_reader root(tree, file);
  expert_config config;
  for (const auto& [key, list] : root.at("experts").members()) {
    std::vector<expert_index>& experts = config.experts.layers[layer_index(detail::index_key(key, config_limits::layers, list))];
    std::vector<bool> seen(static_cast<std::size_t>(config_limits::experts));
    for (const json_reader& element : list.elements()) {
      const auto id = static_cast<std::int32_t>(element.integer(0, config_limits::experts - 1));
      if (seen[static_cast<std::size_t>(id)])
        element.fail(input_error_code::bad_record, "expert " + std::to_string(id) + " is listed twice");
      seen[static_cast<std::size_t>(id)] = true;
      experts.emplace_back(id);
    }
  }
  if (const auto flag = root.find("shared_experts")) config.shared_experts = flag->boolean();
  if (const auto flag = root.find("non_expert_modules")) config.non_expert_modules = flag->boolean();
  return config;
}

/// Reads an `expert_cfg.json`. @throws input_error
inline expert_config read_expert_config(const std::filesystem::path& path) {
  return parse_expert_config(read_small_file(path, 64U << 20U), path.string());
}

/// Text of an `expert_cfg.json`: layers in numerical order, experts in selection order.
inline std::string write_expert_config(const expert_config& config) {
  json_value layers = json_object();
  for (const auto& [layer, experts] : config.experts.layers) {
    json_value list = json_array();
    for (const expert_index expert : experts) list.push(expert.value);
    layers.add(std::to_string(layer.value), std::move(list));
  }
  json_value root = json_object();
  root.add("experts", std::move(layers)).add("shared_experts", config.shared_experts).add("non_expert_modules", config.non_expert_modules);
  return write_json(root);
}

/// Writes an `expert_cfg.json`, whole or not at all.
inline void save_expert_config(const std::filesystem::path& path, const expert_config& config) {
  write_file_atomically(path, write_expert_config(config));
}

}  // namespace esft
