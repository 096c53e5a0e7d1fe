// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `trainer`: one optimizer step from micro-batches, with clipping, schedule and the guard against non-finite numbers.

#include <esft/core/step_report.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/model/decoder.hpp>
#include <esft/moe/routers/sigmoid_topk.hpp>
#include <esft/optim/optimizers/adamw.hpp>
#include <esft/optim/schedule.hpp>
#include <esft/train/unattended_steps.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace esft {

/// Options of a training run that do not depend on the data.
struct trainer_options {
  double learning_rate = 1e-3;                 ///< peak
  std::function<double(std::int64_t)> schedule = [](std::int64_t) { return 1.0; };  ///< factor for a 1-based step
  adamw_options adamw{};
  double clip_norm = 1.0;                      ///< global L2 norm above which the gradient is scaled down; 0: no clipping
  bool recompute = false;                      ///< gradient checkpointing per layer
  balance_terms balance{};  ///< auxiliary balance losses, all off
  double z_loss = 0;      ///< coefficient of the loss on the size of the router's logits
  bool dense_router_gradient = false;  ///< trained routers learn from all experts, at the price of running them: DenseMixer
  /// After each step the bias of every expert's choice moves by so much towards the mean load (DeepSeek-V3; below 0: away from it), in
  /// layers of sigmoid routers whose bias the trainable set names; 0: biases are frozen.
  double bias_step = 0;
  int max_consecutive_skips = 10;              ///< non-finite steps in a row before the run gives up
  bool record = false;    ///< record a step once and replay it from then on, on backends with unattended steps; else it changes nothing
};

namespace detail {
/// Slices of one weight; of a stack one for each trained part, called by `experts` where its parts are not all experts of a layer.
template <class Backend, class Weight>
void add_slices(parameter_key key, Weight& w, const std::vector<std::int32_t>& experts, std::vector<trained_slice<Backend>>& slices) {
  if (!w.trained()) return;
  const extents<2> shape = w.part_shape();
  const index part = shape[0] * shape[1];
  if constexpr (Weight::stacked) {
    for (std::size_t s = 0; s < w.selected.size(); ++s) {
      const index from = w.selected[s] * part;
      const index gradient = static_cast<index>(s) * part;
      slices.push_back({key, experts.empty() ? w.selected[s] : experts[s], !is_bias(Weight::role), w.elements().slice(from, from + part),
                        w.gradient_elements().slice(gradient, gradient + part), shape, w.layout()});
    }
  } else {
    slices.push_back({key, -1, Weight::rank > 1, w.elements(), w.gradient_elements(), shape, w.layout()});
  }
}
}  // namespace detail

/// The trained slices of a model, in visiting order: whole tensors, experts of stacks, factors. One slice for each trained expert.
template <class Model>
[[nodiscard]] auto trained_slices(Model& model) {
  using Backend = typename Model::backend_type;
  std::vector<trained_slice<Backend>> slices;
  for_each_parameter(model.parameters, [&](parameter_key key, auto& w) {
    detail::add_slices(key, w, {}, slices);
    if constexpr (std::remove_cvref_t<decltype(w)>::rank > 1) {
      const auto add_pairs = [&](auto& pairs) {
        detail::add_slices({key.role, key.layer, low_rank_factor::a}, pairs.a, pairs.experts, slices);
        detail::add_slices({key.role, key.layer, low_rank_factor::b}, pairs.b, pairs.experts, slices);
      };
      if (w.low_rank) add_pairs(*w.low_rank);
      if (!w.mixture) return;
      add_pairs(w.mixture->pairs);
      detail::add_slices({key.role, key.layer, low_rank_factor::router}, w.mixture->router, {}, slices);
    }
  });
  return slices;
}

namespace detail {
/// Of a backend whose steps run with the host.
struct attended_steps {
  attended_steps(const auto& /*backend*/, const auto& /*model*/, bool /*record*/) {}
};
}  // namespace detail

/// Runs AdamW steps on a decoder whose `trainable_set` has been applied. Deterministic: the same batches give the same bits.
template <class Model>
class trainer {
 public:
  using backend_type = typename Model::backend_type;

