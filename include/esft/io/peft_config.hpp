// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `adapter_config.json` of a LoRA directory of the package peft: what of it decides the numbers, and refusal of what would change them.

#include <esft/core/low_rank.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Names of the files of peft's adapter directories.
struct peft_files {
  static constexpr std::string_view config = "adapter_config.json";
  static constexpr std::string_view tensors = "adapter_model.safetensors";
  static constexpr std::string_view prefix = "base_model.model.";  ///< of every tensor's name
};

/// What decides the numbers of a LoRA adapter. A factor's own rank is that of its shape.
struct peft_config {
  low_rank_options how;                         ///< rank, alpha and kind of scale where no pattern says otherwise; no dropout
  std::vector<std::string> target_modules;      ///< linear maps; when read, only where they are a list
  std::vector<std::string> target_parameters;   ///< tensors by name or end of name: stacks of experts, and matrices that are no linear map
  std::map<std::string, std::int64_t> ranks{};  ///< of modules that have another than `how`; read from the shapes, so only written
  std::vector<std::pair<std::string, double>> alphas{};  ///< end of a name and its alpha; the first that fits holds
  std::string base_model{};                              ///< name or path of the base, for people; may be empty
};

namespace detail {

/// Whether `pattern`, a name, is the name itself or what it ends with from a dot on.
[[nodiscard]] inline bool ends_with_name(std::string_view name, std::string_view pattern) {
  if (!name.ends_with(pattern)) return false;
  return name.size() == pattern.size() || name[name.size() - pattern.size() - 1] == '.';
}

/// peft's patterns are regular expressions; those that are names are understood. "^name" and ".*\.name" are such. Empty for others.
[[nodiscard]] inline std::string literal_pattern(std::string_view pattern) {
  const bool whole = pattern.starts_with('^');
  if (whole) pattern.remove_prefix(1);
  if (!whole && pattern.starts_with(R"(.*\.)")) pattern.remove_prefix(4);
  std::string result = whole ? "^" : "";
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    if (pattern[i] == '\\' && i + 1 < pattern.size() && (pattern[i + 1] == '.' || pattern[i + 1] == '_')) ++i;
    const char c = pattern[i];
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' || c == '-';
    if (!plain) return {};
    result += c;
  }
  return result;
}

/// Keys that say how an adapter was made or is stored, not what it computes.
[[nodiscard]] inline bool is_harmless_peft_key(std::string_view key) {
  static constexpr std::string_view keys[] = {"task_type",           "auto_mapping",        "revision",       "inference_mode",
                                              "lora_dropout",        "layers_to_transform", "layers_pattern", "peft_version",
                                              "exclude_modules",     "megatron_core",       "runtime_config", "eva_config",
                                              "ensure_weight_tying", "qalora_group_size",   "rank_pattern",   "base_model_name_or_path"};
  return std::find(std::begin(keys), std::end(keys), key) != std::end(keys);
}

/// Whether an option is off: null, false, "" or nothing in it.
[[nodiscard]] inline bool is_off(const json_reader& value) {
  if (value.is_null()) return true;
  if (const bool* flag = value.value().get_if<bool>()) return !*flag;
  if (const std::string* text = value.value().get_if<std::string>()) return text->empty();
  if (const auto* list = value.value().get_if<json_value::array>()) return list->empty();
  if (const auto* tree = value.value().get_if<json_value::object>()) return tree->empty();
  return false;
}

inline void read_peft_alphas(const json_reader& patterns, peft_config& config) {
  if (patterns.is_null()) return;
  for (const auto& [pattern, alpha] : patterns.members()) {
    const std::string name = literal_pattern(pattern);
    if (name.empty()) {
      alpha.fail(input_error_code::unsupported_feature, "the key is a regular expression: names of modules are understood",
                 "list the modules one by one");
    }
    config.alphas.emplace_back(name, alpha.number(0, 1e9));
  }
}

