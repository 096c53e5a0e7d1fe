// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft bench policies`: every scorer x policy x plan, on the same work.

#include "../command.hpp"
#include "../console.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"
#include "../study.hpp"

#include <esft/peft/plans.hpp>
#include <esft/relevance/scorers.hpp>
#include <esft/selection/policies.hpp>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace esft::tool {
namespace {

struct bench_options {
  study_settings study;
  std::vector<std::string> scorers = names_of(builtin_scorers{});
  std::vector<std::string> policies = names_of(builtin_policies{});
  std::vector<std::string> methods = names_of(builtin_plans{});
  bool list = false;
};

bool among(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Of each layer's experts, those among which hybrid arms give factors to what is not trained whole: more than any policy here takes by
/// its own size, so that some are left.
constexpr double factored = 0.5;

/// The arms of one scorer: every policy, trained by every plan that selects experts. Policies that imitate or combine take the top-p
/// selection, which is therefore there even where nobody asked for runs of it.
std::vector<study_arm> bench_arms_of(const bench_options& given, const std::string& scorer) {
  const bool several_tasks = given.study.tasks.size() > 1;
  std::vector<study_arm> arms;
  for (const std::string& method : given.methods) {
    if (method == full_plan::name || method == hilo_plan::name) continue;
    const std::string prefix = method + "." + scorer + ".";
    const bool hybrid = method == hybrid_plan::name;
    const std::string factors = hybrid ? prefix + "wide" : std::string();
    if (hybrid) {
      study_arm wide{.name = factors, .scorer = scorer, .policy = std::string(top_fraction::name), .run = false};
      wide.given.fraction = factored;
      arms.push_back(std::move(wide));
    }
    const std::string reference = prefix + std::string(top_p::name);
    arms.push_back({.name = reference,
                    .method = method,
                    .scorer = scorer,
                    .policy = std::string(top_p::name),
                    .factors = factors,
                    .run = among(given.policies, top_p::name)});
    for (const std::string& policy : given.policies) {
      if (policy == top_p::name || (hybrid && policy == all_experts::name)) continue;
      const bool combines = policy == union_of_tasks::name || policy == intersection_of_tasks::name;
      if (combines && !several_tasks) continue;
      study_arm arm{.name = prefix + policy, .method = method, .scorer = scorer, .policy = policy, .factors = factors};
      const bool has_own_size = policy == top_k::name || policy == top_fraction::name || policy == all_experts::name;
      if (!has_own_size) arm.like = reference;
      arms.push_back(std::move(arm));
    }
  }
  return arms;
}

/// Every policy over every scorer, trained by every plan; once each the plans that select no experts: full as a bound, and hilo with as
/// many parameters as the first reference trains.
void make_bench_arms(bench_options& given) {
  study_settings& study = given.study;
  std::vector<study_arm> selecting;
  std::vector<arm_panel> panels;
  for (const std::string& scorer : given.scorers) {
    std::vector<study_arm> arms = bench_arms_of(given, scorer);
    panels.push_back({scorer + " scores", {}});
    for (const study_arm& arm : arms) {
      if (arm.run) panels.back().arms.push_back(arm.name);
    }
    selecting.insert(selecting.end(), arms.begin(), arms.end());
  }
  std::vector<std::string> bounds;
  for (const std::string_view method : {full_plan::name, hilo_plan::name}) {
    if (!among(given.methods, method)) continue;
    study_arm arm{.name = std::string(method), .method = std::string(method)};
    const auto reference =
        std::find_if(selecting.begin(), selecting.end(), [](const study_arm& one) { return one.name.ends_with(".top-p"); });
    if (method == hilo_plan::name && reference != selecting.end()) arm.like = reference->name;
    bounds.push_back(arm.name);
    study.arms.push_back(std::move(arm));
  }
  study.arms.insert(study.arms.end(), selecting.begin(), selecting.end());
  std::erase_if(panels, [](const arm_panel& panel) { return panel.arms.empty(); });
  if (panels.size() > 1) {
    for (arm_panel& panel : panels) panel.arms.insert(panel.arms.begin(), bounds.begin(), bounds.end());
    study.panels = std::move(panels);
  }
  for (const std::string_view policy : {union_of_tasks::name, intersection_of_tasks::name}) {
    if (study.tasks.size() == 1 && among(given.policies, policy))
      study.limits.push_back("Left out: the policy " + std::string(policy) +
                             ", which combines the selections of several tasks; --task names more than one.");
  }
  if (among(given.methods, hybrid_plan::name) && among(given.policies, all_experts::name))
    study.limits.push_back("Left out: hybrid with the policy all, which leaves no expert for factors.");
}

/// What would be run.
void list_bench_arms(const study_settings& study) {
  json_value names = json_array();
  std::size_t arms = 0;
  for (const study_arm& arm : study.arms) {
    if (!arm.run) continue;
    out().line(arm.name);
    names.push(arm.name);
    ++arms;
  }
  const std::size_t runs = arms * study.tasks.size() * study.seeds.size() * study.rates.size();
  out().line(std::to_string(arms) + " arms, " + std::to_string(runs) + " runs");
  json_value left_out = json_array();
  for (const std::string& sentence : study.limits) left_out.push(sentence);
  json_value result = json_object();
  result.add("arms", std::move(names)).add("runs", runs).add("left_out", std::move(left_out));
  out().result(result);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto options = std::make_shared<bench_options>();
  CLI::App* bench = app.add_subcommand("bench", "Compare methods on the same work");
  bench->require_subcommand(1);
  CLI::App* command = bench->add_subcommand("policies", "Every scorer x policy x plan: task gain, ability kept, parameters, state, time");
  study_settings& study = options->study;
  add_model_options(*command, study.model);
  command->add_option("--data", study.data, "folder with TASK.train.jsonl, TASK.test.jsonl and probe.DOMAIN.jsonl")->required();
  command->add_option("--task", study.tasks, "tasks, comma-separated; union and intersection need more than one")
      ->required()
      ->delimiter(',');
  command->add_option("--domain", study.domains, "domains whose loss should not rise, comma-separated")->delimiter(',');
  command->add_option("--scorer", options->scorers, "what makes an expert relevant, default: all")
      ->delimiter(',')
      ->check(CLI::IsMember(names_of(builtin_scorers{})));
  command
      ->add_option("--policy", options->policies,
                   "how experts are chosen, default: all; those that imitate take the top-p selection of the same scorer")
      ->delimiter(',')
      ->check(CLI::IsMember(names_of(builtin_policies{})));
  command
      ->add_option(
          "--method", options->methods,
          "how the selected experts are trained, default: all; hybrid gives factors to the others of the better half of each layer, full "
          "and hilo select none: full is a bound, hilo trains as many parameters as the first top-p arm")
      ->delimiter(',')
      ->check(CLI::IsMember(names_of(builtin_plans{})));
  command->add_option("--seeds", study.seeds, "of the data order, random policies and factors, comma-separated")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--rates", study.rates, "learning rates, comma-separated")->delimiter(',')->capture_default_str();
  command->add_option("--steps", study.steps, "optimizer steps of a run")->check(positive_number)->capture_default_str();
  command->add_option("--batch-rows", study.rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--length", study.length, "tokens a row")->check(positive_number)->capture_default_str();
  command->add_option("--sample-tokens", study.score_tokens, "tokens of the task that are scored")->capture_default_str();
  command->add_flag("--list", options->list, "name the arms and run nothing");
  command->add_option("--out", study.out, "folder to write; not needed with --list");
  command->callback([options] {
    make_bench_arms(*options);
    for (const std::string& sentence : options->study.limits) out().line(sentence);
    if (options->list) return list_bench_arms(options->study);
    if (options->study.out.empty()) throw usage_error("bench policies writes a folder: name it by --out, or ask for the arms alone by --list");
    run_and_print(options->study);
  });
}

}  // namespace esft::tool
