// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft select`: from scores to the experts that are worth training.

#include "../command.hpp"
#include "../console.hpp"
#include "../format.hpp"

#include <esft/io/expert_config.hpp>
#include <esft/io/score_summary.hpp>
#include <esft/selection/policies.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace esft::tool {
namespace {

struct select_options {
  std::filesystem::path scores, like, out;
  std::string score = "token";
  std::string policy{top_p::name};
  std::string mode = "exact";
  std::string normalization = "none";
  std::optional<double> p;
  int k = 1;
  int min_experts = 0;
  int max_experts = 0;
  std::uint64_t seed = 0;
  std::uint32_t draw = 0;
  bool shared_experts = false;
  bool non_expert_modules = false;
};

/// A policy from the command line.
template <class Policy>
Policy make(const select_options& options) {
  if constexpr (std::is_same_v<Policy, top_p>) {
    top_p_options chosen;
    chosen.p = options.p.value_or(options.score == "gate" ? 0.1 : 0.2);
    chosen.mode = options.mode == "official" ? threshold_mode::official_compat : threshold_mode::exact;
    chosen.normalization = options.normalization == "layer-sum" ? score_normalization::layer_sum : score_normalization::none;
    chosen.min_experts = options.min_experts;
    chosen.max_experts = options.max_experts;
    return Policy(chosen);
  } else if constexpr (std::is_same_v<Policy, top_k>) {
    return Policy(options.k);
  } else if constexpr (std::is_same_v<Policy, random_like>) {
    if (options.like.empty()) throw usage_error("the policy random needs --like: the expert_cfg.json whose number of experts it draws");
    return Policy(random_like_options{read_expert_config(options.like).experts, options.seed, options.draw});
  } else {
    return Policy();
  }
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
  const score_summary summary = read_score_summary(options.scores);
  const score_table& table = options.score == "gate" ? summary.gate_scores : summary.token_scores;
  expert_config selected{{}, options.shared_experts, options.non_expert_modules};
  visit_by_name(builtin_policies{}, options.policy, [&]<class Policy>() { selected.experts = make<Policy>(options).select(table); });
  save_expert_config(options.out, selected);

  std::size_t all = 0;
  for (const auto& [layer, scores] : table.layers) all += scores.scores.size();
  print(selected, table);
  out().line("selected " + std::to_string(selected.experts.size()) + " of " + std::to_string(all) + " experts (" +
             fixed(100.0 * static_cast<double>(selected.experts.size()) / static_cast<double>(all), 1) + " %) by " + options.policy +
             " over " + options.score + " scores");
  out().line("wrote    " + options.out.string());
  json_value result = json_object();
  result.add("out", options.out.string()).add("policy", options.policy).add("score", options.score);
  result.add("selected", selected.experts.size()).add("experts", all).add("layers", selected.experts.layers.size());
  out().result(result);
}

}  // namespace

void add_select(CLI::App& app) {
  auto options = std::make_shared<select_options>();
  CLI::App* command = app.add_subcommand("select", "Select the experts to train from scores");
  std::vector<std::string> policies;
  builtin_policies::for_each([&]<class Policy>() { policies.emplace_back(Policy::name); });
  command->add_option("--scores", options->scores, "score file written by `esft score`, or an official summary.json")->required();
  command->add_option("--score", options->score, "which score")->check(CLI::IsMember({"token", "gate"}))->capture_default_str();
  command->add_option("--policy", options->policy)->check(CLI::IsMember(policies))->capture_default_str();
  command->add_option("--p", options->p, "top-p: share of the score to reach; default 0.2 for token and 0.1 for gate scores");
  command->add_option("--mode", options->mode, "top-p: exact sums, or the running float sum of the official code")
      ->check(CLI::IsMember({"exact", "official"}))
      ->capture_default_str();
  command->add_option("--normalization", options->normalization, "top-p: p of the score as it is, or of the layer's sum")
      ->check(CLI::IsMember({"none", "layer-sum"}))
      ->capture_default_str();
  command->add_option("--min-experts", options->min_experts, "top-p: at least so many a layer")->check(CLI::NonNegativeNumber);
  command->add_option("--max-experts", options->max_experts, "top-p: at most so many a layer, 0: no limit")->check(CLI::NonNegativeNumber);
  command->add_option("--k", options->k, "top-k: experts a layer")->capture_default_str();
  command->add_option("--like", options->like, "random: expert_cfg.json whose number of experts is drawn");
  command->add_option("--seed", options->seed, "random")->capture_default_str();
  command->add_option("--draw", options->draw, "random: number of the draw")->capture_default_str();
  command->add_flag("--train-shared-experts", options->shared_experts, "also train the shared experts");
  command->add_flag("--train-non-expert-modules", options->non_expert_modules, "also train all that is no expert");
  command->add_option("--out", options->out, "expert_cfg.json to write")->required();
  command->callback([options] { select(*options); });
}

}  // namespace esft::tool
