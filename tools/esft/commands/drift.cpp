// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft drift`: how far an adapter moved the routing of a model, layer by layer, on the same tokens.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"

#include <esft/analysis/routing_drift.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

namespace esft::tool {
namespace {

struct drift_options {
  engine_request model;
  std::filesystem::path adapter, data;
  bool force = false;
  std::string chat = "esft";
  std::size_t rows = 8;
  std::size_t length = 256;
  std::size_t sample_tokens = 8192;
};

/// A record that outlives the call that brought it.
struct kept_routing {
  explicit kept_routing(const routing_record& from)
      : layer(from.layer),
        experts(from.experts),
        active(from.active),
        ids(from.ids.begin(), from.ids.end()),
        weights(from.weights.begin(), from.weights.end()),
        sample(from.sample.begin(), from.sample.end()) {}
  [[nodiscard]] routing_record record() const { return {layer, experts, active, ids, weights, sample}; }

  layer_index layer;
  int experts, active;
  std::vector<std::int32_t> ids;
  std::vector<float> weights;
  std::vector<std::int32_t> sample;
};

/// Both models route the same batches in the same order; the first one's decisions are kept meanwhile.
std::map<layer_index, layer_drift> drift_of(engine& model, const adapter& changes, const evaluation_batches<>& batches) {
  scorer_group none;
  std::vector<kept_routing> before;
  progress first("base", static_cast<std::int64_t>(batches.size()), "batches");
  model.observe(with_progress(batches, first), none, {.also = [&before](const routing_record& record) { before.emplace_back(record); }});
  model.apply_adapter(changes);
  routing_drift drift;
  std::size_t next = 0;
  progress second("adapter", static_cast<std::int64_t>(batches.size()), "batches");
  model.observe(with_progress(batches, second), none,
                {.also = [&](const routing_record& record) { drift.observe(before.at(next++).record(), record); }});
  return drift.layers();
}

void measure_drift(const drift_options& options) {
  const dataset records = open_dataset(options.data);
  const std::unique_ptr<engine> model = open_engine(options.model);
  const adapter changes = read_adapter_of(*model, options.adapter, options.force);
  const any_tokenizer words = tokenizer_of(options.model);
  std::vector<training_sample> documents = render_dataset(words, records, {.chat = options.chat});
  std::size_t seen = 0;
  std::size_t kept = 0;
  while (kept < documents.size() && (options.sample_tokens == 0 || seen < options.sample_tokens)) seen += documents[kept++].tokens.size();
  documents.resize(kept);
  const evaluation_batches<> batches(std::move(documents), {.length = options.length}, options.rows, words.pad);
  report_rows(model->config().max_positions, batches.report(), options.length);

  text_table rows({"layer", "tokens", "kept", "unchanged", "weight moved", "load moved"});
  json_value layers = json_array();
  double least = 1;
  for (const auto& [layer, drift] : drift_of(*model, changes, batches)) {
    rows.add({std::to_string(layer.value), grouped(drift.tokens), fixed(drift.kept, 4), fixed(drift.unchanged, 4),
              fixed(drift.weight_moved, 4), fixed(drift.load_moved, 4)});
    json_value one = json_object();
    one.add("layer", std::int64_t{layer.value}).add("tokens", drift.tokens).add("kept", drift.kept).add("unchanged", drift.unchanged);
    one.add("weight_moved", drift.weight_moved).add("load_moved", drift.load_moved);
    layers.push(std::move(one));
    least = std::min(least, drift.kept);
  }
  for (const std::string& line : rows.lines()) out().line(line);
  out().line("kept: share of the chosen experts that their tokens still choose, " + fixed(100 * least, 1) +
             " % in the layer that changed most");
  json_value result = json_object();
  result.add("layers", std::move(layers));
  out().result(result);
}

}  // namespace

void add_drift(CLI::App& app) {
  auto options = std::make_shared<drift_options>();
  CLI::App* command = app.add_subcommand("drift", "Measure how far an adapter moved the routing of its model on the same tokens");
  add_model_options(*command, options->model);
  command->add_option("--adapter", options->adapter, "adapter directory, the run directory that holds it, or a LoRA directory of peft")
      ->required();
  command->add_flag("--force", options->force, "apply an adapter that was trained on another base");
  command->add_option("--data", options->data, "JSONL whose tokens are routed")->required();
  command
      ->add_option("--sample-tokens", options->sample_tokens,
                   "the first documents that hold so many tokens, 0: all; both models' routing is held in memory")
      ->capture_default_str();
  command->add_option("--batch-rows", options->rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--length", options->length, "tokens a row")->check(positive_number)->capture_default_str();
  add_chat_option(*command, options->chat);
  command->callback([options] { measure_drift(*options); });
}

}  // namespace esft::tool
