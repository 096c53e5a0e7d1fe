// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft eval`: loss, perplexity and exact match of a model, with or without an adapter.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"

#include <esft/core/rng.hpp>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct eval_options {
  engine_request model;
  std::filesystem::path adapter, data;
  bool force = false;
  bool no_exact_match = false;
  std::string chat = "esft";
  std::size_t rows = 8;
  std::size_t length = 256;
  std::size_t max_records = 0;
  std::size_t group = 32;
};

/// Share of prompts answered token for token; prompts are decoded in groups, side by side.
double exact_match_of(engine& model, const evaluation_prompts& asked, std::int32_t stop, std::size_t group) {
  progress bar("answer", static_cast<std::int64_t>(asked.prompts.size()), "prompts");
  std::size_t correct = 0;
  for (std::size_t begin = 0; begin < asked.prompts.size(); begin += group) {
    const std::size_t count = std::min(group, asked.prompts.size() - begin);
    std::size_t longest = 0;
    for (std::size_t i = 0; i < count; ++i) longest = std::max(longest, asked.references[begin + i].size());
    const auto answers = model.generate(std::span(asked.prompts).subspan(begin, count), stop, static_cast<std::int64_t>(longest) + 1);
    for (std::size_t i = 0; i < count; ++i) correct += answers[i] == asked.references[begin + i] ? 1U : 0U;
    bar.update(static_cast<std::int64_t>(begin + count));
  }
  return static_cast<double>(correct) / static_cast<double>(asked.prompts.size());
}

void evaluate(const eval_options& options) {
  dataset records = open_dataset(options.data);
  if (options.max_records > 0 && records.records.size() > options.max_records) records.records.resize(options.max_records);
  const std::unique_ptr<engine> model = open_with_adapter(options.model, options.adapter, options.force);
  const any_tokenizer words = tokenizer_of(options.model);
  const render_options how{.chat = options.chat};
  const evaluation_batches<> batches(render_dataset(words, records, how), {.length = options.length}, options.rows, words.pad);
  report_rows(model->config().max_positions, batches.report(), options.length);
  loss_result loss;
  {
    progress bar("evaluate", static_cast<std::int64_t>(batches.size()), "batches");
    loss = model->loss(with_progress(batches, bar));
  }
  expect_measured(loss, options.data);
  if (!std::isfinite(loss.loss))
    throw numerics_error(options.model.model.string() + ": the loss is not finite; the weights are damaged or training diverged");
  const evaluation_prompts asked = render_prompts(words, records, how);
  const bool answers = !options.no_exact_match && !asked.prompts.empty();
  for (std::size_t i = 0; answers && i < asked.prompts.size(); ++i) {
    report_positions(model->config().max_positions, asked.prompts[i].size() + asked.references[i].size(), "--no-exact-match leaves the answers out");
  }
  const std::int32_t stop = records.kind == dataset_kind::messages ? stop_token(words, how) : words.eos;
  const double exact = answers ? exact_match_of(*model, asked, stop, options.group) : 0;

  out().line("loss         " + fixed(loss.loss, 6) + " nats per token over " + grouped(loss.labelled) + " tokens of " +
             std::to_string(records.records.size()) + " records");
  out().line("perplexity   " + significant(loss.perplexity(), 6));
  if (answers) out().line("exact match  " + fixed(100 * exact, 1) + " % of " + std::to_string(asked.prompts.size()));
  json_value result = json_object();
  result.add("loss", loss.loss).add("perplexity", loss.perplexity()).add("tokens", loss.labelled).add("records", records.records.size());
  if (answers) result.add("exact_match", exact).add("prompts", asked.prompts.size());
  out().result(result);
}

}  // namespace

void add_eval(CLI::App& app) {
  auto options = std::make_shared<eval_options>();
  CLI::App* command = app.add_subcommand("eval", "Measure loss, perplexity and exact match");
  add_model_options(*command, options->model);
  command->add_option("--adapter", options->adapter, "adapter directory, the run directory that holds it, or a LoRA directory of peft");
  command->add_flag("--force", options->force, "apply an adapter that was trained on another base");
  command->add_option("--data", options->data, "JSONL to measure on")->required();
  command->add_option("--batch-rows", options->rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--length", options->length, "tokens a row")->check(positive_number)->capture_default_str();
  command->add_option("--max-records", options->max_records, "only the first records, 0: all")->capture_default_str();
  add_chat_option(*command, options->chat);
  command->add_flag("--no-exact-match", options->no_exact_match, "measure the loss only: much faster");
  command->callback([options] { evaluate(*options); });
}

}  // namespace esft::tool
