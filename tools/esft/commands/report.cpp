// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft report`: one self-contained HTML page from files that other commands wrote: scores, a selection, metrics, a receipt.

#include "../command.hpp"
#include "../console.hpp"
#include "../output_file.hpp"

#include <esft/analysis/comparison_report.hpp>
#include <esft/core/config.hpp>
#include <esft/core/error.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/jsonl.hpp>
#include <esft/io/score_summary.hpp>

#include <filesystem>
#include <map>
#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct report_options {
  std::filesystem::path scores, experts, metrics, receipt;
  std::filesystem::path out = "report.html";
  std::string title = "esft report";
};

void add_losses(comparison& page, const std::filesystem::path& file) {
  std::map<std::string, curve> curves;
  line_reader lines(file);
  while (lines.next()) {
    if (lines.line().empty()) continue;
    const json_value tree = parse_json(lines.line(), lines.place().file);
    const json_reader record(tree, lines.place().file);
    const auto step = record.find("step");
    const auto loss = record.find("loss");
    if (!step || !loss) continue;  // other events of the same log
    const auto arm = record.find("arm");
    const std::string name = arm ? arm->string() : "training";
    curves[name].name = name;
    curves[name].points.push_back({step->number(0, 1e18), loss->number(-1e300, 1e300)});
  }
  for (auto& [name, line] : curves) page.losses.push_back(std::move(line));
}

void write_report(const report_options& options) {
  if (options.scores.empty() && options.metrics.empty() && options.receipt.empty()) {
    throw usage_error("there is nothing to report: give --scores, --metrics or --receipt");
  }
  expect_no_input(options.out, {options.scores, options.experts, options.metrics, options.receipt});
  comparison page;
  page.title = options.title;
  page.facts = {{"version", ESFT_VERSION_STRING}};
  if (!options.scores.empty()) {
    const score_summary summary = read_score_summary(options.scores);
    const expert_set selected = options.experts.empty() ? expert_set{} : read_expert_config(options.experts).experts;
    const std::map<std::string, std::string> units{{"token", "share of routing slots"}, {"gate", "mean gate weight"}};
    for (const std::string& name : summary.names()) {
      const auto unit = units.find(name);
      page.relevance.push_back(
          {options.scores.string(), name, unit == units.end() ? "score" : unit->second, *summary.find(name), selected, {}});
    }
  }
  if (!options.metrics.empty()) add_losses(page, options.metrics);
  if (!options.receipt.empty()) {
    const json_value tree = parse_json(read_small_file(options.receipt, 1U << 26U), options.receipt.string());
    const json_reader root(tree, options.receipt.string());
    page.receipt.emplace_back(root.at("ok").boolean(), options.receipt.string());
  }
  write_file_atomically(options.out, render_html(comparison_report(page)));
  out().line("report  " + options.out.string());
  json_value result = json_object();
  result.add("report", options.out.string()).add("relevance", page.relevance.size()).add("losses", page.losses.size());
  if (!page.receipt.empty()) result.add("receipt_ok", page.receipt.front().first);
  out().result(result);
}

}  // namespace

void add_report(CLI::App& app) {
  auto options = std::make_shared<report_options>();
  CLI::App* command = app.add_subcommand("report", "Make one HTML page of scores, a selection, metrics and a receipt");
  command->add_option("--scores", options->scores, "summary written by `esft score`");
  command->add_option("--experts", options->experts, "expert_cfg.json written by `esft select`, outlined in the map");
  command->add_option("--metrics", options->metrics, "metrics.jsonl written by `esft train` or `esft demo`");
  command->add_option("--receipt", options->receipt, "receipt.json");
  command->add_option("--title", options->title, "of the page")->capture_default_str();
  command->add_option("--out", options->out, "page to write")->capture_default_str();
  command->callback([options] { write_report(*options); });
}

}  // namespace esft::tool
