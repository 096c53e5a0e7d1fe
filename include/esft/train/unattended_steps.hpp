// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `unattended_steps`: training steps that are queued as a whole, on backends where the host need not wait inside one.

#include <esft/core/error.hpp>
#include <esft/core/step_report.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/model/decoder.hpp>
#include <esft/optim/optimizers/adamw.hpp>

#include <cmath>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace esft {

/// What a trainer keeps for such steps: their numbers in the backend's memory, the copies of these that are under way, and where steps are
/// recorded the batches, which then stay where they are, and the recording. The first step of a shape runs as it is, so that everything
/// is loaded; the second is recorded; from then on steps of that shape are replayed.
template <class Model>
class unattended_steps {
 public:
  using backend_type = typename Model::backend_type;
  using optimizer_type = adamw_optimizer<backend_type>;

  /// @throws usage_error where steps are to be recorded and the host takes part in each
  unattended_steps(backend_type& backend, const Model& model, bool record)
      : numbers_(backend.template make_tensor<double>(extents<1>{step_numbers::count})), record_(record) {
    if (!record) return;
    for_each_parameter(model.parameters, [](parameter_key, const auto& w) {
      if constexpr (requires { w.low_rank; w.mixture; }) {
        if (!w.low_rank && !w.mixture) return;
        throw usage_error("steps with low-rank factors cannot be recorded: their masks and rows change on the host; leave `record` off");
      }
    });
  }

  /// Queues a step. Of `report` the learning rate and the labelled tokens count; the balance loss is added to it.
  void queue(backend_type& backend, Model& model, optimizer_type& optimizer, std::span<const token_batch> micro_batches,
             backward_options pass, double clip_norm, step_report& report) {
    std::vector<double> asked{pass.loss_scale, report.learning_rate, 0, 0};
    if (readings_.empty()) asked.push_back(static_cast<double>(optimizer.steps));  // else it is known there, and not yet here
    backend.copy_in(std::span<const double>(asked), numbers_.view().slice(0, static_cast<index>(asked.size())));
    place(backend, model, micro_batches);
    const auto work = [&] {
      optimizer.trained.clear_gradients(backend);
      for (const placed_batch<backend_type>& batch : batches_) {
        ++pass.dropout_draw;
        report.balance_loss += model.accumulate_gradients(backend, batch, pass, numbers_.view()).balance_loss * pass.balance_scale;
      }
      optimizer.trained.sum_of_squares(backend, numbers_.view());
      optimizer.update(backend, clip_norm, numbers_.view());
    };
    if (!record_ || !warm_) {
      work();
    } else {
      if (!recording_) recording_ = backend.capture(work);
      backend.replay(*recording_);
    }
    warm_ = true;
    readings_.push_back(backend.read_later(numbers_.view()));
    if (!record_) batches_.clear();
  }
  /// Waits for the oldest queued step: completes its report and the optimizer's count of updates. @pre a step is queued
  void finish(backend_type& backend, optimizer_type& optimizer, step_report& report) {
    const auto reading = readings_.front();
    readings_.pop_front();
    const std::vector<double> found = backend.finish_reading(reading);
    report.loss = report.labelled > 0 ? found[step_numbers::loss] / static_cast<double>(report.labelled) : 0.0;
    report.gradient_norm = std::sqrt(found[step_numbers::squares]);
    optimizer.steps = static_cast<std::int64_t>(found[step_numbers::updates]);
  }

 private:
  /// Into the places of the last step's batches, where steps are recorded and their form is the same.
  void place(backend_type& backend, const Model& model, std::span<const token_batch> micro_batches) {
    bool same = record_ && batches_.size() == micro_batches.size();
    for (std::size_t i = 0; same && i < batches_.size(); ++i) {
      same = same_form(micro_batches[i], batches_[i]);
    }
    if (!same) {
      recording_.reset();
      warm_ = false;
      batches_.clear();
    }
    for (std::size_t i = 0; i < micro_batches.size(); ++i) {
      placed_batch<backend_type> placed = model.place(backend, micro_batches[i]);
      if (same) {
        replace(backend, placed, batches_[i]);
      } else {
        batches_.push_back(std::move(placed));
      }
    }
  }

  tensor_t<backend_type, double, 1> numbers_;
  bool record_;
  bool warm_ = false;  ///< a step of this shape has run
  std::vector<placed_batch<backend_type>> batches_;
  std::optional<typename backend_type::recording> recording_;
  std::deque<typename backend_type::reading> readings_;
};

}  // namespace esft
