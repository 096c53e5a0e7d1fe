// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `group_model`: a model whose experts are bound in groups that tokens take as a whole, for seeing what coarser experts would do.

#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>
#include <esft/core/expert_names.hpp>
#include <esft/core/strong_index.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/fused_sources.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors.hpp>
#include <esft/io/side_files.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// The experts of every MoE layer in groups of equal size.
using expert_groups = std::map<layer_index, std::vector<std::vector<expert_index>>>;

namespace detail {

/// What the model is called with its experts in groups. @throws usage_error where that is not possible
inline hf_config grouped_config(const std::filesystem::path& model, std::size_t group_size) {
  hf_config config = read_hf_config(model);
  const std::string place = (model / "config.json").string() + ": ";
  if (config.router != router_kind::softmax || !config.model_type.starts_with("deepseek")) {
    throw usage_error(place + "experts can be grouped in models of deepseek and deepseek_v2 whose router has no groups yet");
  }
  const auto size = static_cast<index>(group_size);
  if (size < 1 || config.num_experts % size != 0 || config.num_experts_per_tok % size != 0) {
    throw usage_error(place + "groups of " + std::to_string(size) + " must divide the " + std::to_string(config.num_experts) +
                      " experts of a layer and the " + std::to_string(config.num_experts_per_tok) + " of a token");
  }
  config.router = router_kind::grouped_experts;
  config.num_groups = config.num_experts / size;
  config.kept_groups = config.num_experts_per_tok / size;
  for (const std::string& problem : config.validate()) throw usage_error(place + "with groups of " + std::to_string(size) + ": " + problem);
  return config;
}

/// The text of config.json with these groups, all else as it was.
inline std::string with_groups(const std::filesystem::path& file, const hf_config& grouped) {
  const json_value tree = parse_json(read_small_file(file, 1U << 20U), file.string());
  json_value result = json_object();
  for (const json_member& member : *tree.get_if<json_value::object>()) {
    if (member.key != "topk_method" && member.key != "n_group" && member.key != "topk_group") result.add(member.key, member.value);
  }
  result.add("topk_method", grouped_experts_method).add("n_group", grouped.num_groups).add("topk_group", grouped.kept_groups);
  return write_json(result);
}

/// A tensor with its rows in another order: row r is row order[r] of the model's.
inline tensor_source reordered_rows(const model_directory& model, const tensor_record& record, std::span<const std::size_t> order) {
  std::vector<std::byte> stored(record.byte_size());
  model.read(record.name, stored);
  const std::size_t row = stored.size() / order.size();
  const auto bytes = std::make_shared<std::vector<std::byte>>();
  for (const std::size_t from : order) {
    const auto at = stored.begin() + static_cast<std::ptrdiff_t>(from * row);
    bytes->insert(bytes->end(), at, at + static_cast<std::ptrdiff_t>(row));
  }
  return {record.name, record.type, record.shape, [bytes](const byte_sink& sink) { sink(*bytes); }};
}

}  // namespace detail

/// Writes `model` to `output`, a new or empty directory, with the experts of each layer in the order of its groups: their numbers change,
/// their bytes do not. Its config.json asks for `grouped_experts_router`, which no other software has.
/// @pre every MoE layer has groups of one size that hold each expert once
/// @cost streaming: memory does not grow with the model
/// @throws usage_error for another family or a size that does not divide E and K; input_error; storage_error
inline void group_model(const std::filesystem::path& model, const expert_groups& groups, const std::filesystem::path& output) {
  ESFT_EXPECTS(!groups.empty() && !groups.begin()->second.empty(), "there are groups");
  const std::size_t size = groups.begin()->second.front().size();
  const hf_config config = detail::grouped_config(model, size);
  const model_directory base = model_directory::open(model);
  std::map<std::string, std::string> moved;                        // an expert's tensor -> the one whose bytes come there
  std::map<std::string, std::vector<std::size_t>> routers;         // a router -> the order of its rows
  for (index layer = 0; layer < config.num_hidden_layers; ++layer) {
    const auto found = groups.find(layer_index(static_cast<std::int32_t>(layer)));
    ESFT_EXPECTS((found != groups.end()) == config.is_moe_layer(layer), "MoE layers have groups, and only they");
    if (found == groups.end()) continue;
    const std::string block = "model.layers." + std::to_string(layer) + ".mlp.";
    std::vector<std::size_t>& order = routers[block + "gate.weight"];
    for (const auto& group : found->second) {
      ESFT_EXPECTS(group.size() == size, "groups are of one size");
      for (const expert_index expert : group) {
        const auto place = static_cast<std::int64_t>(order.size());
        for (const std::string_view part : {expert_name_styles[0].gate, expert_name_styles[0].up, expert_name_styles[0].down})
          moved[expert_matrix(block, place, part) + ".weight"] = expert_matrix(block, expert.value, part) + ".weight";
        order.push_back(static_cast<std::size_t>(expert.value));
      }
    }
    ESFT_EXPECTS(std::set<std::size_t>(order.begin(), order.end()).size() == static_cast<std::size_t>(config.num_experts) &&
                     order.size() == static_cast<std::size_t>(config.num_experts),
                 "groups hold each expert once");
  }
  atomic_directory result(output);
  for (std::size_t i = 0; i < base.shards().size(); ++i) {
    const safetensors_file& shard = base.shards()[i];
    const auto source_of = [&](const tensor_record& record) {
      const auto router = routers.find(record.name);
      if (router != routers.end()) return detail::reordered_rows(base, record, router->second);
      const auto from = moved.find(record.name);
      if (from == moved.end()) return file_source(shard, record);
      tensor_source source = file_source(base.shard_of(from->second), base.at(from->second));
      source.name = record.name;
      return source;
    };
    std::vector<tensor_source> sources;
    for (const tensor_record& stored : shard.tensors()) sources.push_back(stored_source(base, stored, source_of));
    write_safetensors(result.path() / base.shard_names()[i], sources, shard.metadata());
  }
  for (const safetensors_file& shard : base.shards()) shard.expect_unchanged();
  detail::copy_side_files(model, result.path());
  write_file_atomically(result.path() / "config.json", detail::with_groups(model / "config.json", config));
  result.commit();
}

}  // namespace esft
