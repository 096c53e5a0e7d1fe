// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft train`: trains what a plan names, in a run directory that can be resumed, and ends with an adapter and its receipt.

#include "../balance_choice.hpp"
#include "../command.hpp"
#include "../inputs.hpp"
#include "../interrupt.hpp"
#include "../number_checks.hpp"
#include "../output_file.hpp"
#include "../plan_choice.hpp"
#include "../plan_table.hpp"
#include "../proof.hpp"
#include "../task_folder.hpp"

#include <esft/core/config.hpp>
#include <esft/data/batch.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/run_lock.hpp>
#include <esft/optim/schedule.hpp>

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

namespace esft::tool {
namespace {

struct train_options {
  engine_request model;
  std::filesystem::path data, alignment, eval_data, out;
  plan_flags plan;
  std::string mix = "1:1";
  std::string chat = "esft";
  std::int64_t steps = 100;
  std::uint64_t seed = 0;
  bool resume = false;
  bool skip_bad_records = false;
  bool train_on_prompt = false;
  std::size_t rows = 8;
  std::size_t length = 256;
  std::size_t accumulate = 1;
  std::string schedule = "constant";
  std::int64_t warmup = 0;
  double final_factor = 0;
  std::int64_t save_every = 0;
  balance_request balance;
  trainer_options trainer;
};

std::vector<training_sample> samples(const train_options& options, const any_tokenizer& words, const std::filesystem::path& file) {
  const render_options how{.train_on_prompt = options.train_on_prompt, .chat = options.chat};
  return render_dataset(words, open_dataset(file, options.skip_bad_records), how);
}

batch_schedule<> training_data(const train_options& options, const any_tokenizer& words) {
  const packing_options packing{.length = options.length};
  std::vector<packed_dataset<>> sets;
  sets.emplace_back(samples(options, words, options.data), packing, options.seed, 0);
  mixing_schedule mix;
  if (!options.alignment.empty()) {
    sets.emplace_back(samples(options, words, options.alignment), packing, options.seed, 1);
    mix = mixing_schedule(mix_weights(options.mix, "--mix"), options.seed);
  }
  const index positions = read_hf_config(options.model.model).max_position_embeddings;
  for (const packed_dataset<>& set : sets) {
    report_rows(positions, set.report(), options.length);
  }
  return {std::move(sets), std::move(mix), options.rows, words.pad};
}

/// A recorded step cannot ask the host for the experts' sizes. @throws usage_error where it would have to
void settle_recording(train_options& options) {
  if (!options.trainer.record) return;
  if (options.model.backend != "cuda") {
    throw usage_error("--record records steps on a GPU: it needs --backend cuda, not " + options.model.backend);
  }
  if (options.model.grouped.empty()) options.model.grouped = "device";
  if (options.model.grouped != "device") {
    throw usage_error("--record needs --grouped device: with " + options.model.grouped + " the host must know the experts' sizes in each step");
  }
}

trainer_options trainer_for(const train_options& options) {
  trainer_options result = options.trainer;
  const schedule_span span{options.warmup, options.steps, options.final_factor};
  visit_by_name(builtin_schedules{}, options.schedule,
                [&]<class Schedule>() { result.schedule = [shape = Schedule{span}](std::int64_t step) { return shape.factor(step); }; });
  return result;
}

/// Whatever two runs must share for one to continue the other. The number of threads is not among it: it changes no bit.
run_fingerprint fingerprint(const train_options& options, const std::string& dtype, const std::string& base_digest,
                            const std::vector<std::string>& planned, const trainable_set& trainable) {
  sha256 plan;
  for (const std::string& name : planned) plan.update(name + "\n");
  run_fingerprint result{
      {"esft-version", ESFT_VERSION_STRING},
      {"backend", options.model.backend},
      {"dtype", dtype},
      {"base-sha256", base_digest},
      {"data-sha256", file_digest(options.data)},
      {"method", options.plan.method},
      {"plan-sha256", plan.hex_digest()},
      {"seed", std::to_string(options.seed)},
      {"batch-rows", std::to_string(options.rows)},
      {"length", std::to_string(options.length)},
      {"accumulate", std::to_string(options.accumulate)},
      {"lr", exact_text(options.trainer.learning_rate)},
      {"schedule", options.schedule},
      {"warmup", std::to_string(options.warmup)},
      {"weight-decay", exact_text(options.trainer.adamw.weight_decay)},
      {"beta1", exact_text(options.trainer.adamw.beta1)},
      {"beta2", exact_text(options.trainer.adamw.beta2)},
      {"epsilon", exact_text(options.trainer.adamw.epsilon)},
      {"clip", exact_text(options.trainer.clip_norm)},
      {"train-on-prompt", options.train_on_prompt ? "true" : "false"},
  };
  add_balance(result, options.trainer);
  if (!trainable.low_rank.empty()) {
    const low_rank_options& factors = options.plan.factors;
    if (options.plan.method == hilo_plan::name) {
      result["low-rank-experts"] = low_rank_layers_text(trainable);
      result["lora-balance"] = exact_text(options.plan.hilo.balance);
    } else {
      result["rank"] = std::to_string(factors.rank);
    }
    result["alpha"] = exact_text(factors.alpha);
    result["rslora"] = factors.rank_stabilised ? "true" : "false";
    result["dropout"] = exact_text(factors.dropout);
  }
  if (!options.alignment.empty()) {
    result["alignment-sha256"] = file_digest(options.alignment);
    result["mix"] = options.mix;
  }
  if (options.schedule != constant_schedule::name) {  // a longer run has another decay
    result["steps"] = std::to_string(options.steps);
    result["final-factor"] = exact_text(options.final_factor);
  }
  if (options.trainer.dense_router_gradient) result["dense-router-gradient"] = "true";
  if (!options.model.grouped.empty() && options.model.grouped != "streams") result["grouped"] = options.model.grouped;
  if (options.chat != esft_chat::name) result["chat-template"] = options.chat;
  return result;
}

double evaluation_loss(const train_options& options, const any_tokenizer& words, engine& model) {
  const evaluation_batches<> batches(samples(options, words, options.eval_data), {.length = options.length}, options.rows, words.pad);
  report_rows(model.config().max_positions, batches.report(), options.length);
  progress bar("evaluate", static_cast<std::int64_t>(batches.size()), "batches");
  const loss_result measured = model.loss(with_progress(batches, bar));
  expect_measured(measured, options.eval_data);
  return measured.loss;
}

/// Removes what processes left that were killed while they wrote the adapter. The caller holds the lock, so none writes now.
void remove_leftovers(const std::filesystem::path& run) {
  std::vector<std::filesystem::path> left;
  for (const auto& entry : entries_of(run)) {
    if (entry.path().filename().string().starts_with("adapter.tmp-")) left.push_back(entry.path());
  }
  std::error_code ignored;
  for (const std::filesystem::path& directory : left) std::filesystem::remove_all(directory, ignored);
}

/// The receipt on files, with the frozen part of the model in memory checked as well.
receipt prove(const train_options& options, engine& model) {
  receipt proof = verify_adapter(options.model.model, options.out / "adapter");
  proof.moved = model.moved_frozen();
  save_receipt(options.out / "receipt.json", proof);
  return proof;
}

void train(train_options& options) {
  expect_no_input(options.out, {options.model.model, options.data, options.alignment, options.eval_data});
  make_directory(options.out);
  const run_lock lock(options.out);
  remove_leftovers(options.out);
  if (!options.resume && holds_a_run(options.out)) {
    throw usage_error(options.out.string() + " holds the checkpoints of a run: continue it with --resume, or choose another directory");
  }
  const any_tokenizer words = tokenizer_of(options.model);
  const batch_schedule<> data = training_data(options, words);
  const std::unique_ptr<engine> model = open_engine(options.model);
  settle_balance(options.balance, model->config(), options.trainer.balance);
  plan_flags asked = options.plan;
  asked.factors.seed = options.seed;
  chosen_plan plan = make_plan(asked, model->inventory(), model->base());
  plan_moving_biases(options.trainer.bias_step, model->config(), plan.trainable);
  const std::vector<std::string> planned = model->planned_names(plan.trainable);
  const std::string base_digest = model->base().digest();
  const run_settings settings{options.out,        options.steps,  options.accumulate,
                              options.save_every, options.resume, fingerprint(options, std::string(name_of(model->stored_as())), base_digest, planned, plan.trainable)};
  out().line("model    " + options.model.model.string() + "   sha256 " + base_digest.substr(0, 12) + "   " + model->description());
  print_plan(plan.trainable, {model->config(), model->inventory(), model->stored_as()},
             {static_cast<std::int64_t>(options.rows * options.length), options.trainer.recompute});

  std::optional<double> before;
  if (!options.eval_data.empty() && !options.resume) before = evaluation_loss(options, words, *model);
  catch_stop_signals();
  std::unique_ptr<progress> bar;
  double first_loss = 0;
  double last_loss = 0;
  std::int64_t done_before = 0;
  run_hooks hooks;
  hooks.started = [&](const std::optional<resumed_run>& resumed) {
    if (resumed) {
      done_before = resumed->step;
      for (const std::string& reason : resumed->damaged) out().warn("a newer checkpoint is unusable: " + reason);
      out().line("resumed  after step " + std::to_string(resumed->step));
    } else if (options.resume) {
      out().line("resumed  nothing: there is no checkpoint yet, the run begins");
    }
    bar = std::make_unique<progress>("train", options.steps, "steps", done_before);
  };
  hooks.after_step = [&](const step_report& report) {
    if (report.skipped) {
      bar->clear();
      out().warn("step " + std::to_string(report.step) + " had a non-finite loss or gradient and changed nothing");
    } else {
      if (first_loss == 0) first_loss = report.loss;
      last_loss = report.loss;
    }
    bar->update(report.step, "loss " + fixed(report.loss, 4));
  };
  hooks.stop = stop_requested;
  const run_outcome outcome = model->train(plan.trainable, trainer_for(options), data, settings, hooks);
  bar.reset();
  if (!outcome.finished) {
    throw error(error_category::interrupted, "stopped after step " + std::to_string(outcome.steps) + " of " +
                                                 std::to_string(options.steps) + "; the state is saved in " + options.out.string() +
                                                 ", continue with --resume");
  }

  adapter_manifest manifest{options.plan.method, base_digest, planned, plan.experts, settings.fingerprint, plan.low_rank,
                            plan.low_rank_active};
  manifest.properties["steps"] = std::to_string(outcome.steps);
  model->write_trained(options.out / "adapter", manifest);
  const receipt proof = prove(options, *model);
  std::optional<double> after;
  if (!options.eval_data.empty()) after = evaluation_loss(options, words, *model);

  if (outcome.steps > done_before)
    out().line("trained  " + std::to_string(outcome.steps - done_before) + " steps   loss " + fixed(first_loss, 4) + " -> " +
               fixed(last_loss, 4) + (outcome.skipped > 0 ? "   skipped " + std::to_string(outcome.skipped) : ""));
  if (after) out().line("eval     loss " + (before ? fixed(*before, 4) + " -> " : std::string()) + fixed(*after, 4));
  out().line("state    " + bytes_text(outcome.state_bytes) + " of gradients, master weights and moments");
  print_receipt(proof, false);
  out().line("adapter  " + (options.out / "adapter").string() + "   metrics " + (options.out / "metrics.jsonl").string());
  json_value result = json_object();
  result.add("adapter", (options.out / "adapter").string()).add("steps", outcome.steps).add("skipped", outcome.skipped);
  result.add("loss", last_loss).add("state_bytes", outcome.state_bytes);
  if (before) result.add("eval_loss_before", *before);
  if (after) result.add("eval_loss", *after);
  result.add("receipt", parse_json(write_receipt(proof), "receipt"));
  out().result(result);
  if (!proof.ok()) throw finished{static_cast<int>(error_category::bad_input)};
}

}  // namespace

void add_train(CLI::App& app) {
  auto options = std::make_shared<train_options>();
  CLI::App* command = app.add_subcommand("train", "Train the selected experts, low-rank factors or experts, or everything, and prove what changed");
  add_model_options(*command, options->model);
  std::vector<std::string> schedules = names_of(builtin_schedules{});
  command->add_option("--data", options->data, "JSONL of the task")->required();
  add_plan_options(*command, options->plan);
  command->add_option("--steps", options->steps, "steps of the whole run")->check(positive_number)->capture_default_str();
  command->add_option("--seed", options->seed, "of the data order, and of the factors of low-rank methods")->capture_default_str();
  command->add_option("--out", options->out, "run directory: checkpoints, metrics.jsonl, receipt.json, adapter/")->required();
  command->add_flag("--resume", options->resume, "continue the run in --out, or begin it");
  command->add_option("--alignment", options->alignment, "JSONL of general data to mix in");
  command->add_option("--mix", options->mix, "rows of the task to rows of --alignment")->capture_default_str();
  command->add_option("--eval-data", options->eval_data, "JSONL to measure the loss on, before and after");
  command->add_option("--lr", options->trainer.learning_rate, "peak learning rate")->check(non_negative_number)->capture_default_str();
  command->add_option("--schedule", options->schedule, "of the learning rate after the warm-up")->check(CLI::IsMember(schedules))->capture_default_str();
  command->add_option("--warmup", options->warmup, "steps of linear warm-up")->check(non_negative_number)->capture_default_str();
  command->add_option("--final-factor", options->final_factor, "share of the peak rate at which a decay ends")
      ->check(number_between(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--batch-rows", options->rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--length", options->length, "tokens a row")->check(positive_number)->capture_default_str();
  command->add_option("--accumulate", options->accumulate, "batches a step")->check(positive_number)->capture_default_str();
  command->add_option("--clip", options->trainer.clip_norm, "largest gradient norm, 0: no clipping")
      ->check(non_negative_number)
      ->capture_default_str();
  command
      ->add_option("--weight-decay", options->trainer.adamw.weight_decay,
                   "of all trained weights but norms and biases; the official ESFT trainer has 0.1")
      ->check(non_negative_number)
      ->capture_default_str();
  command->add_flag("--dense-router-gradient", options->trainer.dense_router_gradient,
                    "trained routers learn from the experts they did not choose as well (DenseMixer): all experts run in the backward");
  add_balance_options(*command, options->balance, options->trainer);
  command->add_flag("--recompute", options->trainer.recompute, "keep fewer activations, compute them again: less memory, more time");
  command->add_flag("--record", options->trainer.record,
                    "on a GPU: record a step of each batch size in a CUDA graph and replay it; not with losses on routers, or low-rank factors");
  command->add_option("--save-every", options->save_every, "steps between checkpoints, 0: at the end")
      ->check(non_negative_number)
      ->capture_default_str();
  add_chat_option(*command, options->chat);
  command->add_flag("--train-on-prompt", options->train_on_prompt, "loss on prompts as well");
  command->add_flag("--skip-bad-records", options->skip_bad_records, "leave malformed records out instead of stopping");
  command->callback([options] {
    settle_recording(*options);
    train(*options);
  });
}

}  // namespace esft::tool
