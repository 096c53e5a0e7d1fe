// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft score`: how relevant every expert is to a task, from a model and data or from routing logs.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"
#include "../output_file.hpp"

#include <esft/io/routing_log.hpp>
#include <esft/io/score_summary.hpp>
#include <esft/relevance/scorers.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace esft::tool {
namespace {

struct score_options {
  engine_request model;
  std::filesystem::path data, trace, log, out;
  std::vector<std::string> scorers{std::string(token_selection_ratio::name), std::string(average_gate_score::name)};
  std::int64_t sample_tokens = 131072;
  std::uint64_t seed = 0;
  std::size_t rows = 8;
  std::size_t length = 256;
  std::size_t layers_at_once = 0;
  std::string mean = "pooled";
  std::string chat = "esft";
  std::string tokens = "all";
  int top_k = 0;
  int experts = 0;
};

void add_scorers(scorer_group& scorers, const score_options& options) {
  const scorer_options how{options.mean == "pooled" ? sample_mean::pooled : sample_mean::per_sample};
  for (const std::string& name : options.scorers) {
    visit_by_name(builtin_scorers{}, name, [&]<class Scorer>() { scorers.add(Scorer(how)); });
  }
}

void from_trace(const score_options& options, scorer_group& scorers) {
  if (options.top_k <= 0 || options.experts <= 0) {
    throw usage_error(
        "routing logs do not say how many experts a layer has: give --experts and --top-k, for example --experts 64 --top-k 6");
  }
  if (options.top_k > options.experts) throw usage_error("--top-k exceeds --experts");
  if (options.experts > config_limits::experts)
    throw usage_error("--experts is at most " + std::to_string(config_limits::experts) + ", the most that a layer can have");
  for (const std::string& name : options.scorers) {
    visit_by_name(builtin_scorers{}, name, [&]<class Scorer>() {
      if constexpr (!observes<Scorer, routing_record>) {
        throw usage_error("--scorer " + name + " reads more than the routing that logs hold: give --model" +
                          (observes<Scorer, expert_weights_record> ? "" : " and --data") + " instead of --trace");
      }
    });
  }
  read_routing_logs(options.trace, {options.experts, options.top_k}, [&](const routing_record& record) { scorers.observe(record); });
}

void from_model(const score_options& options, scorer_group& scorers) {
  std::optional<routing_log_writer> log;
  scoring_options how{options.tokens == "all" ? scored_tokens::all : scored_tokens::answer, options.layers_at_once};
  if (!options.log.empty()) {
    log.emplace(options.log);
    how.also = [&log](const routing_record& record) { log->observe(record); };
  }
  if (!scorers.needs_data() && !log) return open_engine(options.model)->observe({}, scorers, how);
  if (options.data.empty()) throw usage_error("score needs --data beside --model: the task whose experts are wanted");
  const dataset records = open_dataset(options.data);
  const std::unique_ptr<engine> model = open_engine(options.model);
  const any_tokenizer words = tokenizer_of(options.model);
  const evaluation_batches<> batches(sampled(render_dataset(words, records, {.chat = options.chat}), options.sample_tokens, options.seed),
                                     {.length = options.length}, options.rows, words.pad);
  report_rows(model->config().max_positions, batches.report(), options.length);
  const std::vector<bool>& layers = model->config().moe_layer;
  const auto moe_layers = static_cast<std::size_t>(std::count(layers.begin(), layers.end(), true));
  progress bar("score", static_cast<std::int64_t>(batches.size() * passes_over_data(scorers, moe_layers, how)), "batches");
  std::int64_t done = 0;
  model->observe({batches.size(),
                  [&](std::size_t i) {
                    bar.update(done++);
                    return batches[i];
                  }},
                 scorers, how);
  if (!log) return;
  log->commit();
  out().line("logged  " + options.log.string() + "   --experts " + std::to_string(model->config().experts) + " --top-k " +
             std::to_string(model->config().active));
}

void score(const score_options& options) {
  if (options.trace.empty() == options.model.model.empty()) throw usage_error("score needs either --model and --data, or --trace");
  if (!options.log.empty() && !options.trace.empty()) throw usage_error("--log writes what --trace reads: give --model and --data with it");
  expect_no_input(options.out, {options.data, options.model.model});
  const auto start = std::chrono::steady_clock::now();
  scorer_group scorers;
  add_scorers(scorers, options);
  options.trace.empty() ? from_model(options, scorers) : from_trace(options, scorers);
  score_summary summary;
  std::int64_t tokens = 0;
  std::size_t layers = 0;
  std::size_t experts = 0;
  for (const auto& [name, table] : scorers.scores()) {
    tokens = std::max(tokens, table.tokens);
    layers = table.layers.size();
    experts = 0;
    for (const auto& [layer, scores] : table.layers) experts += scores.scores.size();
    summary.set(name, table);
  }
  save_score_summary(options.out, summary);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  json_value names = json_array();
  std::string named;
  for (const std::string& name : summary.names()) {
    names.push(name);
    named += (named.empty() ? "" : ", ") + name;
  }
  out().line("scored  " + std::to_string(experts) + " experts of " + std::to_string(layers) + " layers by " + named + " from " +
             (tokens > 0 ? grouped(tokens) + " tokens" : "their weights") + "   " + duration_text(seconds));
  out().line("wrote   " + options.out.string());
  json_value result = json_object();
  result.add("out", options.out.string()).add("tokens", tokens).add("layers", layers).add("experts", experts);
  result.add("scorers", std::move(names)).add("seconds", seconds);
  out().result(result);
}

}  // namespace

void add_score(CLI::App& app) {
  auto options = std::make_shared<score_options>();
  CLI::App* command = app.add_subcommand("score", "Score how relevant every expert is to a task");
  command->add_option("--model", options->model.model, "model directory");
  add_backend_options(*command, options->model);
  command->add_option("--data", options->data, "JSONL of the task: messages, prompt and completion, or text");
  command
      ->add_option("--scorer", options->scorers,
                   "what makes an expert relevant, one or more; `esft list scorers` names them; default: the two of the paper, token,gate")
      ->delimiter(',')
      ->check(CLI::IsMember(names_of(builtin_scorers{})));
  command->add_option("--trace", options->trace, "directory of routing logs expert_weights_<layer>.txt instead of model and data");
  command->add_option("--log", options->log, "new directory for routing logs of the scored tokens: --trace and the official code read them");
  command->add_option("--top-k", options->top_k, "experts per token in the logs");
  command->add_option("--experts", options->experts, "experts per layer in the logs");
  command->add_option("--sample-tokens", options->sample_tokens, "score on a random sample of at least this many tokens; 0: all")
      ->check(non_negative_number)
      ->capture_default_str();
  add_chat_option(*command, options->chat);
  command->add_option("--mean", options->mean, "average over all tokens, or over samples")
      ->check(CLI::IsMember({"pooled", "per-sample"}))
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "all tokens, or only those that predict the answer")
      ->check(CLI::IsMember({"all", "answer"}))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of the sample")->capture_default_str();
  command->add_option("--batch-rows", options->rows, "rows a batch; to scorers of gradients each batch is one observation")
      ->check(positive_number)
      ->capture_default_str();
  command->add_option("--length", options->length, "tokens a row")->check(positive_number)->capture_default_str();
  command
      ->add_option("--layers-at-once", options->layers_at_once,
                   "scorers of gradients: layers whose gradients are held together, 0: all; fewer take less memory and more passes")
      ->check(non_negative_number)
      ->capture_default_str();
  command->add_option("--out", options->out, "score file to write")->required();
  command->callback([options] { score(*options); });
}

}  // namespace esft::tool
