// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `config.json` to and from `hf_config`: every problem is reported at once, and no feature is ignored in silence.

#include <esft/core/contract.hpp>
#include <esft/io/config_collector.hpp>
#include <esft/io/file.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

/// @eq 0.1 mscale ln(factor) + 1 @source YaRN, arXiv 2309.00071, section 3.4
inline double yarn_magnitude(double factor, double mscale) { return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0; }

/// The members of `rope_scaling`, or of `rope_parameters` as newer transformers write it.
inline void collect_scaling(config_collector& fields, std::string_view where, const json_reader& rope, hf_config& config) {
  std::string type = "default";
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  std::optional<double> attention_factor;
  rotary_scaling scaling;
  for (const auto& member : rope.members()) {
    const auto& key = member.first;
    const json_reader& value = member.second;
    const auto real = [&] { return value.number(-1e300, 1e300); };
    if (value.is_null()) continue;
    if (key == "rope_theta") {
      config.rope_theta = real();
    } else if (key == "type" || key == "rope_type") {
      type = value.string();
    } else if (key == "factor") {
      scaling.factor = real();
    } else if (key == "original_max_position_embeddings") {
      scaling.original_positions = real();
    } else if (key == "beta_fast") {
      scaling.beta_fast = real();
    } else if (key == "beta_slow") {
      scaling.beta_slow = real();
    } else if (key == "mscale") {
      mscale = real();
    } else if (key == "mscale_all_dim") {
      mscale_all_dim = real();
    } else if (key == "attention_factor") {
      attention_factor = real();
    } else if (key == "truncate") {
      scaling.truncate = value.boolean();
    } else if (key != "partial_rotary_factor" || real() != 1) {
      fields.refuse(where, "'" + printable(key) + "' is not supported");
    }
  }
  if (type == "default") return;
  if (type != "yarn") return fields.refuse(where, "rope_type '" + printable(type) + "' is not supported, only 'default' and 'yarn'");
  if (!(scaling.factor >= 1 && scaling.factor < 1e6 && scaling.original_positions >= 1 && scaling.beta_fast > 0 && scaling.beta_slow > 0)) {
    return fields.refuse(where, "'yarn' is supported with a factor of at least 1, original_max_position_embeddings and positive betas");
  }
  const bool authors = config.kv_lora_rank > 0;  // DeepSeek's code has defaults of its own, and scales the scores as well
  const bool both = mscale.value_or(0) != 0 && mscale_all_dim.value_or(0) != 0;
  scaling.magnitude = authors || both
                          ? yarn_magnitude(scaling.factor, mscale.value_or(1)) / yarn_magnitude(scaling.factor, mscale_all_dim.value_or(0))
                          : yarn_magnitude(scaling.factor, 1);
  if (attention_factor) scaling.magnitude = *attention_factor;
  if (authors) config.score_factor = std::pow(yarn_magnitude(scaling.factor, mscale_all_dim.value_or(0)), 2);
  config.rope_scaling = scaling;
}

/// What a file without rope_theta means, as the authors' own class of configurations says; none where that class and their published
/// files (Qwen: 1 000 000) say different numbers.
inline std::optional<double> default_rope_theta(std::string_view family) {
  if (family.starts_with("deepseek") || family == "olmoe") return 1e4;
  if (family == "mixtral") return 1e6;
  if (family == "gpt_oss") return 150000;
  return std::nullopt;
}

