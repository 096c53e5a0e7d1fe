// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// One arm of a comparison: train what a set names on a task, and measure the task, what was forgotten, and what it cost.

#include <esft/data/batch.hpp>
#include <esft/train/evaluation.hpp>
#include <esft/train/recipe.hpp>
#include <esft/train/trainer.hpp>

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// Data of a task and of the domains whose loss should not rise.
struct task_data {
  std::string name;
  batch_schedule<> training;
  evaluation_batches<> test;
  std::vector<std::vector<std::int32_t>> prompts;     ///< test prompts as tokens
  std::vector<std::vector<std::int32_t>> references;  ///< their answers, without the stop token
  std::int32_t stop = 0;                              ///< token that ends an answer
};

/// Losses of a model on a task and on other domains.
struct task_measurement {
  double loss = 0;                          ///< on the task's test answers @unit nats per token
  double exact_match = 0;                   ///< share of test prompts answered exactly
  std::map<std::string, double> domain_loss;  ///< domain -> loss @unit nats per token
};

/// What an arm did and cost.
struct arm_measurement {
  task_measurement after;
  std::vector<std::pair<double, double>> training_loss;  ///< (step, loss)
  std::int64_t trained_parameters = 0;
  std::int64_t state_bytes = 0;      ///< gradients, master weights and moments
  double seconds_per_step = 0;       ///< median
  std::int64_t skipped = 0;
};

using domain_batches = std::map<std::string, evaluation_batches<>>;

/// Measures the model as it stands.
template <class Model>
[[nodiscard]] task_measurement measure(typename Model::backend_type& backend, const Model& model, const task_data& task,
                                       const domain_batches& domains) {
  task_measurement result;
  result.loss = evaluate_loss(backend, model, task.test).loss;
  if (!task.prompts.empty()) result.exact_match = exact_match(backend, model, task.prompts, task.references, task.stop);
  for (const auto& [domain, batches] : domains) result.domain_loss[domain] = evaluate_loss(backend, model, batches).loss;
  return result;
}

/// Trains `trainable` for `steps` steps and measures. The model keeps the result; restore a snapshot before the next arm.
template <class Model>
[[nodiscard]] arm_measurement run_arm(typename Model::backend_type& backend, Model& model, const trainable_set& trainable,
                                      const task_data& task, const domain_batches& domains, const trainer_options& options,
                                      std::int64_t steps, const std::function<void(const step_report&)>& progress = {}) {
  apply(backend, model.parameters, trainable);
  trainer<Model> run(backend, model, options);
  arm_measurement result;
  std::vector<double> seconds;
  run_steps(run, task.training, steps, 1, [&](const step_report& report) {
    result.training_loss.emplace_back(static_cast<double>(report.step), report.loss);
    seconds.push_back(report.seconds);
    if (progress) progress(report);
    return true;
  });
  if (!seconds.empty()) {
    std::nth_element(seconds.begin(), seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2), seconds.end());
    result.seconds_per_step = seconds[seconds.size() / 2];
  }
  result.trained_parameters = trained_elements(trainable, inventory(model.parameters));
  result.state_bytes = run.training_state_bytes();
  result.skipped = run.skipped;
  result.after = measure(backend, model, task, domains);
  return result;
}

}  // namespace esft
