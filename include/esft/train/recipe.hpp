// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The ESFT recipe in memory: score experts on task data, then train what a plan names, then restore or keep the result.

#include <esft/peft/plan.hpp>
#include <esft/train/scoring.hpp>
#include <esft/train/trainer.hpp>

#include <functional>
#include <string>
#include <utility>

namespace esft {

/// What one scorer says of every routed expert: `score_experts<token_selection_ratio>(backend, model, batches)`, or with an object of the
/// scorer as the last argument. Costs the passes that the scorer needs; several at once share them with `observe_task`, which takes
/// options too. A scorer of gradients leaves the model frozen. @throws as `observe_task`
template <relevance_scorer Scorer, class Model, class Batches>
[[nodiscard]] score_table score_experts(typename Model::backend_type& backend, Model& model, const Batches& batches,
                                        Scorer scorer = Scorer(scorer_options{})) {
  scorer_group group;
  group.add(std::move(scorer));
  observe_task(backend, model, batches, group);
  return group.scores().at(std::string(Scorer::name));
}

/// Applies a plan to the model. @returns what will be trained @throws usage_error when the plan and the model do not fit
template <peft_plan Plan, class Model>
trainable_set apply_plan(typename Model::backend_type& backend, Model& model, const Plan& plan) {
  trainable_set trainable = plan.trainable(inventory(model.parameters));
  apply(backend, model.parameters, trainable);
  return trainable;
}

/// Runs steps (run.steps, total] of a schedule of batches, `accumulation` micro-batches a step; `after_step` may stop the run by false.
/// The micro-batches of step s are `batch((s-1) * accumulation + i)`, a pure function of the step, so a resumed run sees the same data.
template <class Model, class Schedule>
void run_steps(trainer<Model>& run, const Schedule& schedule, std::int64_t total, std::size_t accumulation,
               const std::function<bool(const step_report&)>& after_step) {
  std::vector<token_batch> micro_batches;
  const auto prepare = [&] {
    micro_batches.clear();
    for (std::size_t i = 0; i < accumulation && run.steps < total; ++i) {
      micro_batches.push_back(schedule.batch(static_cast<std::uint64_t>(run.steps) * accumulation + i));
    }
  };
  prepare();
  while (run.steps < total) {
    run.queue(micro_batches);
    prepare();  // for the next step, while a device computes this one
    if (!after_step(run.finish())) return;
  }
}

}  // namespace esft
