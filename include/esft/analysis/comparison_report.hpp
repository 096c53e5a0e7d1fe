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
#include <esft/analysis/repeated_runs.hpp>
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

/// "0.9170 ± 0.0041"; without the spread that a single run does not have.
template <class Text>
std::string with_spread(const mean_spread& value, Text&& text) {
  if (!std::isfinite(value.mean) || value.count < 2) return text(value.mean);
  return text(value.mean) + " \xc2\xb1 " + text(value.deviation);
}
inline std::string loss_with_spread(const mean_spread& value) { return with_spread(value, loss_text); }
inline std::string forgotten_with_spread(const mean_spread& value) {
  return with_spread(value, [](double x) { return measured(x, 4); });
}
inline bool repeats(const std::vector<repeated_run>& groups) {
  return std::any_of(groups.begin(), groups.end(), [](const repeated_run& group) { return group.runs.size() > 1; });
}

/// One row for each arm and learning rate.
inline report_table mean_table(const comparison& input, const std::vector<repeated_run>& groups) {
  report_table table{{"arm", "learning rate", "runs", "task gain (fall of the loss)", "exact match (%)", "forgotten (mean rise)",
                      "trained parameters", "state", "s per step"},
                     {},
                     1};
  for (const repeated_run& group : groups) {
    const bool finite = std::isfinite(group.task_loss.mean);
    const mean_spread gain{input.base_task_loss - group.task_loss.mean, group.task_loss.deviation, group.task_loss.count};
    const auto whole = [](auto&& text) { return [&text](double value) { return text(std::llround(value)); }; };
    table.rows.push_back(
        {group.arm, rate_text(group.learning_rate), std::to_string(group.runs.size()),
         finite ? with_spread(gain, [](double x) { return measured(x, 4); }) : "diverged",
         group.exact_match ? with_spread(*group.exact_match, [](double share) { return fixed_text(100 * share, 1); }) : dash,
         forgotten_with_spread(group.forgotten), with_spread(group.trained_parameters, whole(count_text)),
         with_spread(group.state_bytes, whole(bytes_text)),
         with_spread(group.seconds_per_step, [](double x) { return fixed_text(x, 3); })});
  }
  return table;
}

/// The runs of an arm: where some were repeated, each rate's mean with its spread and, pale behind it, the runs.
inline scatter_series trade_off_series(const comparison& input, std::vector<repeated_run> groups, const std::string& name, bool rates) {
  scatter_series arm{name, {}, true, {}};
  std::erase_if(groups, [&](const repeated_run& group) { return group.arm != name; });
  std::stable_sort(groups.begin(), groups.end(), [](const auto& a, const auto& b) { return a.learning_rate < b.learning_rate; });
  const auto point_of = [&](const arm_result& run) {
    return scatter_point{{run.mean_forgotten(), run.task_loss},
                         rates ? rate_text(run.learning_rate) : name,
                         run_name(run) + ": task loss " + loss_text(run.task_loss) + ", forgotten " + measured(run.mean_forgotten(), 4)};
  };
  for (const repeated_run& group : groups) {
    if (group.runs.size() == 1) {
      arm.points.push_back(point_of(*group.runs.front()));
      continue;
    }
    for (const arm_result* run : group.runs) {
      arm.points.push_back(point_of(*run));
      arm.points.back().pale = true;
    }
    arm.points.push_back({{group.forgotten.mean, group.task_loss.mean},
                          rates ? rate_text(group.learning_rate) : name,
                          name + ", lr " + rate_text(group.learning_rate) + ", mean of " + std::to_string(group.runs.size()) +
                              " runs: task loss " + loss_with_spread(group.task_loss) + ", forgotten " +
                              forgotten_with_spread(group.forgotten),
                          {group.forgotten.deviation, group.task_loss.deviation}});
  }
  const auto names = arm_names(input);
  arm.number = static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
  return arm;
}

