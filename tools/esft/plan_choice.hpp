// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which plan a command line asks for: the flags of all plans, and the trainable set that they make for a model.

#include "hilo_choice.hpp"

#include <esft/core/error.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/peft/plans.hpp>

#include <CLI/App.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace esft::tool {

/// What was asked for.
struct plan_request {
  std::string method{esft_plan::name};
  std::filesystem::path experts;
  std::filesystem::path factor_experts;
  low_rank_options factors;
  std::vector<std::string> targets;
  hilo_request hilo;
  const CLI::App* flags = nullptr;  ///< to tell what was given from what was left as it is
};

/// What the plan trains, and what to save with the adapter.
struct chosen_plan {
  trainable_set trainable;
  expert_config experts;
  std::optional<low_rank_options> low_rank;
  std::map<layer_index, std::int64_t> low_rank_active;  ///< of layers where a router chooses among factors
};

/// Adds --method (or --plan), --experts, and the flags of low-rank plans.
inline void add_plan_options(CLI::App& command, plan_request& request) {
  std::vector<std::string> names;
  builtin_plans::for_each([&]<class Plan>() { names.emplace_back(Plan::name); });
  request.flags = &command;
  command
      .add_option("--method,--plan", request.method,
                  "what is trained: selected experts, everything, low-rank factors, low-rank experts (hilo), or selected experts and "
                  "factors (hybrid)")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  command.add_option("--experts", request.experts, "expert_cfg.json written by `esft select`; with lora: only these experts get factors");
  command.add_option("--factor-experts", request.factor_experts,
                     "hybrid: expert_cfg.json of a wider selection; its experts that --experts does not train get factors");
  command.add_option("--rank", request.factors.rank, "lora, hybrid: rank of the factors")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--alpha", request.factors.alpha, "lora, hybrid, hilo: the factors' product is scaled by alpha / rank")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_flag("--rslora", request.factors.rank_stabilised, "lora, hybrid, hilo: scale by alpha / sqrt(rank) instead");
  command
      .add_option("--dropout", request.factors.dropout, "lora, hybrid, hilo: share of the input that the factors do not see in training")
      ->check(CLI::Range(0.0, 0.999))
      ->capture_default_str();
  command
      .add_option(
          "--targets", request.targets,
          "lora, hybrid, hilo: matrices that get factors, comma-separated: attention (query, key, value, output), dense, shared, experts "
          "(experts_gate_up, experts_down), router, head; default: all but router and head, with hilo all but experts as well, with hybrid "
          "experts only")
      ->delimiter(',');
  add_hilo_options(command, request.hilo);
}

inline void refuse_flags_of_another_plan(const plan_request& request) {
  if (request.flags == nullptr) return;
  const bool lora = request.method == lora_plan::name;
  const bool hilo = request.method == hilo_plan::name;
  const bool hybrid = request.method == hybrid_plan::name;
  const auto refuse = [&](const char* flag, const std::string& owner) {
    if (request.flags->get_option(flag)->count() > 0)
      throw usage_error(std::string(flag) + " belongs to --method " + owner + ", not to --method " + request.method);
  };
  if (!lora && !hybrid) refuse("--rank", "lora (hilo has --ranks)");
  for (const char* flag : {"--alpha", "--rslora", "--dropout", "--targets"}) {
    if (!lora && !hilo && !hybrid) refuse(flag, "lora");
  }
  if (!hybrid) refuse("--factor-experts", "hybrid");
  for (const char* flag : hilo_flags) {
    if (!hilo) refuse(flag, "hilo");
  }
}
/// Of which pairs a token uses how many, and the configuration of an adapter that trains no expert whole.
inline void describe_factors(chosen_plan& result, const parameter_inventory& model) {
  result.experts = {};
  for (const parameter_entry& entry : model) {
    const auto target = result.trainable.low_rank.find(entry.key);
    const bool adapted = target != result.trainable.low_rank.end();
    if (adapted && target->second.mixture.routed()) result.low_rank_active[entry.key.layer] = target->second.mixture.active;
    if (entry.experts == 0) continue;
    auto& listed = result.experts.experts.layers[entry.key.layer];
    if (listed.empty() && adapted) listed = target->second.experts;
  }
}
inline chosen_plan choose_plan(const plan_request& request, const parameter_inventory& model, const model_directory& base) {
  chosen_plan result;
  if (request.method == full_plan::name) {
    if (!request.experts.empty()) throw usage_error("--method full trains everything: leave out --experts, or choose --method esft");
    result.trainable = full_plan{}.trainable(model);
    for (const parameter_entry& entry : model) {
      if (entry.experts == 0) continue;
      auto& all = result.experts.experts.layers[entry.key.layer];
      all.clear();
      for (int e = 0; e < entry.experts; ++e) all.emplace_back(e);
    }
    result.experts.shared_experts = true;
    result.experts.non_expert_modules = true;
    return result;
  }
  if (request.method == esft_plan::name && request.experts.empty())
    throw usage_error("--method esft needs --experts: the expert_cfg.json that `esft select` writes");
  if (request.method == hilo_plan::name) {
    if (!request.experts.empty())
      throw usage_error("--experts selects routed experts, which --method hilo leaves alone: choose --method lora, or leave it out");
    const hilo_plan plan = make_hilo_plan(request.hilo, request.factors, low_rank_roles(request.targets), model, base);
    result.trainable = plan.trainable(model);
    result.low_rank = request.factors;
    result.low_rank->rank = plan.ranks.front();
    describe_factors(result, model);
    return result;
  }
  if (!request.experts.empty()) result.experts = read_expert_config(request.experts);
  if (request.method == hybrid_plan::name) {
    if (request.experts.empty() || request.factor_experts.empty())
      throw usage_error("--method hybrid needs --experts, which are trained whole, and --factor-experts, a wider selection");
    hybrid_plan plan;
    plan.whole = {result.experts.experts, result.experts.shared_experts, result.experts.non_expert_modules};
    plan.factors.how = request.factors;
    plan.factors.experts = read_expert_config(request.factor_experts).experts;
    if (!request.targets.empty()) plan.factors.targets = low_rank_roles(request.targets);
    result.trainable = plan.trainable(model);
    result.low_rank = request.factors;
    return result;
  }
  if (request.method == esft_plan::name) {
    result.trainable = esft_plan{result.experts.experts, result.experts.shared_experts, result.experts.non_expert_modules}.trainable(model);
    return result;
  }
  lora_plan plan{request.factors, low_rank_roles(request.targets), {}};
  if (!request.experts.empty()) plan.experts = result.experts.experts;
  result.trainable = plan.trainable(model);
  result.low_rank = request.factors;
  describe_factors(result, model);  // which experts have factors; everything else that has is in the list of tensors
  return result;
}

/// Makes the plan for a model. @throws usage_error when flags, selection and model do not fit, or nothing would be trained
[[nodiscard]] inline chosen_plan make_plan(const plan_request& request, const parameter_inventory& model, const model_directory& base) {
  refuse_flags_of_another_plan(request);
  chosen_plan result;
  const std::string file = request.experts.empty() ? std::string() : request.experts.string() + ": ";
  try {
    result = choose_plan(request, model, base);
  } catch (const usage_error& problem) {
    const bool says_it = file.empty() || std::string(problem.what()).starts_with("--");
    throw usage_error((says_it ? "" : file) + problem.what());
  }
  if (result.trainable.empty()) throw usage_error(file + "the plan trains nothing: select at least one expert");
  return result;
}

}  // namespace esft::tool
