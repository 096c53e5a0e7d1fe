// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which plan a command line asks for: the flags of all plans, and the trainable set that they make for a model.

#include "hilo_choice.hpp"
#include "number_checks.hpp"

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
#include <type_traits>
#include <vector>

namespace esft::tool {

/// What a plan is made of, said by flags or by an arm of a study.
struct plan_request {
  std::string method{esft_plan::name};
  std::optional<expert_config> selected;   ///< experts, and what else `esft` and `hybrid` train; with lora: the experts that get factors
  std::optional<expert_set> with_factors;  ///< hybrid: a wider selection, whose other experts get factors
  low_rank_options factors;
  std::vector<std::string> targets;
  hilo_request hilo;
  std::int64_t parameters = 0;  ///< lora, hilo: as many as these are trained, as close as it gets; 0: rank and numbers are as given
};

/// The same with the files that the flags name.
struct plan_flags : plan_request {
  std::filesystem::path experts;
  std::filesystem::path factor_experts;
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
inline void add_plan_options(CLI::App& command, plan_flags& request) {
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
      ->check(positive_number)
      ->capture_default_str();
  command.add_option("--alpha", request.factors.alpha, "lora, hybrid, hilo: the factors' product is scaled by alpha / rank")
      ->check(positive_number)
      ->capture_default_str();
  command.add_flag("--rslora", request.factors.rank_stabilised, "lora, hybrid, hilo: scale by alpha / sqrt(rank) instead");
  command
      .add_option("--dropout", request.factors.dropout, "lora, hybrid, hilo: share of the input that the factors do not see in training")
      ->check(number_between(0.0, 0.999))
      ->capture_default_str();
  command
      .add_option(
          "--targets", request.targets,
          "lora, hybrid, hilo: matrices that get factors, comma-separated: attention (query, key, value, output; latent: query_a, "
          "key_value_a, key_value_b), dense, shared, experts (experts_gate_up, experts_down), shared_gate, router, head; default: all but the "
          "last three, with hilo all but experts as well, with hybrid experts only")
      ->delimiter(',');
  add_hilo_options(command, request.hilo);
}

inline void refuse_flags_of_another_plan(const plan_flags& request) {
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

/// The selection of a plan that trains experts whole. @throws usage_error when there is none
inline const expert_config& required_selection(const plan_request& request) {
  if (request.selected) return *request.selected;
  throw usage_error(request.method +
                    " trains selected experts: --experts names them, the expert_cfg.json that `esft select` writes; in a " +
                    "study a scorer and a policy do, and without them it trains shared_experts or non_expert_modules");
}

/// One overload for each plan of `builtin_plans`: the plan that a request asks for, on a model. A plan without one does not compile.
inline chosen_plan make(std::type_identity<esft_plan>, const plan_request& request, const parameter_inventory& model,
                        const model_directory&) {
  const expert_config& selected = required_selection(request);
  return {esft_plan{selected.experts, selected.shared_experts, selected.non_expert_modules}.trainable(model), selected, {}, {}};
}
inline chosen_plan make(std::type_identity<full_plan>, const plan_request& request, const parameter_inventory& model,
                        const model_directory&) {
  if (request.selected) throw usage_error("full trains everything: leave the selection of experts out, or choose the method esft");
  chosen_plan result{full_plan{}.trainable(model), {{}, true, true}, {}, {}};
  for (const parameter_entry& entry : model) {
    if (entry.experts == 0) continue;
    auto& all = result.experts.experts.layers[entry.key.layer];
    all.clear();
    for (int e = 0; e < entry.experts; ++e) all.emplace_back(e);
  }
  return result;
}
inline chosen_plan make(std::type_identity<lora_plan>, const plan_request& request, const parameter_inventory& model,
                        const model_directory&) {
  lora_plan plan{request.factors, low_rank_roles(request.targets), {}};
  if (request.selected) {
    if (request.selected->shared_experts || request.selected->non_expert_modules) {
      throw usage_error(
          "lora trains nothing whole: leave shared experts and other modules out of the selection, or choose the method esft or "
          "hybrid");
    }
    plan.experts = request.selected->experts;
  }
  if (request.parameters > 0) {  // the rank that comes closest
    plan.how.rank = 1;
    const std::int64_t per_rank = trained_elements(plan.trainable(model), model);
    plan.how.rank = std::max<std::int64_t>(1, (request.parameters + per_rank / 2) / per_rank);
    plan.how.alpha = 2 * static_cast<double>(plan.how.rank);
  }
  chosen_plan result{plan.trainable(model), {}, plan.how, {}};
  describe_factors(result, model);  // which experts have factors; everything else that has is in the list of tensors
  return result;
}
inline chosen_plan make(std::type_identity<hilo_plan>, const plan_request& request, const parameter_inventory& model,
                        const model_directory& base) {
  if (request.selected)
    throw usage_error("hilo leaves routed experts alone: leave the selection of experts out, or choose the method lora");
  hilo_request how = request.hilo;
  if (request.parameters > 0) {
    how.budget = request.parameters;
    how.or_least = true;
  }
  const hilo_plan plan = make_hilo_plan(how, request.factors, low_rank_roles(request.targets), model, base);
  chosen_plan result{plan.trainable(model), {}, request.factors, {}};
  result.low_rank->rank = plan.ranks.front();
  describe_factors(result, model);
  return result;
}
inline chosen_plan make(std::type_identity<hybrid_plan>, const plan_request& request, const parameter_inventory& model,
                        const model_directory&) {
  const expert_config& selected = required_selection(request);
  if (!request.with_factors)
    throw usage_error("hybrid needs factors for further experts: --factor-experts, a wider selection; in a study factors, an arm");
  hybrid_plan plan;
  plan.whole = {selected.experts, selected.shared_experts, selected.non_expert_modules};
  plan.factors.how = request.factors;
  plan.factors.experts = request.with_factors;
  if (!request.targets.empty()) plan.factors.targets = low_rank_roles(request.targets);
  return {plan.trainable(model), selected, request.factors, {}};
}

/// Makes the plan for a model. @throws usage_error when selection, options and model do not fit
[[nodiscard]] inline chosen_plan make_plan(const plan_request& request, const parameter_inventory& model, const model_directory& base) {
  chosen_plan result;
  const bool known = visit_by_name(builtin_plans{}, request.method,
                                   [&]<class Plan>() { result = make(std::type_identity<Plan>{}, request, model, base); });
  if (!known) throw usage_error("there is no method " + request.method + ": `esft list plans` names them");
  return result;
}
/// The same from flags. @throws usage_error also when flags do not fit, or nothing would be trained
[[nodiscard]] inline chosen_plan make_plan(const plan_flags& flags, const parameter_inventory& model, const model_directory& base) {
  refuse_flags_of_another_plan(flags);
  plan_request request = flags;
  if (!flags.experts.empty()) request.selected = read_expert_config(flags.experts);
  if (!flags.factor_experts.empty()) request.with_factors = read_expert_config(flags.factor_experts).experts;
  const std::string file = flags.experts.empty() ? std::string() : flags.experts.string() + ": ";
  chosen_plan result;
  try {
    result = make_plan(request, model, base);
  } catch (const usage_error& problem) {
    throw usage_error(file + problem.what());
  }
  if (result.trainable.empty()) throw usage_error(file + "the plan trains nothing: select at least one expert");
  return result;
}

}  // namespace esft::tool
