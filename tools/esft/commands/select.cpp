// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft select`: from scores to the experts that are worth training.

#include "../command.hpp"
#include "../console.hpp"
#include "../format.hpp"
#include "../number_checks.hpp"
#include "../output_file.hpp"
#include "../policy_choice.hpp"

#include <esft/io/expert_config.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/score_summary.hpp>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace esft::tool {
namespace {

struct select_options {
  std::filesystem::path scores, model, out;
  std::vector<std::filesystem::path> like;
  std::string score;
  std::string policy{top_p::name};
  std::string mode = "exact";
  std::string normalization;
  policy_arguments given;
  std::vector<CLI::Option*> of_policies;  ///< the flags that only some policies take
  bool shared_experts = false;
  bool non_expert_modules = false;
};

/// The score to select by. @throws usage_error if the file does not have it, or leaves a choice that nobody made
std::string score_of(const select_options& options, const score_summary& summary) {
  const std::vector<std::string> there = summary.names();
  std::string names;
  for (const std::string& name : there) names += (names.empty() ? "" : ", ") + name;
  if (options.score.empty()) {
    if (summary.find("token") != nullptr || there.size() == 1) return there.front();
    throw usage_error(options.scores.string() + " has the scores " + names + ": say by --score which to select by");
  }
  if (summary.find(options.score) == nullptr) {
    throw usage_error("--score " + options.score + ": " + options.scores.string() + " has no such score, it has " + names);
  }
  return options.score;
}

/// What the command line says, with the defaults of the score.
policy_arguments arguments_of(const select_options& options, const std::string& score) {
  policy_arguments given = options.given;
  for (const std::filesystem::path& file : options.like) given.like.push_back(read_expert_config(file).experts);
  given.mode = options.mode == "official" ? threshold_mode::official_compat : threshold_mode::exact;
  if (!options.normalization.empty()) {
    given.normalization = options.normalization == "none" ? score_normalization::none : score_normalization::layer_sum;
  }
  if (!options.model.empty()) {
    const hf_config config = read_hf_config(options.model);
    given.expert_parameters = 3 * config.hidden_size * config.moe_intermediate_size;
  }
  return with_defaults(std::move(given), score);
}

void print(const expert_config& selected, const score_table& table) {
  text_table rows({"layer", "experts", "of", "share", "ids"});
  for (const auto& [layer, experts] : selected.experts.layers) {
    const std::vector<double>& scores = table.layers.at(layer).scores;
    double total = 0;
    for (const double value : scores) total += value;
    double share = 0;
    std::string ids;
    for (const expert_index expert : experts) {
      share += scores[static_cast<std::size_t>(expert.value)];
      ids += (ids.empty() ? "" : ", ") + std::to_string(expert.value);
    }
    rows.add({std::to_string(layer.value), std::to_string(experts.size()), std::to_string(scores.size()),
              total > 0 ? fixed(share / total, 3) : "-", ids});
  }
  for (const std::string& line : rows.lines()) out().line(line);
}

void select(const select_options& options) {
  expect_no_input(options.out, {options.scores, options.model});
  const score_summary summary = read_score_summary(options.scores);
  const std::string score = score_of(options, summary);
  const score_table& table = *summary.find(score);
  expert_config selected{{}, options.shared_experts, options.non_expert_modules};
  visit_by_name(builtin_policies{}, options.policy, [&]<class Policy>() {
    for (const CLI::Option* flag : options.of_policies) {
      const std::string said = flag->get_name();
      if (flag->count() > 0) require_taken<Policy>(said == "--model" ? "expert-parameters" : said.substr(2), said);  // from its config.json
    }
  });
  const policy_arguments given = arguments_of(options, score);
  budgeted_selection within;
  visit_by_name(builtin_policies{}, options.policy, [&]<class Policy>() {
    require_shares<Policy>(given, score, table);
    const auto policy = make_policy<Policy>(given);
    if constexpr (requires { policy.select_within(table); }) {
      within = policy.select_within(table);
      selected.experts = within.experts;
    } else {
      selected.experts = policy.select(table);
    }
  });
  save_expert_config(options.out, selected);

  std::size_t all = 0;
  for (const auto& [layer, scores] : table.layers) all += scores.scores.size();
  print(selected, table);
  out().line("selected " + std::to_string(selected.experts.size()) + " of " + std::to_string(all) + " experts (" +
             fixed(100.0 * static_cast<double>(selected.experts.size()) / static_cast<double>(all), 1) + " %) by " + options.policy +
             " over " + score + " scores");
  if (within.budget > 0) {
    const std::string unit = given.expert_parameters == 1 ? " experts" : " parameters";
    out().line("spent    " + grouped(within.spent) + " of " + grouped(within.budget) + unit +
               (within.p > 0 ? " at p = " + significant(within.p, 9) : ""));
    if (within.exceeded())
      out().warn("the budget is exceeded: every layer keeps at least one expert; --budget " + std::to_string(within.spent) +
                 " is the least");
  }
  out().line("wrote    " + options.out.string());
  json_value result = json_object();
  result.add("out", options.out.string()).add("policy", options.policy).add("score", score);
  result.add("selected", selected.experts.size()).add("experts", all).add("layers", selected.experts.layers.size());
  if (within.budget > 0) result.add("spent", within.spent).add("budget", within.budget).add("exceeded", within.exceeded());
  if (within.p > 0) result.add("p", within.p);
  out().result(result);
}

}  // namespace

