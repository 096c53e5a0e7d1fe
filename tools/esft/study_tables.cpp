// SPDX-License-Identifier: Apache-2.0
/// @file
/// What a study leaves behind: tables, the page, and what is printed.

#include "console.hpp"
#include "format.hpp"
#include "study.hpp"

#include <esft/analysis/comparison_report.hpp>
#include <esft/analysis/matched_loss.hpp>
#include <esft/core/config.hpp>
#include <esft/io/file.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

namespace esft::tool {
namespace {

void write_runs(const std::filesystem::path& out, const std::vector<study_run>& runs) {
  std::string numbers =
      "task,arm,seed,rate,base_loss,loss,gain,base_exact,exact,forgotten,experts,trained_parameters,state_bytes,skipped,"
      "frozen_moved,trained_still\n";
  std::string times = "task,arm,seed,rate,seconds_per_step\n";
  for (const study_run& r : runs) {
    const std::string key = r.task + "," + r.arm + "," + std::to_string(r.seed) + "," + exact_text(r.rate) + ",";
    numbers += key;
    for (const double value : {r.base_loss, r.loss, r.gain(), r.base_exact, r.exact, r.mean_forgotten()})
      numbers += exact_text(value) + ",";
    numbers += std::to_string(r.experts) + "," + std::to_string(r.trained_parameters) + "," + std::to_string(r.state_bytes) + "," +
               std::to_string(r.skipped) + "," + std::to_string(r.frozen_moved) + "," + std::to_string(r.trained_still) + "\n";
    times += key + exact_text(r.seconds_per_step) + "\n";
  }
  write_file_atomically(out / "runs.csv", numbers);
  write_file_atomically(out / "times.csv", times);
}

/// What of a table's row is the same bits whenever the study is repeated.
std::string reproducible_cells(const study_row& row) {
  std::string text = row.task + "," + row.arm + "," + exact_text(row.rate) + "," + std::to_string(row.seeds) + "," +
                     std::to_string(row.experts) + "," + std::to_string(std::llround(row.trained_parameters.mean)) + "," +
                     std::to_string(std::llround(row.state_bytes.mean));
  for (const mean_spread& value : {row.gain, row.exact, row.forgotten})
    text += "," + exact_text(value.mean) + "," + exact_text(value.deviation);
  return text;
}
void write_tables(const std::filesystem::path& out, const std::vector<study_row>& table) {
  const std::string columns =
      "task,arm,rate,seeds,experts,trained_parameters,state_bytes,gain,gain_sd,exact,exact_sd,forgotten,forgotten_sd";
  std::string text = columns + "\n";
  std::string with_times = columns + ",trained_parameters_sd,state_bytes_sd,seconds_per_step,seconds_per_step_sd\n";
  for (const study_row& row : table) {
    const std::string cells = reproducible_cells(row);
    text += cells + "\n";
    with_times += cells + "," + exact_text(row.trained_parameters.deviation) + "," + exact_text(row.state_bytes.deviation) + "," +
                  exact_text(row.seconds.mean) + "," + exact_text(row.seconds.deviation) + "\n";
  }
  write_file_atomically(out / "table.csv", text);
  write_file_atomically(out / "table_with_times.csv", with_times);
}

/// For every two arms: what the first forgets less the second at the same task loss, seed by seed (analysis/matched_loss.hpp).
void write_matched(const std::filesystem::path& out, const std::vector<study_run>& runs) {
  std::map<std::string, std::map<std::string, std::map<std::uint64_t, std::vector<trade_off_point>>>> curves;  // task, arm, seed
  for (const study_run& run : runs) curves[run.task][run.arm][run.seed].push_back({run.loss, run.mean_forgotten()});
  std::string text = "task,arm,against,seeds,forgotten_difference,forgotten_difference_sd\n";
  for (const auto& [task, arms] : curves) {
    for (const auto& [arm, seeds] : arms) {
      for (const auto& [against, others] : arms) {
        if (arm == against) continue;
        std::vector<double> differences;
        for (const auto& [seed, points] : seeds) {
          const auto other = others.find(seed);
          if (other == others.end()) continue;
          const auto difference = forgotten_at_matched_loss(trade_off_curve(points), trade_off_curve(other->second));
          if (difference) differences.push_back(*difference);
        }
        if (differences.empty()) continue;
        const mean_spread difference = mean_and_spread(differences);
        text += task + "," + arm + "," + against + "," + std::to_string(differences.size()) + "," + exact_text(difference.mean) + "," +
                exact_text(difference.deviation) + "\n";
      }
    }
  }
  write_file_atomically(out / "matched.csv", text);
}

void write_report(const study_settings& settings, const std::vector<study_run>& runs, std::int64_t parameters, const std::string& task) {
  comparison page;
  const auto arms = std::count_if(settings.arms.begin(), settings.arms.end(), [](const study_arm& arm) { return arm.run; });
  page.title = "esft: " + std::to_string(arms) + " ways to fine-tune on " + task;
  page.subtitle = "The same model, batches and steps for every arm; an arm's runs differ by seed and learning rate";
  page.facts = {{"model", settings.model.model.string()},
                {"task", task},
                {"seeds", std::to_string(settings.seeds.size())},
                {"version", ESFT_VERSION_STRING}};
  page.loss_unit = "nats per token";
  page.total_parameters = parameters;
  page.panels = settings.panels;
  for (const study_run& run : runs) {
    if (run.task != task) continue;
    page.base_task_loss = run.base_loss;
    page.base_exact_match = run.base_exact;
    page.arms.push_back({run.arm, "seed " + std::to_string(run.seed), run.rate, run.loss, run.exact, run.forgotten, run.trained_parameters,
                         run.state_bytes, run.seconds_per_step, 0});
    page.receipt.emplace_back(run.frozen_moved == 0 && run.trained_still == 0,
                              run.arm + ", seed " + std::to_string(run.seed) + ", rate " + significant(run.rate, 3) +
                                  ": what was planned changed, and no bit of what was frozen");
  }
  page.limits = {"Compare arms along their curves of learning rates and against the spread over seeds, not at single points."};
  page.limits.insert(page.limits.end(), settings.limits.begin(), settings.limits.end());
  page.config = {{"steps", std::to_string(settings.steps)},
                 {"batch", std::to_string(settings.rows) + " x " + std::to_string(settings.length) + " tokens"},
                 {"schedule", "cosine to " + significant(settings.final_factor, 3) + " after " + std::to_string(settings.warmup) +
                                  " steps of warm-up"}};
  const std::string name = settings.tasks.size() == 1 ? "report.html" : "report." + task + ".html";
  write_file_atomically(settings.out / name, render_html(comparison_report(page)));
}

}  // namespace

std::vector<study_row> study_table(const std::vector<study_run>& runs) {
  std::vector<study_row> table;
  std::map<std::tuple<std::string, std::string, double>, std::size_t> rows;
  std::vector<std::vector<const study_run*>> of;
  for (const study_run& run : runs) {
    const auto [found, fresh] = rows.try_emplace({run.task, run.arm, run.rate}, of.size());
    if (fresh) of.emplace_back();
    of[found->second].push_back(&run);
  }
  for (const auto& same : of) {
    const auto over_seeds = [&](auto&& value) {
      std::vector<double> values;
      for (const study_run* run : same) values.push_back(value(*run));
      return mean_and_spread(values);
    };
    const study_run& one = *same.front();
    study_row row{one.task, one.arm, one.rate, same.size(), one.experts, {}, {}, {}, {}, {}, {}};
    row.gain = over_seeds([](const study_run& r) { return r.gain(); });
    row.exact = over_seeds([](const study_run& r) { return r.exact; });
    row.forgotten = over_seeds([](const study_run& r) { return r.mean_forgotten(); });
    row.trained_parameters = over_seeds([](const study_run& r) { return static_cast<double>(r.trained_parameters); });
    row.state_bytes = over_seeds([](const study_run& r) { return static_cast<double>(r.state_bytes); });
    row.seconds = over_seeds([](const study_run& r) { return r.seconds_per_step; });
    table.push_back(std::move(row));
  }
  return table;
}

void print_study(const std::vector<study_row>& table) {
  text_table lines({"task", "arm", "rate", "seeds", "experts", "trained", "state", "gain", "exact %", "forgotten", "s/step"});
  const auto with_spread = [](const mean_spread& value, auto&& text) {
    return text(value.mean) + (value.count > 1 ? " +- " + text(value.deviation) : "");  // one run has no spread
  };
  const auto digits = [](int count, double factor = 1) { return [=](double value) { return fixed(factor * value, count); }; };
  for (const study_row& row : table) {
    lines.add({row.task, row.arm, significant(row.rate, 3), std::to_string(row.seeds), std::to_string(row.experts),
               with_spread(row.trained_parameters, [](double value) { return grouped(std::llround(value)); }),
               with_spread(row.state_bytes, [](double value) { return bytes_text(value); }), with_spread(row.gain, digits(4)),
               with_spread(row.exact, digits(1, 100)), with_spread(row.forgotten, digits(4)), with_spread(row.seconds, digits(3))});
  }
  for (const std::string& line : lines.lines()) out().line(line);
}

void write_study(const study_settings& settings, const std::vector<study_run>& runs, std::int64_t parameters) {
  write_runs(settings.out, runs);
  write_tables(settings.out, study_table(runs));
  write_matched(settings.out, runs);
  for (const std::string& task : settings.tasks) write_report(settings, runs, parameters, task);
}

void run_and_print(const study_settings& settings) {
  const std::vector<study_run> runs = run_study(settings);
  print_study(study_table(runs));
  std::size_t moved = 0;
  std::size_t still = 0;
  for (const study_run& one : runs) {
    moved += one.frozen_moved;
    still += one.trained_still;
  }
  out().line("receipt  " + std::to_string(runs.size()) + " runs: frozen parameters that moved " + std::to_string(moved) +
             ", planned ones that did not change " + std::to_string(still));
  const std::string page = settings.tasks.size() == 1 ? "report.html" : "a report of each task";
  out().line("wrote    " + settings.out.string() + ": " +
             (settings.only.empty() ? "runs.csv, table.csv, table_with_times.csv, matched.csv, times.csv, " + page : "runs"));
  json_value result = json_object();
  result.add("out", settings.out.string()).add("runs", runs.size()).add("frozen_moved", moved).add("trained_still", still);
  out().result(result);
  if (moved + still > 0) throw finished{static_cast<int>(error_category::bad_input)};
}

}  // namespace esft::tool