/// An option that is neither read nor known to be harmless must be off.
inline void expect_peft_option_off(const std::string& key, const json_reader& value) {
  if (is_harmless_peft_key(key) || is_off(value)) return;
  const std::string* text = value.value().get_if<std::string>();
  if (key == "bias" && text != nullptr && *text == "none") return;
  if (key == "init_lora_weights") {
    const bool keeps_base = text == nullptr || *text == "gaussian" || *text == "eva" || *text == "orthogonal";
    if (keeps_base) return;
    value.fail(input_error_code::unsupported_feature, "'" + printable(*text) + "' changes the base's own weights before training",
               "save the adapter with path_initial_model_for_weight_conversion");
  }
  value.fail(input_error_code::unsupported_feature, "asks for '" + printable(key) + "', which esft does not compute",
             "merge the adapter into its base with peft and load the merged model");
}

}  // namespace detail

/// Alpha of a module or parameter, by its name in peft's model.
[[nodiscard]] inline double alpha_of(const peft_config& config, std::string_view name) {
  for (const auto& [pattern, alpha] : config.alphas) {
    const bool fits = pattern.starts_with('^') ? name == std::string_view(pattern).substr(1) : detail::ends_with_name(name, pattern);
    if (fits) return alpha;
  }
  return config.how.alpha;
}
/// Whether a parameter is among the targets.
[[nodiscard]] inline bool targets_parameter(const peft_config& config, std::string_view name) {
  return std::any_of(config.target_parameters.begin(), config.target_parameters.end(),
                     [&](const std::string& target) { return detail::ends_with_name(name, target); });
}

/// Reads the configuration in `directory`. @throws input_error; `unsupported_feature` names an option that esft does not compute: DoRA,
/// biases, whole modules, trained tokens, another method than LoRA
[[nodiscard]] inline peft_config read_peft_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / peft_files::config;
  const json_value tree = parse_json(read_small_file(path, 64U << 20U), path.string());
  const json_reader root(tree, path.string());
  if (root.at("peft_type").string() != "LORA") {
    root.at("peft_type").fail(input_error_code::unsupported_feature, "is not LORA, the one method of peft that esft reads");
  }
  peft_config config;
  config.how.rank = root.at("r").integer(1, 1'000'000);
  config.how.alpha = root.at("lora_alpha").number(1e-9, 1e9);
  for (const auto& [key, value] : root.members()) {
    if (key == "peft_type" || key == "r" || key == "lora_alpha") continue;
    if (key == "use_rslora") {
      config.how.rank_stabilised = value.boolean();
    } else if (key == "alpha_pattern") {
      detail::read_peft_alphas(value, config);
    } else if (key == "target_parameters" || key == "target_modules") {
      auto& names = key == "target_modules" ? config.target_modules : config.target_parameters;
      if (value.value().get_if<json_value::array>() == nullptr) continue;  // absent, or an expression: the tensors' names say it
      for (const json_reader& name : value.elements()) names.push_back(name.string());
    } else {
      detail::expect_peft_option_off(key, value);
    }
  }
  return config;
}

/// Text of an `adapter_config.json`.
[[nodiscard]] inline std::string write_peft_config(const peft_config& config) {
  const auto list = [](const std::vector<std::string>& names) {
    json_value result = json_array();
    for (const std::string& name : names) result.push(name);
    return result;
  };
  const auto whole = static_cast<std::int64_t>(config.how.alpha);
  json_value ranks = json_object();
  for (const auto& [name, rank] : config.ranks) ranks.add(name, rank);
  json_value root = json_object();
  root.add("peft_type", "LORA").add("task_type", "CAUSAL_LM").add("inference_mode", true);
  root.add("base_model_name_or_path", config.base_model.empty() ? json_value(nullptr) : json_value(config.base_model));
  root.add("r", config.how.rank);
  root.add("lora_alpha", static_cast<double>(whole) == config.how.alpha ? json_value(whole) : json_value(config.how.alpha));
  root.add("use_rslora", config.how.rank_stabilised).add("rank_pattern", std::move(ranks)).add("alpha_pattern", json_object());
  root.add("target_modules", list(config.target_modules));
  root.add("target_parameters", config.target_parameters.empty() ? json_value(nullptr) : list(config.target_parameters));
  root.add("lora_dropout", 0.0).add("bias", "none").add("fan_in_fan_out", false).add("init_lora_weights", true).add("use_dora", false);
  root.add("modules_to_save", nullptr).add("layers_to_transform", nullptr).add("layers_pattern", nullptr);
  return write_json(root);
}

}  // namespace esft