void add_select(CLI::App& app) {
  auto options = std::make_shared<select_options>();
  CLI::App* command = app.add_subcommand("select", "Select the experts to train from scores");
  std::vector<std::string> policies;
  builtin_policies::for_each([&]<class Policy>() { policies.emplace_back(Policy::name); });
  command->add_option("--scores", options->scores, "score file written by `esft score`, or an official summary.json")->required();
  command->add_option("--score", options->score, "which score of the file, by the name of its scorer; default: token where it is there, or the only one");
  command->add_option("--policy", options->policy, "how experts are chosen")->check(CLI::IsMember(policies))->capture_default_str();
  const auto some_take = [&](const char* name, auto& value, const char* meaning) {
    options->of_policies.push_back(command->add_option(name, value, meaning));
    return options->of_policies.back();
  };
  policy_arguments& given = options->given;
  some_take("--p", given.p, "top-p, top-p-groups: share of the score to reach; default 0.2, and 0.1 for gate scores");
  some_take("--mode", options->mode, "top-p, top-p-groups: exact sums, or the running float sum of the official code")
      ->check(CLI::IsMember({"exact", "official"}))
      ->capture_default_str();
  some_take("--normalization", options->normalization,
            "top-p, top-p-groups, budget, p-budget: the score as it is, or as a share of the layer's sum; default: as it is for the first two over "
            "token and gate scores, else the share")
      ->check(CLI::IsMember({"none", "layer-sum"}));
  some_take("--min-experts", given.min_experts, "top-p: at least so many a layer; top-p-groups: so many groups")->check(non_negative_number);
  some_take("--max-experts", given.max_experts, "top-p: at most so many a layer; top-p-groups: so many groups; 0: no limit")
      ->check(non_negative_number);
  some_take("--group", given.group, "top-p-groups: neighbouring experts that are bound together, as `esft group` binds them");
  some_take("--k", given.k, "top-k: experts a layer, default 1");
  some_take("--fraction", given.fraction, "fraction: share of each layer's experts, default 0.25");
  some_take("--budget", given.budget, "budget, p-budget: parameters to train at most; counts experts unless an expert's size is given");
  some_take("--expert-parameters", given.expert_parameters, "budget, p-budget: parameters of one expert");
  some_take("--model", options->model, "budget, p-budget: model directory, whose config.json tells the size of an expert");
  some_take("--like", options->like,
            "random, bottom: expert_cfg.json whose number of experts is taken; union, intersection: those to combine, given again and again");
  some_take("--seed", given.seed, "random: of what is drawn")->capture_default_str();
  some_take("--draw", given.draw, "random: number of the draw")->capture_default_str();
  command->add_flag("--train-shared-experts", options->shared_experts, "also train the shared experts");
  command->add_flag("--train-non-expert-modules", options->non_expert_modules, "also train all that is no expert");
  command->add_option("--out", options->out, "expert_cfg.json to write")->required();
  command->callback([options] { select(*options); });
}

}  // namespace esft::tool
