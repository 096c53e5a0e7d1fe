// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `comparison_report`: the page about an experiment: what was gained, what was forgotten, what it cost, what was proved.

#include <esft/analysis/charts/bar_chart.hpp>
#include <esft/analysis/charts/cumulative_share.hpp>
#include <esft/analysis/charts/overlap_matrix.hpp>
#include <esft/analysis/charts/relevance_heat_map.hpp>
#include <esft/analysis/charts/scatter_chart.hpp>
#include <esft/analysis/comparison.hpp>
#include <esft/analysis/routing_stats.hpp>

#include <algorithm>
#include <cstddef>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

inline const std::string dash = "\xe2\x80\x93";

/// A measured number, a diverged run, or a dash for what was not measured.
inline std::string measured(double value, int decimals) {
  return std::isnan(value) ? dash : std::isinf(value) ? "diverged" : fixed_text(value, decimals);
}
inline std::string loss_text(double value) { return std::isfinite(value) ? fixed_text(value, 4) : "diverged"; }
inline std::string percent_text(const std::optional<double>& share) { return share ? fixed_text(100 * *share, 1) : dash; }

/// Arms by first appearance: the number of an arm is its colour in every chart.
inline std::vector<std::string> arm_names(const comparison& input) {
  std::vector<std::string> names;
  for (const auto& run : input.arms) {
    if (std::find(names.begin(), names.end(), run.arm) == names.end()) names.push_back(run.arm);
  }
  return names;
}

inline std::string run_name(const arm_result& run) {
  return run.arm + (run.variant.empty() ? "" : ", " + run.variant) + ", lr " + rate_text(run.learning_rate);
}

inline report_table result_table(const comparison& input) {
  report_table table;
  table.text_columns = 2;
  table.columns = {"arm",
                   "variant",
                   "learning rate",
                   "task loss (" + input.loss_unit + ")",
                   "exact match (%)",
                   "forgotten (mean rise)",
                   "trained parameters",
                   "of all (%)",
                   "state",
                   "s per step",
                   "adapter"};
  table.rows.push_back({"base, untrained", "", dash, measured(input.base_task_loss, 4), percent_text(input.base_exact_match),
                        fixed_text(0, 4), "0", "0", "0 B", dash, dash});
  for (const auto& run : input.arms) {
    const double share = input.total_parameters > 0
                             ? 100.0 * static_cast<double>(run.trained_parameters) / static_cast<double>(input.total_parameters)
                             : std::numeric_limits<double>::quiet_NaN();
    table.rows.push_back({run.arm, run.variant, rate_text(run.learning_rate), loss_text(run.task_loss), percent_text(run.exact_match),
                          measured(run.mean_forgotten(), 4), count_text(run.trained_parameters), measured(share, 2),
                          bytes_text(run.state_bytes), fixed_text(run.seconds_per_step, 3), bytes_text(run.adapter_bytes)});
  }
  return table;
}

inline report_section trade_off_section(const comparison& input) {
  std::vector<scatter_series> series;
  report_table data{{"arm", "variant", "learning rate", "forgotten (mean rise)", "task loss"}, {}, 2};
  for (const auto& name : arm_names(input)) {
    scatter_series arm{name, {}, true};
    std::set<std::string> variants;
    for (const auto& run : input.arms) {
      if (run.arm != name) continue;
      variants.insert(run.variant);
      arm.points.push_back(
          {{run.mean_forgotten(), run.task_loss},
           rate_text(run.learning_rate),
           run_name(run) + ": task loss " + loss_text(run.task_loss) + ", forgotten " + measured(run.mean_forgotten(), 4)});
      data.rows.push_back(
          {run.arm, run.variant, rate_text(run.learning_rate), measured(run.mean_forgotten(), 4), loss_text(run.task_loss)});
    }
    arm.connected = variants.size() == 1;  // a line through different draws would mean nothing
    series.push_back(std::move(arm));
  }
  return {
      "Task loss against forgetting",
      {report_prose{
           {"Each point is one run; the small number is its learning rate. Down is better at the task, left is better at keeping the rest. "
            "Compare arms along a horizontal line: at equal task loss, which one forgot less?"}},
       report_figure{"Task loss after training, against the mean rise of the loss on the other domains",
                     {scatter_chart(series, "forgotten: mean rise of the other domains' loss (" + input.loss_unit + ")",
                                    "task loss (" + input.loss_unit + ")")},
                     std::move(data)}}};
}

