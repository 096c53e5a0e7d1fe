// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `config.json` to and from `hf_config`: every problem is reported at once, and no feature is ignored in silence.

#include <esft/core/contract.hpp>
#include <esft/io/file.hpp>
#include <esft/io/hf_config.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

/// Reads members of a config and collects what is wrong, instead of stopping at the first problem.
class config_collector {
 public:
  explicit config_collector(json_reader root) : root_(std::move(root)) {}

  std::vector<std::string> problems;
  bool unsupported = false;
  bool incomplete = false;  ///< a key is missing or unreadable: contradictions that follow from it would only confuse

  /// Runs `use` on a member that is there and not null. Returns whether it is.
  template <class Use>
  bool optional(std::string_view key, Use&& use) {
    try {
      const auto member = root_.find(key);
      if (!member || member->is_null()) return false;
      use(*member);
    } catch (const input_error& problem) {
      problems.push_back(problem.what());
      incomplete = true;
    }
    return true;
  }
  template <class Use>
  void required(std::string_view key, Use&& use) {
    if (!optional(key, use)) missing(key);
  }
  void missing(std::string_view key) {
    problems.push_back("'/" + std::string(key) + "': is missing");
    incomplete = true;
  }
  bool integer(std::string_view key, index& out) {
    // the range of meaning is validate()'s; this one only keeps the arithmetic safe
    return optional(key, [&](const json_reader& value) { out = value.integer(-1, config_limits::positions); });
  }
  void required_integer(std::string_view key, index& out) {
    if (!integer(key, out)) missing(key);
  }
  bool real(std::string_view key, double& out) {
    return optional(key, [&](const json_reader& value) { out = value.number(-1e300, 1e300); });
  }
  bool boolean(std::string_view key, bool& out) {
    return optional(key, [&](const json_reader& value) { out = value.boolean(); });
  }
  void token(std::string_view key, std::optional<index>& out) {
    optional(key, [&](const json_reader& value) {
      const bool is_list = value.value().kind() == json_kind::array;
      if (is_list && value.elements().empty()) return;
      out = (is_list ? value.elements().front() : value).integer(-1, config_limits::vocabulary);
    });
  }
  void refuse(std::string_view key, const std::string& why) {
    unsupported = true;
    problems.push_back("'/" + std::string(key) + "': " + why);
  }
  /// The key may be absent, null or `allowed`.
  void only(std::string_view key, const json_value& allowed) {
    optional(key, [&](const json_reader& value) {
      if (value.value() == allowed) return;
      std::string text = write_json(value.value(), json_layout::compact);
      refuse(key, printable(text) + " is not supported, only " + write_json(allowed, json_layout::compact));
    });
  }

 private:
  json_reader root_;
};

inline void collect_rope(config_collector& fields, hf_config& config) {
  fields.real("rope_theta", config.rope_theta);
  fields.optional("rope_scaling", [&](const json_reader&) { fields.refuse("rope_scaling", "scaled rotary embedding is not supported"); });
  fields.only("partial_rotary_factor", 1.0);
  fields.optional("rope_parameters", [&](const json_reader& rope) {  // the form of newer transformers
    for (const auto& [key, value] : rope.members()) {
      if (key == "rope_theta") {
        config.rope_theta = value.number(-1e300, 1e300);
      } else if (key != "rope_type" || value.string() != "default") {
        return fields.refuse("rope_parameters", "only rope_type 'default' with a rope_theta is supported");
      }
    }
  });
}

