// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft plan`: memory and time of a training run, before it runs.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../memory_guard.hpp"
#include "../number_checks.hpp"
#include "../plan_choice.hpp"
#include "../plan_table.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/core/rng.hpp>
#include <esft/model/load.hpp>

#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct plan_options {
  engine_request model;
  plan_flags plan;
  std::int64_t rows = 8;
  std::int64_t length = 256;
  std::int64_t steps = 100;
  bool recompute = false;
  bool measure = false;
};

/// A batch of random tokens: what a step costs hardly depends on the text.
token_batch random_batch(const plan_options& options, std::int32_t vocabulary) {
  token_batch batch;
  const counter_rng rng(0, rng_stream::test);
  for (std::int64_t row = 0; row < options.rows; ++row) {
    for (std::int64_t i = 0; i < options.length; ++i) {
      const auto at = static_cast<std::uint64_t>(row * options.length + i);
      batch.tokens.push_back(static_cast<std::int32_t>(rng.below(2 * at, static_cast<std::uint64_t>(vocabulary))));
      batch.labels.push_back(static_cast<std::int32_t>(rng.below(2 * at + 1, static_cast<std::uint64_t>(vocabulary))));
      batch.position.push_back(static_cast<std::int32_t>(i));
      batch.key_begin.push_back(static_cast<std::int32_t>(row * options.length));
      batch.sample.push_back(static_cast<std::int32_t>(row));
    }
  }
  return batch;
}

/// The model from its config.json and the headers of its files: no weight is read, so it need not fit this machine.
planned_model described(const engine_request& request, const model_directory& base) {
  using shapes = reference_backend<float>;
  planned_model model;
  visit_engine(request, [&]<class Engine>() { model.stored_as = Engine::stored_as(request); });
  model.config = checked_config<shapes>(base);
  model.inventory = inventory<shapes>(model.config);
  return model;
}

void plan(const plan_options& options) {
  const model_directory base = model_directory::open(options.model.model);
  const planned_model model = described(options.model, base);
  const trainable_set trainable = make_plan(options.plan, model.inventory, base).trainable;
  const memory_estimate memory = print_plan(trainable, model, {options.rows * options.length, options.recompute});
  out().line("total    about " + bytes_text(memory.total()));
  const std::int64_t allowed = options.model.memory;
  const std::int64_t room = allowed > 0 ? allowed : available_memory();
  if (memory.total() > room && (allowed > 0 || options.model.backend != "cuda")) {
    out().warn(std::string("more than the ") + bytes_text(room) + (allowed > 0 ? " of --memory" : " that this machine has free"));
  }
  json_value result = json_object();
  result.add("trained", trained_elements(trainable, model.inventory))
      .add("weights_bytes", memory.weights)
      .add("gradient_bytes", memory.gradients);
  result.add("optimizer_bytes", memory.optimizer).add("activation_bytes", memory.activations).add("adapter_bytes", memory.adapter);
  result.add("total_bytes", memory.total());
  if (options.measure) {
    trainer_options how;
    how.recompute = options.recompute;
    const token_batch batch = random_batch(options, static_cast<std::int32_t>(model.config.vocabulary));
    const double seconds = open_engine(options.model)->one_step(trainable, how, batch).seconds;
    out().line("time     " + significant(seconds, 3) + " s a step, " +
               grouped(static_cast<std::int64_t>(static_cast<double>(options.rows * options.length) / seconds)) + " tokens a second; " +
               std::to_string(options.steps) + " steps take about " + duration_text(seconds * static_cast<double>(options.steps)));
    result.add("seconds_per_step", seconds).add("seconds", seconds * static_cast<double>(options.steps));
  }
  out().result(result);
}

}  // namespace

void add_plan(CLI::App& app) {
  auto options = std::make_shared<plan_options>();
  CLI::App* command = app.add_subcommand("plan", "Say what a training run will need, before it runs");
  add_model_options(*command, options->model);
  add_plan_options(*command, options->plan);
  command->add_option("--batch-rows", options->rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--length", options->length, "tokens a row")->check(positive_number)->capture_default_str();
  command->add_option("--steps", options->steps, "steps of the run whose time --measure estimates")->check(positive_number)->capture_default_str();
  command->add_flag("--recompute", options->recompute, "keep fewer activations");
  command->add_flag("--measure", options->measure, "run two steps on random tokens and estimate the time from the second");
  command->callback([options] { plan(*options); });
}

}  // namespace esft::tool