inline report_section relevance_section(const relevance_map& map) {
  report_table rows{{"layer", "selected experts, highest score first", "selected", "score they carry", "layer sum", "evenness",
                     "experts without evidence"},
                    {},
                    2};
  for (const auto& [index, layer] : map.scores.layers) {
    const auto statistics = statistics_of(std::span<const double>(layer.scores));
    std::string ids;
    double carried = 0;
    std::size_t count = 0;
    if (const auto found = map.selected.layers.find(index); found != map.selected.layers.end()) {
      for (const expert_index expert : found->second) {
        ids += (ids.empty() ? "" : ", ") + std::to_string(expert.value);
        carried += layer.scores.at(static_cast<std::size_t>(expert.value));
        ++count;
      }
    }
    rows.rows.push_back({std::to_string(index.value), ids, std::to_string(count), fixed_text(carried, 4), fixed_text(statistics.sum, 4),
                         fixed_text(statistics.evenness, 3), std::to_string(statistics.dead.size())});
  }
  report_table scores{{"expert"}, {}, 1};
  std::size_t experts = 0;
  for (const auto& [index, layer] : map.scores.layers) {
    scores.columns.push_back("layer " + std::to_string(index.value));
    experts = std::max(experts, layer.scores.size());
  }
  for (std::size_t e = 0; e < experts; ++e) {
    std::vector<std::string> row{std::to_string(e)};
    for (const auto& [index, layer] : map.scores.layers) row.push_back(e < layer.scores.size() ? fixed_text(layer.scores[e], 4) : "");
    scores.rows.push_back(std::move(row));
  }
  const std::string name = map.score + " score on " + map.task;
  return {"Which experts matter: " + name,
          {report_figure{"Relevance of every expert to " + map.task + ", by layer",
                         {relevance_heat_map(map.scores, map.selected, map.unit)},
                         std::move(scores)},
           report_figure{"How quickly the experts add up" + (map.p ? ", and where p = " + exact_text(*map.p) + " cuts" : std::string()),
                         {cumulative_share(map.scores, map.selected, map.p, map.unit)},
                         std::move(rows)}}};
}

inline report_section overlap_section(const domain_overlap& overlap) {
  report_table data{{"domain"}, {}, 1};
  for (std::size_t i = 0; i < overlap.domains.size(); ++i) {
    data.columns.push_back(overlap.domains[i]);
    data.rows.push_back({overlap.domains[i]});
    for (const double value : overlap.shared.at(i)) data.rows.back().push_back(fixed_text(value, 3));
  }
  return {"Do different domains use different experts?",
          {report_prose{{"Random choices would share " + fixed_text(overlap.by_chance, 2) + " of " + std::to_string(overlap.top) +
                         " experts per layer. Less than that between two domains means that the model keeps them apart; training few "
                         "experts can only spare "
                         "what is kept apart."}},
           report_figure{"Shared experts among the top " + std::to_string(overlap.top) + ", mean over layers",
                         {overlap_matrix(overlap.domains, overlap.shared, "shared experts per layer, of " + std::to_string(overlap.top))},
                         std::move(data)}}};
}

inline report_section cost_section(const comparison& input) {
  std::vector<bar> trained, state, step, adapter;
  const auto names = arm_names(input);
  for (std::size_t i = 0; i < names.size(); ++i) {  // the first run stands for its arm: cost does not depend on the learning rate
    const auto run = std::find_if(input.arms.begin(), input.arms.end(), [&](const auto& r) { return r.arm == names[i]; });
    trained.push_back({names[i], static_cast<double>(run->trained_parameters), count_text(run->trained_parameters), i});
    state.push_back({names[i], static_cast<double>(run->state_bytes), bytes_text(run->state_bytes), i});
    step.push_back({names[i], run->seconds_per_step, fixed_text(run->seconds_per_step, 3) + " s", i});
    adapter.push_back({names[i], static_cast<double>(run->adapter_bytes), bytes_text(run->adapter_bytes), i});
  }
  report_table data{{"arm", "trained parameters", "state (bytes)", "s per step", "adapter (bytes)"}, {}, 1};
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto run = std::find_if(input.arms.begin(), input.arms.end(), [&](const auto& r) { return r.arm == names[i]; });
    data.rows.push_back({names[i], std::to_string(run->trained_parameters), std::to_string(run->state_bytes),
                         fixed_text(run->seconds_per_step, 4), std::to_string(run->adapter_bytes)});
  }
  return {"Cost",
          {report_figure{"Cost of each arm (of its first run, where there are several)",
                         {bar_chart(trained, "Trained parameters"), bar_chart(state, "Optimizer state, gradients, master weights"),
                          bar_chart(step, "Time per step"), bar_chart(adapter, "Size of the adapter")},
                         std::move(data)}}};
}

