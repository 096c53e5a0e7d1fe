// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A training run in a directory: checkpoints, metrics, resuming, and stopping between two steps.

#include <esft/train/checkpoint.hpp>
#include <esft/train/metrics_log.hpp>
#include <esft/train/recipe.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>

namespace esft {

/// How a run uses its directory. The caller holds the `run_lock`.
struct run_settings {
  std::filesystem::path directory;
  std::int64_t steps = 0;        ///< of the whole run, earlier parts included
  std::size_t accumulation = 1;  ///< micro-batches a step
  std::int64_t save_every = 0;   ///< steps between checkpoints; 0: only when the run ends or is stopped
  bool resume = false;           ///< continue where the newest checkpoint ended, or begin when there is none
  run_fingerprint fingerprint;
};

/// What happens around the steps; members may be empty.
struct run_hooks {
  std::function<void(const std::optional<resumed_run>&)> started;
  std::function<void(const step_report&)> after_step;
  std::function<bool()> stop;  ///< asked after each step
};

/// How a run ended.
struct run_outcome {
  bool finished = false;  ///< false: stopped by `stop`, with its state saved
  std::int64_t steps = 0;
  std::int64_t skipped = 0;
  std::int64_t state_bytes = 0;  ///< gradients, master weights and moments
};

/// Whether a directory holds checkpoints of a run.
[[nodiscard]] inline bool holds_a_run(const std::filesystem::path& directory) { return !detail::saved_steps(directory).empty(); }

/// Runs a trainer to its last step. A run that was stopped and resumed, any number of times, equals the uninterrupted one bit for bit.
/// @throws usage_error when there is a run and `resume` is false; what `resume_from_checkpoint` and `trainer::step` throw:
/// after a numerics_error the newest checkpoint is one from before the trouble
template <class Model, class Schedule>
run_outcome run_in_directory(typename Model::backend_type& backend, trainer<Model>& run, const Schedule& data, const run_settings& settings,
                             const run_hooks& hooks = {}) {
  if (!settings.resume && holds_a_run(settings.directory)) {
    throw usage_error(settings.directory.string() + " holds the checkpoints of a run: resume it, or choose another directory");
  }
  std::optional<resumed_run> resumed;
  if (settings.resume) resumed = resume_from_checkpoint(settings.directory, backend, run, settings.fingerprint);
  metrics_log metrics(settings.directory / "metrics.jsonl", run.steps);
  if (hooks.started) hooks.started(resumed);
  std::int64_t saved = resumed ? run.steps : -1;
  const auto save = [&] {
    if (saved != run.steps) save_checkpoint(settings.directory, backend, run, settings.fingerprint);
    saved = run.steps;
  };
  bool stopped = false;
  run_steps(run, data, settings.steps, settings.accumulation, [&](const step_report& report) {
    metrics.write(report);
    if (hooks.after_step) hooks.after_step(report);
    stopped = hooks.stop && hooks.stop() && run.steps < settings.steps;
    if (settings.save_every > 0 && run.steps % settings.save_every == 0) save();
    return !stopped;
  });
  save();
  return {!stopped, run.steps, run.skipped, run.training_state_bytes()};
}

}  // namespace esft