inline void collect_common(config_collector& fields, hf_config& config) {
  fields.required_integer("vocab_size", config.vocab_size);
  fields.required_integer("hidden_size", config.hidden_size);
  fields.required_integer("intermediate_size", config.intermediate_size);
  fields.required_integer("num_hidden_layers", config.num_hidden_layers);
  fields.required_integer("num_attention_heads", config.num_attention_heads);
  fields.required_integer("max_position_embeddings", config.max_position_embeddings);
  fields.required_integer("num_experts_per_tok", config.num_experts_per_tok);
  if (!fields.integer("num_key_value_heads", config.num_key_value_heads)) config.num_key_value_heads = config.num_attention_heads;
  if (!fields.integer("head_dim", config.head_dim) && config.num_attention_heads > 0) {
    if (config.hidden_size % config.num_attention_heads != 0) {
      fields.problems.push_back("hidden_size " + std::to_string(config.hidden_size) + " is no multiple of num_attention_heads " +
                                std::to_string(config.num_attention_heads) + " and head_dim is not given");
    }
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  if (!fields.real("rms_norm_eps", config.rms_norm_eps)) fields.missing("rms_norm_eps");
  collect_rope(fields, config);
  fields.boolean("tie_word_embeddings", config.tie_word_embeddings);
  fields.boolean("norm_topk_prob", config.norm_topk_prob);
  fields.token("bos_token_id", config.bos_token_id);
  fields.token("eos_token_id", config.eos_token_id);
  fields.token("pad_token_id", config.pad_token_id);
  for (const char* key : {"torch_dtype", "dtype"})
    fields.optional(key, [&](const json_reader& value) { config.torch_dtype = value.string(); });
  fields.only("hidden_act", "silu");
  fields.only("attention_bias", false);
  fields.only("mlp_bias", false);
  fields.only("clip_qkv", nullptr);
  fields.only("use_sliding_window", false);
  fields.optional("layer_types", [&](const json_reader& layers) {
    for (const json_reader& layer : layers.elements()) {
      if (layer.string() != "full_attention") return fields.refuse("layer_types", "only full_attention is supported");
    }
  });
  fields.only("n_group", 1);
  fields.only("topk_group", 1);
  fields.only("topk_method", "greedy");
  fields.only("scoring_func", "softmax");
  fields.only("ep_size", 1);
  fields.optional("quantization_config", [&](const json_reader&) {
    fields.refuse("quantization_config", "quantised checkpoints are not supported; use the bfloat16 one");
  });
}

/// Routed experts of qwen3_moe and olmoe: newer transformers write `num_local_experts` where older ones wrote `num_experts`.
inline void collect_experts(config_collector& fields, hf_config& config) {
  index local = 0;
  const bool has_local = fields.integer("num_local_experts", local);
  if (!fields.integer("num_experts", config.num_experts)) {
    if (!has_local) fields.missing("num_experts");
    config.num_experts = local;
  } else if (has_local && local != config.num_experts) {
    fields.problems.push_back("'/num_local_experts': is " + std::to_string(local) + ", but num_experts is " +
                              std::to_string(config.num_experts));
  }
}

inline void collect_family(config_collector& fields, hf_config& config) {
  if (config.model_type == "deepseek") {
    fields.required_integer("n_routed_experts", config.num_experts);
    fields.required_integer("moe_intermediate_size", config.moe_intermediate_size);
    fields.integer("n_shared_experts", config.num_shared_experts);
    fields.integer("first_k_dense_replace", config.first_k_dense_replace);
    fields.integer("moe_layer_freq", config.moe_layer_freq);
    fields.real("routed_scaling_factor", config.routed_scaling_factor);
    fields.real("aux_loss_alpha", config.aux_loss_alpha);
  } else if (config.model_type == "qwen3_moe") {
    config.qk_norm = query_key_norm::per_head;
    collect_experts(fields, config);
    fields.required_integer("moe_intermediate_size", config.moe_intermediate_size);
    fields.integer("decoder_sparse_step", config.decoder_sparse_step);
    fields.real("router_aux_loss_coef", config.aux_loss_alpha);
    fields.optional("mlp_only_layers", [&](const json_reader& layers) {
      for (const json_reader& layer : layers.elements()) config.mlp_only_layers.push_back(layer.integer(0, config_limits::layers));
    });
  } else if (config.model_type == "olmoe") {
    config.qk_norm = query_key_norm::full_width;
    collect_experts(fields, config);
    config.moe_intermediate_size = config.intermediate_size;
    fields.real("router_aux_loss_coef", config.aux_loss_alpha);
  } else {
    fields.refuse("model_type", "'" + printable(config.model_type) + "' is not supported; supported are deepseek, qwen3_moe and olmoe");
  }
}

}  // namespace detail

