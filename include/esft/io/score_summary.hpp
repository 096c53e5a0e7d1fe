// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Score files: the official `summary.json` with token and gate scores, and beside them the scores of any other scorer.

#include <esft/core/score_table.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// The relevance scores of a task. The first two are the official ones; a table without layers is not in the file.
struct score_summary {
  score_table token_scores;                     ///< share of the routing slots that an expert got
  score_table gate_scores;                      ///< mean weight that an expert got
  std::map<std::string, score_table> others{};  ///< of other scorers, by their names

  /// The scores of a scorer by its name, or null.
  [[nodiscard]] const score_table* find(const std::string& scorer) const {
    const auto other = others.find(scorer);
    const score_table* table = scorer == "token"       ? &token_scores
                               : scorer == "gate"      ? &gate_scores
                               : other == others.end() ? nullptr
                                                       : &other->second;
    return table == nullptr || table->layers.empty() ? nullptr : table;
  }
  /// Puts the scores of a scorer where its name belongs.
  void set(const std::string& scorer, score_table table) {
    (scorer == "token" ? token_scores : scorer == "gate" ? gate_scores : others[scorer]) = std::move(table);
  }
  /// Names of the scores that are there, the official ones first.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const char* official : {"token", "gate"}) {
      if (find(official) != nullptr) result.emplace_back(official);
    }
    for (const auto& [name, table] : others) result.push_back(name);
    return result;
  }
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

/// Official files have 4 decimals; scores of other scorers have a scale of their own and keep every digit.
inline json_value write_score_table(const score_table& table, bool four_decimals) {
  json_value layers = json_object();
  for (const auto& [layer, content] : table.layers) {
    json_value experts = json_object();
    for (std::size_t expert = 0; expert < content.scores.size(); ++expert) {
      const double score = content.scores[expert];
      experts.add(std::to_string(expert), four_decimals ? std::round(score * 1e4) / 1e4 : score);
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
  score_summary summary;
  const auto read = [&](const char* key, score_table& table) {
    if (const auto found = root.find(key)) table = detail::parse_score_table(*found);
  };
  read("token_scores", summary.token_scores);
  read("gate_scores", summary.gate_scores);
  if (const auto others = root.find("other_scores")) {
    for (const auto& [name, layers] : others->members()) summary.others[name] = detail::parse_score_table(layers);
  }
  if (summary.names().empty()) root.fail(input_error_code::missing_key, "no scores: neither token_scores nor gate_scores nor other_scores");
  return summary;
}

/// Reads a `summary.json`. @throws input_error
inline score_summary read_score_summary(const std::filesystem::path& path) {
  return parse_score_summary(read_small_file(path, 256U << 20U), path.string());
}

/// Text of a `summary.json`, official scores rounded to 4 decimals. Without other scorers it has exactly the two official keys.
/// @deviation exact counts are not part of this format: a selection made from the file sees the rounded scores, as the official one does
inline std::string write_score_summary(const score_summary& summary) {
  json_value root = json_object();
  const auto write = [&](const char* key, const score_table& table) {
    if (!table.layers.empty()) root.add(key, detail::write_score_table(table, true));
  };
  write("token_scores", summary.token_scores);
  write("gate_scores", summary.gate_scores);
  if (!summary.others.empty()) {
    json_value others = json_object();
    for (const auto& [name, table] : summary.others) others.add(name, detail::write_score_table(table, false));
    root.add("other_scores", std::move(others));
  }
  return write_json(root);
}

/// Writes a `summary.json`, whole or not at all.
inline void save_score_summary(const std::filesystem::path& path, const score_summary& summary) {
  write_file_atomically(path, write_score_summary(summary));
}

}  // namespace esft
