// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft score`: how relevant every expert is to a task, from a model and data or from routing logs.

#include "../command.hpp"
#include "../inputs.hpp"

#include <esft/io/routing_log.hpp>
#include <esft/io/score_summary.hpp>
#include <esft/relevance/scorers.hpp>

#include <chrono>
#include <filesystem>
#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct score_options {
  engine_request model;
  std::filesystem::path data, trace, out;
  std::int64_t sample_tokens = 131072;
  std::uint64_t seed = 0;
  std::size_t rows = 8;
  std::size_t length = 256;
  std::string mean = "pooled";
  std::string tokens = "all";
  int top_k = 0;
  int experts = 0;
};

scorer_options how(const score_options& options) { return {options.mean == "pooled" ? sample_mean::pooled : sample_mean::per_sample}; }

score_summary from_trace(const score_options& options) {
  if (options.top_k <= 0 || options.experts <= 0) {
    throw usage_error(
        "routing logs do not say how many experts a layer has: give --experts and --top-k, for example --experts 64 --top-k 6");
  }
  if (options.top_k > options.experts) throw usage_error("--top-k exceeds --experts");
  token_selection_ratio token(how(options));
  average_gate_score gate(how(options));
  read_routing_logs(options.trace, {options.experts, options.top_k}, [&](const routing_record& record) {
    token.observe(record);
    gate.observe(record);
  });
  return {token.scores(), gate.scores()};
}

/// Documents in a random order until they hold enough tokens: the sample that the paper scores.
std::vector<training_sample> sample(std::vector<training_sample> documents, std::int64_t tokens, std::uint64_t seed) {
  shuffle(documents, counter_rng(seed, rng_stream::shuffle));
  std::int64_t seen = 0;
  std::size_t kept = 0;
  while (kept < documents.size() && (tokens == 0 || seen < tokens)) seen += static_cast<std::int64_t>(documents[kept++].tokens.size());
  documents.resize(kept);
  return documents;
}

score_summary from_model(const score_options& options) {
  const dataset records = open_dataset(options.data);
  const std::unique_ptr<engine> model = open_engine(options.model);
  const byte_tokenizer words = tokenizer_of(*model);
  const evaluation_batches<> batches(sample(render_dataset(words, records), options.sample_tokens, options.seed),
                                     {.length = options.length}, options.rows, words.pad);
  progress bar("score", static_cast<std::int64_t>(batches.size()), "batches");
  batch_sequence sequence = with_progress(batches, bar);
  if (options.tokens == "answer") {
    // only the positions whose prediction carries loss: the routing behind them is what training changes
    sequence.get = [inner = sequence.get](std::size_t i) {
      token_batch batch = inner(i);
      for (std::size_t t = 0; t < batch.labels.size(); ++t) {
        if (batch.labels[t] == ignored_label) batch.sample[t] = -1;
      }
      return batch;
    };
  }
  relevance_scores scores = model->score(sequence, how(options));
  return {std::move(scores.token), std::move(scores.gate)};
}

void score(const score_options& options) {
  if (options.trace.empty() == options.model.model.empty()) throw usage_error("score needs either --model and --data, or --trace");
  if (options.trace.empty() && options.data.empty())
    throw usage_error("score needs --data beside --model: the task whose experts are wanted");
  const auto start = std::chrono::steady_clock::now();
  const score_summary summary = options.trace.empty() ? from_model(options) : from_trace(options);
  save_score_summary(options.out, summary);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::size_t experts = 0;
  for (const auto& [layer, scores] : summary.token_scores.layers) experts += scores.scores.size();
  out().line("scored  " + std::to_string(experts) + " experts of " + std::to_string(summary.token_scores.layers.size()) + " layers from " +
             grouped(summary.token_scores.tokens) + " tokens   " + duration_text(seconds));
  out().line("wrote   " + options.out.string());
  json_value result = json_object();
  result.add("out", options.out.string()).add("tokens", summary.token_scores.tokens).add("layers", summary.token_scores.layers.size());
  result.add("experts", experts).add("seconds", seconds);
  out().result(result);
}

}  // namespace

void add_score(CLI::App& app) {
  auto options = std::make_shared<score_options>();
  CLI::App* command = app.add_subcommand("score", "Score how relevant every expert is to a task");
  command->add_option("--model", options->model.model, "model directory");
  add_backend_options(*command, options->model);
  command->add_option("--data", options->data, "JSONL of the task: messages, prompt and completion, or text");
  command->add_option("--trace", options->trace, "directory of routing logs expert_weights_<layer>.txt instead of model and data");
  command->add_option("--top-k", options->top_k, "experts per token in the logs");
  command->add_option("--experts", options->experts, "experts per layer in the logs");
  command->add_option("--sample-tokens", options->sample_tokens, "score on a random sample of at least this many tokens; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--mean", options->mean, "average over all tokens, or over samples")
      ->check(CLI::IsMember({"pooled", "per-sample"}))
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "all tokens, or only those that predict the answer")
      ->check(CLI::IsMember({"all", "answer"}))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of the sample")->capture_default_str();
  command->add_option("--batch-rows", options->rows)->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--length", options->length, "tokens a row")->check(CLI::PositiveNumber)->capture_default_str();
  command->add_option("--out", options->out, "score file to write")->required();
  command->callback([options] { score(*options); });
}

}  // namespace esft::tool