/// Reads the text of a `config.json`. Keys that do not change the computation are ignored; those that do are read or refused.
/// @throws input_error `unsupported_feature` or `inconsistent_config`, listing all problems at once
inline hf_config parse_hf_config(std::string_view text, const std::string& file) {
  const json_value tree = parse_json(text, file);
  detail::config_collector fields{json_reader(tree, "")};
  hf_config config;
  fields.required("model_type", [&](const json_reader& value) { config.model_type = value.string(); });
  detail::collect_common(fields, config);
  detail::collect_family(fields, config);
  if (!fields.incomplete) {
    for (std::string& problem : config.validate()) fields.problems.push_back(std::move(problem));
  }
  if (fields.problems.empty()) return config;
  std::string list;
  for (const std::string& problem : fields.problems) list += (list.empty() ? "" : "; ") + problem;
  throw input_error(fields.unsupported ? input_error_code::unsupported_feature : input_error_code::inconsistent_config, {file, {}, {}},
                    list, "check that this config.json belongs to a supported model");
}

/// Reads `config.json` of a model directory. @throws input_error
inline hf_config read_hf_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  return parse_hf_config(read_small_file(path, 1U << 20U), path.string());
}

/// Text of a `config.json` that other software reads as well.
/// @pre config.validate() is empty and config.model_type == "deepseek"
inline std::string write_hf_config(const hf_config& config) {
  ESFT_EXPECTS(config.validate().empty(), "only a usable configuration is written");
  ESFT_EXPECTS(config.model_type == "deepseek", "esft writes models of the deepseek family");
  ESFT_EXPECTS(config.head_dim * config.num_attention_heads == config.hidden_size,
               "the deepseek family has head_dim = hidden_size / heads");
  const auto token = [](const std::optional<index>& id) { return id ? json_value(*id) : json_value(nullptr); };
  json_value root = json_object();
  root.add("architectures", json_value::array{"DeepseekForCausalLM"});
  root.add("model_type", config.model_type);
  root.add("vocab_size", config.vocab_size);
  root.add("hidden_size", config.hidden_size);
  root.add("intermediate_size", config.intermediate_size);
  root.add("moe_intermediate_size", config.moe_intermediate_size);
  root.add("num_hidden_layers", config.num_hidden_layers);
  root.add("num_attention_heads", config.num_attention_heads);
  root.add("num_key_value_heads", config.num_key_value_heads);
  root.add("n_routed_experts", config.num_experts);
  root.add("n_shared_experts", config.num_shared_experts == 0 ? json_value(nullptr) : json_value(config.num_shared_experts));
  root.add("num_experts_per_tok", config.num_experts_per_tok);
  root.add("first_k_dense_replace", config.first_k_dense_replace);
  root.add("moe_layer_freq", config.moe_layer_freq);
  root.add("norm_topk_prob", config.norm_topk_prob);
  root.add("scoring_func", "softmax");
  if (config.routed_scaling_factor != 1) root.add("routed_scaling_factor", config.routed_scaling_factor);
  root.add("aux_loss_alpha", config.aux_loss_alpha);
  root.add("seq_aux", true);
  root.add("hidden_act", "silu");
  root.add("attention_bias", false);
  root.add("attention_dropout", 0.0);
  root.add("max_position_embeddings", config.max_position_embeddings);
  root.add("rms_norm_eps", config.rms_norm_eps);
  root.add("rope_theta", config.rope_theta);
  root.add("rope_scaling", nullptr);
  root.add("tie_word_embeddings", config.tie_word_embeddings);
  root.add("use_cache", true);
  root.add("bos_token_id", token(config.bos_token_id));
  root.add("eos_token_id", token(config.eos_token_id));
  root.add("pad_token_id", token(config.pad_token_id));
  root.add("torch_dtype", config.torch_dtype.empty() ? json_value("bfloat16") : json_value(config.torch_dtype));
  return write_json(root);
}

}  // namespace esft