inline report_section trade_off_section(const comparison& input) {
  const std::vector<repeated_run> groups = repeated_runs(input);
  std::set<double> rates;
  for (const auto& group : groups) rates.insert(group.learning_rate);
  std::vector<arm_panel> panels = input.panels;
  if (panels.empty()) panels.push_back({{}, arm_names(input)});
  std::vector<scatter_series> all;
  for (const auto& name : arm_names(input)) all.push_back(trade_off_series(input, groups, name, rates.size() > 1));
  const plot_area area = area_of(all);
  std::string how = repeats(groups)
                        ? "Each large point is the mean of the runs of an arm at one learning rate that differ by seed or draw; its bars "
                          "are one standard deviation to each side, and the small pale points are the runs. "
                        : "Each point is one run. ";
  if (rates.size() > 1) how += "The small number is the learning rate. ";
  report_section section{
      "Task loss against forgetting",
      {report_prose{{how + "Down is better at the task, left is better at keeping the rest. Compare arms along a horizontal "
                           "line: at equal task loss, which one forgot less?"}}}};
  for (const arm_panel& panel : panels) {
    std::vector<scatter_series> series;
    report_table data{{"arm", "learning rate", "runs", "forgotten (mean rise)", "task loss"}, {}, 1};
    for (const auto& arm : all) {
      if (std::find(panel.arms.begin(), panel.arms.end(), arm.name) == panel.arms.end()) continue;
      series.push_back(arm);
      for (const auto& group : groups) {
        if (group.arm != arm.name) continue;
        data.rows.push_back({group.arm, rate_text(group.learning_rate), std::to_string(group.runs.size()),
                             forgotten_with_spread(group.forgotten), loss_with_spread(group.task_loss)});
      }
    }
    section.blocks.push_back(
        report_figure{"Task loss after training, against the mean rise of the loss on the other domains" +
                          (panel.title.empty() ? "" : ": " + panel.title),
                      {scatter_chart(series, "forgotten: mean rise of the other domains' loss (" + input.loss_unit + ")",
                                     "task loss (" + input.loss_unit + ")", area)},
                      std::move(data)});
  }
  return section;
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
  report_table data{{"arm", "trained parameters", "state (bytes)", "s per step", "adapter (bytes)"}, {}, 1};
  const auto names = arm_names(input);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const auto mean = [&](auto&& value) {
      std::vector<double> values;
      for (const auto& run : input.arms) {
        if (run.arm == names[i]) values.push_back(static_cast<double>(value(run)));
      }
      return mean_and_spread(values).mean;
    };
    const std::int64_t parameters = std::llround(mean([](const auto& run) { return run.trained_parameters; }));
    const std::int64_t state_bytes = std::llround(mean([](const auto& run) { return run.state_bytes; }));
    const std::int64_t adapter_bytes = std::llround(mean([](const auto& run) { return run.adapter_bytes; }));
    const double seconds = mean([](const auto& run) { return run.seconds_per_step; });
    trained.push_back({names[i], static_cast<double>(parameters), count_text(parameters), i});
    state.push_back({names[i], static_cast<double>(state_bytes), bytes_text(state_bytes), i});
    step.push_back({names[i], seconds, fixed_text(seconds, 3) + " s", i});
    adapter.push_back({names[i], static_cast<double>(adapter_bytes), bytes_text(adapter_bytes), i});
    data.rows.push_back(
        {names[i], std::to_string(parameters), std::to_string(state_bytes), fixed_text(seconds, 4), std::to_string(adapter_bytes)});
  }
  std::vector<std::string> charts{bar_chart(trained, "Trained parameters"), bar_chart(state, "Optimizer state, gradients, master weights"),
                                  bar_chart(step, "Time per step")};
  const bool saved = std::any_of(adapter.begin(), adapter.end(), [](const bar& b) { return b.value > 0; });
  if (saved) charts.push_back(bar_chart(adapter, "Size of the adapter"));
  return {"Cost", {report_figure{"Cost of each arm, mean of its runs", std::move(charts), std::move(data)}}};
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
  const std::vector<repeated_run> groups = repeated_runs(input);
  const bool repeated = detail::repeats(groups);
  if (repeated) {
    results.blocks.push_back(report_prose{
        {"Mean \xc2\xb1 standard deviation over the runs of an arm that differ by seed or draw; the task loss of the untrained "
         "model is " +
         detail::measured(input.base_task_loss, 4) + " " + input.loss_unit + "."}});
    results.blocks.push_back(detail::mean_table(input, groups));
  } else if (!input.arms.empty()) {
    results.blocks.push_back(detail::result_table(input));
  }
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
    if (repeated) page.sections.push_back({"Every run", {detail::result_table(input)}});
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