  /// @pre `apply(backend, model.parameters, ...)` was called; it must not be called again while the trainer lives.
  /// @throws usage_error for a dense gradient of routers that are all frozen
  trainer(backend_type& backend, Model& model, trainer_options how)
      : options(std::move(how)), optimizer(backend, trained_slices(model), adamw_for(model, options)),
        backend_(&backend),
        model_(&model),
        remote_(backend, model, options.record) {
    ESFT_EXPECTS(!optimizer.slices().empty(), "something is trained: apply a trainable_set first");
    if (unattended && options.record && (options.balance.any() || options.z_loss > 0)) {
      throw usage_error("steps with a balance loss cannot be recorded: the host computes it; leave `record` off");
    }
    bool moves = false;
    for_each_buffer(model.parameters, [&](parameter_key, const auto& b) { moves = moves || b.moves; });
    if (moves != (options.bias_step != 0)) {
      throw usage_error(moves ? "the plan lets the biases of routers move, but the step by which they would is 0"
                              : "the biases of routers are to move, but the plan names none of them: only sigmoid routers have them");
    }
    if (unattended && moves) {
      throw usage_error("on this backend steps run without the host, which would have to count the load of experts: leave biases frozen");
    }
    const auto is_router = [](const trained_slice<backend_type>& slice) { return slice.key.role == parameter_role::router; };
    if (options.dense_router_gradient && std::none_of(optimizer.slices().begin(), optimizer.slices().end(), is_router)) {
      throw usage_error("a dense gradient of routers is asked for, but the plan trains no router: train them (full fine-tuning, or "
                        "everything that is no expert), or leave it out");
    }
  }

  /// One optimizer step over micro-batches whose gradients are averaged over all labelled tokens.
  /// A non-finite loss or gradient changes nothing (parameters, moments, step count of the optimizer) and is reported as skipped.
  /// @throws numerics_error after `max_consecutive_skips` skipped steps in a row; usage_error for a schedule that gives no finite rate;
  /// contract_violation without a batch, as `check_batch`, and where the model no longer trains what it did when the trainer was made:
  /// another set was applied, or an adapter, or a scorer of gradients ran. Nothing has changed then
  step_report step(std::span<const token_batch> micro_batches) {
    queue(micro_batches);
    return finish();
  }

