// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Official `summary.json`: token scores and gate scores of every expert, with 4 decimals.

#include <esft/core/score_table.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// The two relevance scores of a task.
struct score_summary {
  score_table token_scores;  ///< share of the routing slots that an expert got
  score_table gate_scores;   ///< mean weight that an expert got
};

namespace detail {

inline score_table parse_score_table(const json_reader& layers) {
  score_table table;
  for (const auto& [layer_key, experts] : layers.members()) {
    const auto members = experts.members();
    if (members.empty()) experts.fail(input_error_code::bad_record, "a layer without experts");
    std::vector<double>& scores = table.layers[layer_index(index_key(layer_key, config_limits::layers, experts))].scores;
    scores.assign(members.size(), -1);
    for (const auto& [expert_key, score] : members) {
      const auto expert = static_cast<std::size_t>(index_key(expert_key, static_cast<index>(members.size()), score));
      scores[expert] = score.number(0, std::numeric_limits<double>::max());
    }
  }
  return table;
}

inline json_value write_score_table(const score_table& table) {
  json_value layers = json_object();
  for (const auto& [layer, content] : table.layers) {
    json_value experts = json_object();
    for (std::size_t expert = 0; expert < content.scores.size(); ++expert) {
      experts.add(std::to_string(expert), std::round(content.scores[expert] * 1e4) / 1e4);
    }
    layers.add(std::to_string(layer.value), std::move(experts));
  }
  return layers;
}

}  // namespace detail

/// Reads the text of a `summary.json`; the experts of a layer must be 0 .. E-1 without gaps. @throws input_error
inline score_summary parse_score_summary(std::string_view text, const std::string& file) {
  const json_value tree = parse_json(text, file);
  const json_reader root(tree, file);
  return {detail::parse_score_table(root.at("token_scores")), detail::parse_score_table(root.at("gate_scores"))};
}

/// Reads a `summary.json`. @throws input_error
inline score_summary read_score_summary(const std::filesystem::path& path) {
  return parse_score_summary(read_small_file(path, 256U << 20U), path.string());
}

/// Text of a `summary.json`, scores rounded to 4 decimals.
/// @deviation exact counts are not part of this format: a selection made from the file sees the rounded scores, as the official one does
inline std::string write_score_summary(const score_summary& summary) {
  json_value root = json_object();
  root.add("token_scores", detail::write_score_table(summary.token_scores))
      .add("gate_scores", detail::write_score_table(summary.gate_scores));
  return write_json(root);
}

/// Writes a `summary.json`, whole or not at all.
inline void save_score_summary(const std::filesystem::path& path, const score_summary& summary) {
  write_file_atomically(path, write_score_summary(summary));
}

}  // namespace esft