inline void collect_rope(config_collector& fields, hf_config& config) {
  constexpr double unsaid = std::numeric_limits<double>::quiet_NaN();  // the one number that no file can say
  config.rope_theta = unsaid;
  fields.real("rope_theta", config.rope_theta);
  bool said = false;
  for (const char* key : {"rope_scaling", "rope_parameters"})
    said = fields.optional(key, [&](const json_reader& rope) { collect_scaling(fields, key, rope, config); }) || said;
  if (!said && config.model_type == "gpt_oss") fields.missing("rope_scaling");  // other software then takes numbers of its own
  if (std::isnan(config.rope_theta)) {
    const std::optional<double> usual = default_rope_theta(config.model_type);
    if (!usual && config.known_family()) fields.missing("rope_theta");
    config.rope_theta = usual.value_or(hf_config().rope_theta);
  }
  fields.only("partial_rotary_factor", 1.0);
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
  const bool latent = config.kv_lora_rank > 0;  // transformers then writes the rotated width there
  if (latent) fields.ignore({"head_dim"});
  if (!latent && !fields.integer("head_dim", config.head_dim) && config.num_attention_heads > 0) {
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
  fields.only("mlp_bias", false);
  fields.only("clip_qkv", nullptr);
  fields.only("use_sliding_window", false);
  if (config.model_type != "gpt_oss") {
    fields.only("attention_bias", false);
    fields.optional("layer_types", [&](const json_reader& layers) {
      for (const json_reader& layer : layers.elements()) {
        if (layer.string() != "full_attention") return fields.refuse("layer_types", "only full_attention is supported");
      }
    });
    fields.ignore({"sliding_window", "max_window_layers"});
  }
  fields.only("attention_dropout", 0.0);
  fields.only("ep_size", 1);
  fields.optional("quantization_config", [&](const json_reader& how) {
    const auto method = how.find("quant_method");
    fields.refuse("quantization_config", "quantised checkpoints" + (method ? " ('" + printable(method->string()) + "')" : std::string()) +
                                             " are not supported; use or make the bfloat16 one");
  });
  // what belongs to training from scratch, to other software, or to the way transformers runs a model
  fields.ignore({"architectures", "auto_map", "transformers_version", "_name_or_path", "use_cache", "initializer_range", "pretraining_tp",
                 "output_router_logits", "output_attentions", "output_hidden_states", "return_dict",
                 "router_aux_loss_coef", "aux_loss_alpha", "seq_aux", "qk_head_dim", "rope_interleave", "num_nextn_predict_layers",
                 "_attn_implementation", "_experts_implementation", "chunk_size_feed_forward", "is_encoder_decoder",
                 "problem_type", "id2label", "label2id", "_attn_implementation_autoset", "attn_implementation", "tokenizer_class",
                 "torchscript", "unsloth_fixed", "unsloth_version"});
}

/// Routed experts of the families that are not DeepSeek's: newer transformers write `num_local_experts` where older ones wrote
/// `num_experts`.
inline void collect_experts(config_collector& fields, hf_config& config) {
  index local = 0;
  const bool has_local = fields.integer("num_local_experts", local);
  if (!fields.integer("num_experts", config.num_experts)) {
    if (!has_local) fields.missing(config.model_type == "mixtral" ? "num_local_experts" : "num_experts");
    config.num_experts = local;
  } else if (has_local && local != config.num_experts) {
    fields.problems.push_back("'/num_local_experts': is " + std::to_string(local) + ", but num_experts is " +
                              std::to_string(config.num_experts));
  }
}

inline void collect_dense_layers(config_collector& fields, hf_config& config) {
  fields.integer("decoder_sparse_step", config.decoder_sparse_step);
  fields.optional("mlp_only_layers", [&](const json_reader& layers) {
    for (const json_reader& layer : layers.elements()) config.mlp_only_layers.push_back(layer.integer(0, config_limits::layers));
  });
}

inline void collect_deepseek_experts(config_collector& fields, hf_config& config) {
  fields.required_integer("n_routed_experts", config.num_experts);
  fields.required_integer("moe_intermediate_size", config.moe_intermediate_size);
  fields.integer("n_shared_experts", config.num_shared_experts);
  fields.integer("first_k_dense_replace", config.first_k_dense_replace);
  fields.integer("moe_layer_freq", config.moe_layer_freq);
  fields.real("routed_scaling_factor", config.routed_scaling_factor);
  fields.real("aux_loss_alpha", config.aux_loss_alpha);
}

/// topk_method of a model whose experts `group_model` bound: no other software knows it.
inline constexpr const char* grouped_experts_method = "esft_grouped_experts";

inline void collect_groups(config_collector& fields, hf_config& config) {
  fields.required_integer("n_group", config.num_groups);
  fields.required_integer("topk_group", config.kept_groups);
}

inline void collect_deepseek(config_collector& fields, hf_config& config) {
  collect_deepseek_experts(fields, config);
  if (config.model_type == "deepseek_v3") {
    config.router = router_kind::sigmoid;
    fields.only("scoring_func", "sigmoid");
    fields.only("topk_method", "noaux_tc");
    fields.only("rope_interleave", true);
    fields.integer("num_nextn_predict_layers", config.num_nextn_predict_layers);
    return collect_groups(fields, config);
  }
  fields.only("scoring_func", "softmax");
  fields.optional("topk_method", [&](const json_reader& method) {
    if (method.string() == "group_limited_greedy" && config.model_type == "deepseek_v2") config.router = router_kind::group_limited;
    if (method.string() == std::string_view(grouped_experts_method)) config.router = router_kind::grouped_experts;
  });
  if (config.router != router_kind::softmax) return collect_groups(fields, config);
  fields.only("topk_method", "greedy");
  fields.only("n_group", 1);
  fields.only("topk_group", 1);
}

/// Latent attention; before the common keys, which depend on it.
inline void collect_latent(config_collector& fields, hf_config& config) {
  if (config.model_type != "deepseek_v2" && config.model_type != "deepseek_v3") return;
  if (config.model_type == "deepseek_v3") {  // what its authors' class has where a file says nothing
    config.norm_topk_prob = true;
    config.routed_scaling_factor = 2.5;
  }
  fields.required_integer("kv_lora_rank", config.kv_lora_rank);
  fields.integer("q_lora_rank", config.q_lora_rank);
  fields.required_integer("qk_nope_head_dim", config.qk_nope_head_dim);
  fields.required_integer("qk_rope_head_dim", config.qk_rope_head_dim);
  fields.required_integer("v_head_dim", config.v_head_dim);
  config.head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim;
}

/// Biases, sinks, windows and the clamped activation. What the published files leave out is what their authors' code has.
inline void collect_gpt_oss(config_collector& fields, hf_config& config) {
  collect_experts(fields, config);
  config.moe_intermediate_size = config.intermediate_size;
  config.norm_topk_prob = true;  // the softmax over the logits of the chosen experts is the renormalised one over all
  config.attention_sinks = true;
  config.expert_biases = true;
  config.qkv_bias = true;
  fields.boolean("attention_bias", config.qkv_bias);
  config.output_bias = config.qkv_bias;
  config.swiglu_limit = 7;
  fields.real("swiglu_limit", config.swiglu_limit);
  fields.real("swiglu_alpha", config.swiglu_alpha);
  fields.real("router_aux_loss_coef", config.aux_loss_alpha);
  fields.only("experts_per_token", json_value(config.num_experts_per_tok));
  fields.ignore({"initial_context_length"});  // of the authors' own format; rope_scaling says the same
  std::vector<bool> windowed(static_cast<std::size_t>(std::clamp<index>(config.num_hidden_layers, 0, config_limits::layers)));
  for (std::size_t layer = 0; layer < windowed.size(); layer += 2) windowed[layer] = true;
  fields.optional("layer_types", [&](const json_reader& layers) {
    windowed.clear();
    for (const json_reader& layer : layers.elements()) {
      const std::string& kind = layer.string();
      if (kind != "full_attention" && kind != "sliding_attention") {
        return fields.refuse("layer_types", "'" + printable(kind) + "' is not supported, only full_attention and sliding_attention");
      }
      windowed.push_back(kind == "sliding_attention");
    }
  });
  const bool any = std::find(windowed.begin(), windowed.end(), true) != windowed.end();
  if (!fields.integer("sliding_window", config.sliding_window) && any) fields.missing("sliding_window");
  if (any) config.windowed_layers = std::move(windowed);
  if (!any) config.sliding_window = 0;
}

inline void collect_family(config_collector& fields, hf_config& config) {
  if (config.model_type.starts_with("deepseek") && config.known_family()) {
    collect_deepseek(fields, config);
  } else if (config.model_type == "qwen2_moe") {
    config.qkv_bias = true;
    config.shared_expert_gate = true;
    collect_experts(fields, config);
    fields.boolean("qkv_bias", config.qkv_bias);
    fields.required_integer("moe_intermediate_size", config.moe_intermediate_size);
    fields.required_integer("shared_expert_intermediate_size", config.shared_expert_intermediate_size);
    fields.real("router_aux_loss_coef", config.aux_loss_alpha);
    collect_dense_layers(fields, config);
  } else if (config.model_type == "qwen3_moe") {
    config.qk_norm = query_key_norm::per_head;
    collect_experts(fields, config);
    fields.required_integer("moe_intermediate_size", config.moe_intermediate_size);
    fields.real("router_aux_loss_coef", config.aux_loss_alpha);
    collect_dense_layers(fields, config);
    fields.only("qkv_bias", false);
    fields.only("use_qk_norm", true);
    fields.only("shared_expert_intermediate_size", std::int64_t{0});
  } else if (config.model_type == "olmoe") {
    config.qk_norm = query_key_norm::full_width;
    collect_experts(fields, config);
    config.moe_intermediate_size = config.intermediate_size;
    fields.real("router_aux_loss_coef", config.aux_loss_alpha);
  } else if (config.model_type == "mixtral") {
    collect_experts(fields, config);
    config.moe_intermediate_size = config.intermediate_size;
    config.norm_topk_prob = true;
    fields.only("sliding_window", nullptr);
    fields.only("router_jitter_noise", 0.0);
    fields.real("router_aux_loss_coef", config.aux_loss_alpha);
  } else if (config.model_type == "gpt_oss") {
    collect_gpt_oss(fields, config);
  } else {
    fields.refuse("model_type", "'" + printable(config.model_type) + "' is not supported; supported are " + hf_config::families());
  }
}

}  // namespace detail

/// Reads the text of a `config.json`. Keys are read, known not to change the computation, or refused.
/// @throws input_error `unsupported_feature` or `inconsistent_config`, listing all problems at once
inline hf_config parse_hf_config(std::string_view text, const std::string& file) {
  const json_value tree = parse_json(text, file);
  detail::config_collector fields{json_reader(tree, "")};
  hf_config config;
  fields.required("model_type", [&](const json_reader& value) { config.model_type = value.string(); });
  detail::collect_latent(fields, config);
  detail::collect_common(fields, config);
  detail::collect_family(fields, config);
  if (config.known_family()) fields.refuse_others();
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
  if (config.router == router_kind::grouped_experts)
    root.add("topk_method", detail::grouped_experts_method).add("n_group", config.num_groups).add("topk_group", config.kept_groups);
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