  /// Begins a step, whose report `finish` gives. Where the backend has unattended steps everything is queued and nothing waits, so that the
  /// host can prepare the next batch; elsewhere the step has run on return. Several steps may be queued; reports come in their order.
  void queue(std::span<const token_batch> micro_batches) {
    queued_step now;
    step_report& report = now.report;
    report.step = steps + 1;
    report.learning_rate = options.learning_rate * options.schedule(report.step);
    if (!std::isfinite(report.learning_rate)) {
      throw usage_error("the learning rate of step " + std::to_string(report.step) + " is " + std::to_string(report.learning_rate) +
                        ", which every trained weight would become: look at learning_rate and schedule");
    }
    expect_same_slices();
    ESFT_EXPECTS(!micro_batches.empty(), "a step has at least one batch; without one it would follow old gradients on");
    for (const token_batch& batch : micro_batches) check_batch(batch);
    ++steps;
    for (const token_batch& batch : micro_batches) {
      for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
        report.tokens += batch.sample[t] >= 0 ? 1 : 0;
        report.labelled += batch.labels[t] != ignored_label ? 1 : 0;
      }
    }
    const double micro_share = 1.0 / static_cast<double>(std::max<std::size_t>(1, micro_batches.size()));
    backward_options pass{report.labelled > 0 ? 1.0 / static_cast<double>(report.labelled) : 0.0, options.recompute,
                          options.balance, options.z_loss, micro_share};
    pass.dense_router_gradient = options.dense_router_gradient;
    pass.count_load = options.bias_step != 0;
    pass.dropout_draw = static_cast<std::uint64_t>(steps) * 65536;  // a function of the step: a resumed run draws the same masks
    if constexpr (unattended) {
      remote_.queue(*backend_, *model_, optimizer, micro_batches, pass, options.clip_norm, report);
    } else {
      run(micro_batches, pass, report);
    }
    queued_.push_back(now);
  }

  /// The report of the oldest queued step, when it has run. @pre one is queued
  /// @throws numerics_error after `max_consecutive_skips` skipped steps in a row
  step_report finish() {
    ESFT_EXPECTS(!queued_.empty(), "a step is queued before it is finished");
    const auto start = queued_.front().start;
    step_report report = queued_.front().report;
    queued_.pop_front();
    if constexpr (unattended) {
      remote_.finish(*backend_, optimizer, report);
      report.skipped = !finite(report);
    }
    if (report.skipped) {
      ++skipped;
      if (++consecutive_skips >= options.max_consecutive_skips) {
        throw numerics_error(std::to_string(consecutive_skips) + " steps in a row had a non-finite loss or gradient (last: step " +
                             std::to_string(report.step) + "): nothing was changed by them; lower the learning rate or check the data");
      }
    } else {
      consecutive_skips = 0;
    }
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return report;
  }

  /// Bytes of gradients, master weights and moments together: trained elements times a constant.
  [[nodiscard]] std::int64_t training_state_bytes() const {
    return optimizer.state_bytes() + optimizer.master.size() * static_cast<std::int64_t>(sizeof(accum_t<backend_type>));
  }

  [[nodiscard]] Model& model() noexcept { return *model_; }

  const trainer_options options;
  adamw_optimizer<backend_type> optimizer;
  std::int64_t steps = 0;     ///< steps tried, skipped ones included
  std::int64_t skipped = 0;
  int consecutive_skips = 0;

 private:
  static constexpr bool unattended = has_unattended_steps<backend_type>;
  struct queued_step {
    step_report report;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  };

  /// The optimizer holds views of weights and gradients: what has been taken away under it must not be written to.
  void expect_same_slices() const {
    const auto now = trained_slices(*model_);
    const auto then = optimizer.slices();
    const bool same = std::equal(now.begin(), now.end(), then.begin(), then.end(), [](const auto& a, const auto& b) {
      return a.value.data() == b.value.data() && a.gradient.data() == b.gradient.data();
    });
    ESFT_EXPECTS(same, "the model trains what it did when the trainer was made: after `apply`, `apply_adapter` or a scorer of gradients "
                       "apply the set again and make a new one");
  }

  static bool finite(const step_report& report) { return std::isfinite(report.loss) && std::isfinite(report.gradient_norm); }
  /// A step with the host: it reads loss and norm before it decides on the update.
  void run(std::span<const token_batch> micro_batches, backward_options pass, step_report& report) {
    optimizer.trained.clear_gradients(*backend_);
    double loss_sum = 0;
    std::map<layer_index, std::vector<std::int64_t>> load;
    for (const token_batch& batch : micro_batches) {
      ++pass.dropout_draw;
      const pass_result result = model_->accumulate_gradients(*backend_, batch, pass);
      loss_sum += result.loss;
      report.balance_loss += result.balance_loss * pass.balance_scale;
      for (const auto& [layer, here] : result.load) {
        std::vector<std::int64_t>& sum = load[layer];
        sum.resize(here.size());
        std::transform(here.begin(), here.end(), sum.begin(), sum.begin(), std::plus<>());
      }
    }
    report.loss = report.labelled > 0 ? loss_sum / static_cast<double>(report.labelled) : 0.0;
    report.gradient_norm = std::sqrt(optimizer.trained.sum_of_squares(*backend_));
    report.skipped = !finite(report);
    if (report.skipped) return;
    const bool clip = options.clip_norm > 0 && report.gradient_norm > options.clip_norm;
    optimizer.update(*backend_, report.learning_rate, clip ? options.clip_norm / report.gradient_norm : 1.0);
    if (options.bias_step != 0) move_biases(load);
  }
  void move_biases(const std::map<layer_index, std::vector<std::int64_t>>& load) {
    for_each_buffer(model_->parameters, [&](parameter_key key, auto& b) {
      const auto found = load.find(key.layer);
      if (!b.moves || found == load.end()) return;
      std::vector<float> bias(found->second.size());
      backend_->copy_out(std::as_const(b.value).view(), std::span<float>(bias));
      balance_bias(bias, found->second, options.bias_step);
      backend_->copy_in(std::span<const float>(bias), b.value.view());
    });
  }
  static adamw_options adamw_for(const Model& model, const trainer_options& how) {
    adamw_options result = how.adamw;
    result.round_to_bf16 = model.config.storage == dtype::bfloat16;
    result.round_to_f16 = model.config.storage == dtype::float16;
    return result;
  }

  backend_type* backend_;
  Model* model_;
  [[no_unique_address]] std::conditional_t<unattended, unattended_steps<Model>, detail::attended_steps> remote_;
  std::deque<queued_step> queued_;
};

}  // namespace esft
