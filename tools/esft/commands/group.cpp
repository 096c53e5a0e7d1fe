// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft group`: a model whose experts are bound in groups, to see what coarser experts would do.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"

#include <esft/analysis/expert_grouping.hpp>
#include <esft/io/group_model.hpp>
#include <esft/io/json_value.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct group_options {
  engine_request model;
  std::filesystem::path data, out;
  std::size_t size = 2;
  std::string diagonal = "zero";
  std::int64_t sample_tokens = 131072;
  std::uint64_t seed = 0;
  std::size_t rows = 8;
  std::size_t length = 256;
  std::string chat = "esft";
};

/// How many subsets the greedy search compares for its first group.
double subsets(std::size_t experts, std::size_t size) {
  double result = 1;
  for (std::size_t i = 1; i <= size; ++i) result = result * static_cast<double>(experts - size + i) / static_cast<double>(i);
  return result;
}

/// Which experts of the model are chosen together over a sample of the data.
co_occurrence counted(const group_options& options) {
  const dataset records = open_dataset(options.data);
  const std::unique_ptr<engine> model = open_engine(options.model);
  const any_tokenizer words = tokenizer_of(options.model);
  const evaluation_batches<> batches(sampled(render_dataset(words, records, {.chat = options.chat}), options.sample_tokens, options.seed),
                                     {.length = options.length}, options.rows, words.pad);
  report_rows(model->config().max_positions, batches.report(), options.length);
  progress bar("count", static_cast<std::int64_t>(batches.size()), "batches");
  co_occurrence counts;
  scorer_group none;
  model->observe(with_progress(batches, bar), none, {.also = [&](const routing_record& record) { counts.observe(record); }});
  return counts;
}

void group(const group_options& options) {
  const hf_config config = detail::grouped_config(options.model.model, options.size);  // before any work
  if (subsets(static_cast<std::size_t>(config.num_experts), options.size) > 1e8) {
    throw usage_error("--size " + std::to_string(options.size) + ": more than 10^8 subsets of the " + std::to_string(config.num_experts) +
                      " experts of a layer would have to be compared; take smaller groups");
  }
  const co_occurrence counts = counted(options);
  const auto diagonal = options.diagonal == "zero" ? grouping_diagonal::zero : grouping_diagonal::self_count;
  expert_groups groups;
  json_value layers = json_object();
  for (const auto& [layer, matrix] : counts.layers()) {
    groups[layer] = group_experts(row_similarity(matrix, diagonal), options.size);
    json_value list = json_array();
    for (const auto& members : groups[layer]) {
      json_value ids = json_array();
      for (const expert_index expert : members) ids.push(expert.value);
      list.push(std::move(ids));
    }
    layers.add(std::to_string(layer.value), std::move(list));
  }
  group_model(options.model.model, groups, options.out);
  out().line("grouped " + std::to_string(config.num_experts) + " experts of " + std::to_string(groups.size()) + " layers by " +
             std::to_string(options.size) + "; a token takes " + std::to_string(config.kept_groups) + " of " +
             std::to_string(config.num_groups) + " groups");
  out().line("wrote   " + options.out.string());
  json_value result = json_object();
  result.add("out", options.out.string()).add("size", options.size).add("groups", std::move(layers));
  out().result(result);
}

}  // namespace

void add_group(CLI::App& app) {
  auto options = std::make_shared<group_options>();
  CLI::App* command = app.add_subcommand("group", "Bind experts that are chosen together, to see what coarser experts would do");
  add_model_options(*command, options->model);
  command->add_option("--data", options->data, "JSONL of general text over which experts are chosen together")->required();
  command->add_option("--size", options->size, "experts of a group; divides the experts of a layer and those of a token")
      ->capture_default_str();
  command
      ->add_option("--diagonal", options->diagonal,
                   "what an expert has in common with itself: zero (pairs only), or self-count (the tokens that chose it); the paper leaves "
                   "it open")
      ->check(CLI::IsMember({"zero", "self-count"}))
      ->capture_default_str();
  command->add_option("--sample-tokens", options->sample_tokens, "tokens to look at, 0: all; the paper takes 131072")->capture_default_str();
  command->add_option("--seed", options->seed, "of the sample")->capture_default_str();
  command->add_option("--batch-rows", options->rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--length", options->length, "tokens of a row")->check(positive_number)->capture_default_str();
  add_chat_option(*command, options->chat);
  command->add_option("--out", options->out, "new or empty directory")->required();
  command->callback([options] { group(*options); });
}

}  // namespace esft::tool
