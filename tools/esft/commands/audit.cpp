// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft audit`: which experts of an adapter moved further than clean data explain, and, if asked, the adapter with the worst set back.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace esft::tool {
namespace {

struct audit_options {
  engine_request model;
  std::filesystem::path adapter, data, out;
  bool force = false;
  purify_options how;
  std::string chat = "esft";
  std::size_t length = 256;
  std::size_t max_records = 64;
  std::size_t limit = 20;
};

/// Sums of an expert's tensors, or one tensor that belongs to none.
struct audited {
  std::string name;
  tensor_audit sum;
};
std::vector<audited> by_expert(const std::vector<tensor_audit>& tensors) {
  std::vector<audited> result;
  std::map<std::pair<layer_index, std::int32_t>, std::size_t> experts;
  for (const tensor_audit& one : tensors) {
    std::size_t at = result.size();
    if (one.expert >= 0) at = experts.try_emplace({one.layer, one.expert}, at).first->second;
    if (at == result.size())
      result.push_back(
          {one.expert < 0 ? one.name : "layer " + std::to_string(one.layer.value) + " expert " + std::to_string(one.expert), {}});
    tensor_audit& sum = result[at].sum;
    sum.dimensions += one.dimensions;
    sum.reset += one.reset;
    sum.drift += one.drift;
    sum.indicator += one.indicator;
    sum.information += one.information * static_cast<double>(one.dimensions);
  }
  const auto mean = [](const audited& a) { return a.sum.indicator / static_cast<double>(a.sum.dimensions); };
  std::stable_sort(result.begin(), result.end(), [&](const audited& a, const audited& b) { return mean(a) > mean(b); });
  return result;
}

void audit(const audit_options& options) {
  if (options.how.reset > 0 && options.out.empty()) throw usage_error("--reset changes the adapter: say by --out where the new one goes");
  if (options.how.reset == 0 && !options.out.empty())
    throw usage_error("--out is for the adapter that --reset makes: give a share, or leave it out");
  dataset records = open_dataset(options.data);
  if (options.max_records > 0 && records.records.size() > options.max_records) records.records.resize(options.max_records);
  const std::unique_ptr<engine> model = open_engine(options.model);
  const adapter changes = read_adapter_of(*model, options.adapter, options.force);
  const any_tokenizer words = tokenizer_of(options.model);
  std::vector<evaluation_batches<>> samples;
  for (training_sample& sample : render_dataset(words, records, {.chat = options.chat}))
    samples.emplace_back(std::vector{std::move(sample)}, packing_options{.length = options.length}, 1, words.pad);
  std::erase_if(samples, [](const evaluation_batches<>& one) { return one.size() == 0; });
  if (const auto longer = std::count_if(samples.begin(), samples.end(), [](const auto& one) { return one.size() > 1; }); longer > 0) {
    out().warn(std::to_string(longer) + " of " + std::to_string(samples.size()) + " records are longer than a row of " +
               std::to_string(options.length) + " tokens, of which only the first is looked at; --length makes rows longer");
  }
  std::vector<tensor_audit> found;
  {
    progress bar("audit", static_cast<std::int64_t>(samples.size()), "samples");
    const batch_sequence clean{samples.size(), [&](std::size_t i) {
                                 bar.update(static_cast<std::int64_t>(i + 1));
                                 return samples[i][0];
                               }};
    found = model->purify(changes, clean, options.how);
  }
  std::size_t dimensions = 0;
  std::size_t reset = 0;
  text_table table({"trained", "dimensions", "mean indicator", "mean drift^2", "mean information", "set back"});
  json_value list = json_array();
  const std::vector<audited> experts = by_expert(found);
  for (std::size_t i = 0; i < experts.size(); ++i) {
    const tensor_audit& sum = experts[i].sum;
    const auto count = static_cast<double>(sum.dimensions);
    dimensions += sum.dimensions;
    reset += sum.reset;
    json_value entry = json_object();
    entry.add("name", experts[i].name).add("dimensions", sum.dimensions).add("indicator", sum.indicator).add("drift", sum.drift);
    list.push(std::move(entry.add("information", sum.information).add("reset", sum.reset)));
    if (options.limit != 0 && i >= options.limit) continue;
    table.add({experts[i].name, grouped(static_cast<std::int64_t>(sum.dimensions)), significant(sum.indicator / count),
               significant(sum.drift / count), significant(sum.information / count), grouped(static_cast<std::int64_t>(sum.reset))});
  }
  for (const std::string& line : table.lines()) out().line(line);
  if (options.limit != 0 && experts.size() > options.limit)
    out().line("and " + std::to_string(experts.size() - options.limit) + " more; --limit 0 shows all");
  if (!options.out.empty()) {
    adapter_manifest manifest = changes.manifest();
    manifest.properties["purified-share"] = exact_text(options.how.reset);
    manifest.properties["purified-data-sha256"] = file_digest(options.data);
    if (manifest.base_digest.empty()) manifest.base_digest = model->base().digest();
    if (manifest.planned.empty()) manifest.planned = changes.names();
    model->write_trained(options.out, manifest);
    out().line("wrote    " + options.out.string() + ": " + grouped(static_cast<std::int64_t>(reset)) + " of " +
               grouped(static_cast<std::int64_t>(dimensions)) + " dimensions are the base's again");
  }
  json_value result = json_object();
  result.add("samples", samples.size()).add("dimensions", dimensions).add("reset", reset).add("trained", std::move(list));
  out().result(result);
}

}  // namespace

void add_audit(CLI::App& app) {
  auto options = std::make_shared<audit_options>();
  CLI::App* command =
      app.add_subcommand("audit", "Say which experts of an adapter moved further than clean data explain, and set the worst back");
  add_model_options(*command, options->model);
  command->add_option("--adapter", options->adapter, "adapter directory, or the run directory that holds it")->required();
  command->add_flag("--force", options->force, "an adapter that was trained on another base");
  command->add_option("--data", options->data, "JSONL that is known to be clean")->required();
  command->add_option("--reset", options->how.reset, "share of the adapter's dimensions to set back to the base, after Fine-purifying")
      ->check(number_between(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("--per-tensor", options->how.per_tensor, "that share of every tensor, instead of the worst of all together");
  command->add_option("--epsilon", options->how.epsilon_share, "added to the information, as a share of its mean")
      ->check(non_negative_number)
      ->capture_default_str();
  command->add_option("--out", options->out, "new directory for the adapter that --reset makes");
  command->add_option("--length", options->length, "tokens a row")->check(positive_number)->capture_default_str();
  command->add_option("--max-records", options->max_records, "only the first records, 0: all")->capture_default_str();
  command->add_option("--limit", options->limit, "rows to print, 0: all")->capture_default_str();
  add_chat_option(*command, options->chat);
  command->callback([options] { audit(*options); });
}

}  // namespace esft::tool
