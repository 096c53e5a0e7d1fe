// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft compose`: several adapters of one base as one; `esft unmerge`: the base of a merged model.

#include "../command.hpp"
#include "../console.hpp"

#include <esft/io/compose_adapters.hpp>
#include <esft/io/unmerge.hpp>
#include <esft/train/apply_adapter.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace esft::tool {
namespace {

struct compose_options {
  std::vector<std::filesystem::path> adapters;
  std::filesystem::path model, out;
  std::string overlap = "error";
};

void compose(const compose_options& options) {
  std::vector<adapter> parts;
  for (const std::filesystem::path& path : options.adapters) parts.push_back(read_adapter(adapter_directory(path)));
  std::optional<model_directory> base;
  if (!options.model.empty()) base = model_directory::open(options.model);
  const overlap_rule rule = options.overlap == "first"  ? overlap_rule::first
                            : options.overlap == "last" ? overlap_rule::last
                            : options.overlap == "mean" ? overlap_rule::mean
                                                        : overlap_rule::error;
  const composition result = compose_adapters(parts, options.out, rule, base ? &*base : nullptr);
  for (const std::string& name : result.overlaps) out().line("overlap " + name + "   " + options.overlap);
  out().line("wrote   " + options.out.string() + "   " + std::to_string(result.tensors) + " tensors of " + std::to_string(parts.size()) +
             " adapters");
  json_value overlaps = json_array();
  for (const std::string& name : result.overlaps) overlaps.push(name);
  json_value report = json_object();
  report.add("out", options.out.string()).add("tensors", result.tensors).add("overlaps", std::move(overlaps));
  out().result(report);
}

}  // namespace

void add_compose(CLI::App& app) {
  auto options = std::make_shared<compose_options>();
  CLI::App* command = app.add_subcommand("compose", "Make one adapter of several that train different experts of one base");
  command->add_option("adapters", options->adapters, "two or more adapter directories, or run directories that hold them")
      ->required()
      ->expected(2, 1024);
  command->add_option("--model", options->model, "base model directory: checked, and needed where official adapters do not name theirs");
  command->add_option("--overlap", options->overlap, "what to do with an expert that more than one adapter trains")
      ->check(CLI::IsMember({"error", "first", "last", "mean"}))
      ->capture_default_str();
  command->add_option("--out", options->out, "new or empty directory")->required();
  command->callback([options] { compose(*options); });
}

void add_unmerge(CLI::App& app) {
  struct unmerge_options {
    std::filesystem::path model, out;
  };
  auto options = std::make_shared<unmerge_options>();
  CLI::App* command =
      app.add_subcommand("unmerge", "Write the base that was merged into, bit for bit, from what `merge --keep-replaced` kept");
  command->add_option("--model", options->model, "merged model directory")->required();
  command->add_option("--out", options->out, "new or empty directory")->required();
  command->callback([options] {
    const unmerged result = unmerge(options->model, options->out);
    out().line("restored  " + std::to_string(result.restored) + " tensors; every tensor is the base's   sha256 " +
               result.base_digest.substr(0, 12));
    out().line("wrote     " + options->out.string());
    json_value report = json_object();
    report.add("out", options->out.string()).add("restored", result.restored).add("base_sha256", result.base_digest);
    out().result(report);
  });
}

}  // namespace esft::tool