inline report_table forgotten_table(const comparison& input) {
  std::set<std::string> domains;
  for (const auto& run : input.arms) {
    for (const auto& [domain, rise] : run.forgotten) domains.insert(domain);
  }
  report_table table{{"run"}, {}, 1};
  table.columns.insert(table.columns.end(), domains.begin(), domains.end());
  for (const auto& run : input.arms) {
    std::vector<std::string> row{run_name(run)};
    for (const auto& domain : domains) row.push_back(run.forgotten.contains(domain) ? loss_text(run.forgotten.at(domain)) : dash);
    table.rows.push_back(std::move(row));
  }
  return table;
}

inline report_section losses_section(const comparison& input) {
  report_table data{{"curve", "first", "lowest", "last", "steps"}, {}, 1};
  for (const auto& c : input.losses) {
    if (c.points.empty()) continue;
    double lowest = std::numeric_limits<double>::infinity();
    for (const point& p : c.points) lowest = std::min(lowest, std::isfinite(p.y) ? p.y : lowest);
    data.rows.push_back(
        {c.name, loss_text(c.points.front().y), loss_text(lowest), loss_text(c.points.back().y), short_text(c.points.back().x)});
  }
  std::size_t longest = 0;
  for (const auto& c : input.losses) longest = std::max(longest, c.points.size());
  const std::size_t window = std::max<std::size_t>(1, longest / 25);
  std::vector<curve> smooth;
  const auto names = arm_names(input);
  for (const auto& c : input.losses) {
    smooth.push_back(trailing_mean(c, window));
    std::size_t matched = 0;  // the longest arm that the name begins with: "full" must not claim "full-experts"
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (names[i].size() < matched || !c.name.starts_with(names[i])) continue;
      matched = names[i].size();
      smooth.back().series = i;
    }
  }
  const std::string caption =
      "Loss while training" + (window > 1 ? ", mean of the last " + std::to_string(window) + " points" : std::string());
  return {"Training loss",
          {report_figure{caption, {line_chart(smooth, "step", "training loss (" + input.loss_unit + ")")}, std::move(data)}}};
}

}  // namespace detail

/// Lays the measurements out as a page; parts without data are left out.
/// @throws contract_violation if the overlap matrix does not fit its names
[[nodiscard]] inline report comparison_report(const comparison& input) {
  report page{input.title, input.subtitle, input.facts, {}};
  report_section results{"Results", {report_prose{input.findings}}};
  if (!input.arms.empty()) results.blocks.push_back(detail::result_table(input));
  if (!input.arms.empty() || !input.findings.empty()) page.sections.push_back(std::move(results));
  if (!input.arms.empty()) page.sections.push_back(detail::trade_off_section(input));
  for (const auto& map : input.relevance) page.sections.push_back(detail::relevance_section(map));
  if (!input.overlap.domains.empty()) page.sections.push_back(detail::overlap_section(input.overlap));
  if (!input.losses.empty()) page.sections.push_back(detail::losses_section(input));
  if (!input.arms.empty()) {
    page.sections.push_back(detail::cost_section(input));
    page.sections.push_back(
        {"What was forgotten, domain by domain",
         {report_prose{{"Rise of the loss over the base model's, in " + input.loss_unit + ". A negative number is an improvement."}},
          detail::forgotten_table(input)}});
  }
  if (!input.receipt.empty()) page.sections.push_back({"Receipt", {report_checks{input.receipt}}});
  if (!input.limits.empty()) page.sections.push_back({"What this page does not show", {report_prose{input.limits}}});
  if (!input.config.empty()) {
    report_table table{{"setting", "value"}, {}, 2};
    for (const auto& fact : input.config) table.rows.push_back({fact.name, fact.value});
    page.sections.push_back({"Settings", {std::move(table)}});
  }
  return page;
}

}  // namespace esft
