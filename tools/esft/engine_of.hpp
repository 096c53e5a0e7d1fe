// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `engine_of<Backend>`: the engine interface over the library. Including this instantiates the model and the trainer.

#include "engine.hpp"
#include "memory_guard.hpp"

#include <esft/model/load.hpp>
#include <esft/model/save.hpp>
#include <esft/train/apply_adapter.hpp>

#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

namespace esft::tool {

template <class Backend>
class engine_of final : public engine {
 public:
  using model_type = decoder<Backend>;

  engine_of(Backend backend, const engine_request& request, std::function<std::string(const Backend&)> describe)
      : backend_(std::move(backend)),
        base_(open_checked(backend_, request)),
        model_(load_decoder(backend_, base_, &unread_)),
        describe_(std::move(describe)) {}

  std::string description() const override { return describe_(backend_); }
  dtype stored_as() const override { return dtype_v<value_t<Backend>>; }
  const decoder_config& config() const override { return model_.config; }
  const model_directory& base() const override { return base_; }
  std::vector<std::string> left_out() const override { return unread_.sentences(); }
  parameter_inventory inventory() const override { return esft::inventory(model_.parameters); }
  std::vector<std::string> planned_names(const trainable_set& trainable) const override { return esft::planned_names(model_, trainable); }

  void apply_adapter(const adapter& changes) override { esft::apply_adapter(backend_, model_, changes); }
  std::vector<tensor_audit> purify(const adapter& changes, const batch_sequence& clean, const purify_options& options) override {
    return esft::purify(backend_, model_, changes, clean, options);
  }
  void observe(const batch_sequence& batches, scorer_group& scorers, const scoring_options& options) override {
    observe_task(backend_, model_, batches, scorers, options);
  }
  loss_result loss(const batch_sequence& batches) override { return evaluate_loss(backend_, model_, batches); }
  std::vector<std::vector<std::int32_t>> generate(std::span<const std::vector<std::int32_t>> prompts, std::int32_t stop,
                                                  std::int64_t max_new_tokens) override {
    return generate_greedy(backend_, model_, prompts, stop, max_new_tokens);
  }
  std::vector<float> logits(const std::vector<std::int32_t>& ids) override { return sequence_logits(backend_, model_, ids); }

  run_outcome train(const trainable_set& trainable, const trainer_options& options, const batch_schedule<>& data,
                    const run_settings& settings, const run_hooks& hooks) override {
    expect_writable(trainable);
    apply(backend_, model_.parameters, trainable);
    trainer<model_type> run(backend_, model_, options);
    return run_in_directory(backend_, run, data, settings, hooks);
  }
  step_report one_step(const trainable_set& trainable, const trainer_options& options, const token_batch& batch) override {
    apply(backend_, model_.parameters, trainable);
    trainer<model_type> run(backend_, model_, options);
    static_cast<void>(run.step(std::span<const token_batch>(&batch, 1)));  // the first step also pays for fresh memory
    return run.step(std::span<const token_batch>(&batch, 1));
  }
  void remember() override { snapshot_.emplace(backend_, model_); }
  void restore() override { snapshot_.value().restore(backend_, model_); }
  snapshot_difference changes() override { return snapshot_.value().compare(backend_, model_); }
  task_measurement measure(const task_data& task, const domain_batches& domains) override {
    return esft::measure(backend_, model_, task, domains);
  }
  arm_measurement run_arm(const trainable_set& trainable, const task_data& task, const domain_batches& domains,
                          const trainer_options& options, std::int64_t steps,
                          const std::function<void(const step_report&)>& progress) override {
    return esft::run_arm(backend_, model_, trainable, task, domains, options, steps, progress);
  }
  void write_trained(const std::filesystem::path& directory, const adapter_manifest& manifest) override {
    const std::vector<tensor_source> sources = tensor_sources(backend_, model_, save_scope::trained_only);
    write_adapter(directory, manifest, sources);
  }
  std::vector<std::string> moved_frozen() override { return moved_frozen_tensors(backend_, model_, base_); }

 private:
  /// Weights must fit the memory that they go to before they are read.
  static model_directory open_checked(Backend& backend, const engine_request& request) {
    model_directory base = model_directory::open(request.model, request.mapped ? file_access::mapped : file_access::positioned);
    detail::refuse_quantised(base);
    if constexpr (requires { backend.free_memory(); }) {
      expect_room(base, sizeof(value_t<Backend>), request.memory, {backend.free_memory(), "the device has "});
    } else if constexpr (std::is_same_v<typename Backend::memory_space, host_space>) {
      expect_room(base, sizeof(value_t<Backend>), request.memory, {available_memory(), "this machine has "});
    }
    return base;
  }

  /// What is trained must be what a merged model computes with.
  void expect_writable(const trainable_set& trainable) const {
    for_each_buffer(model_.parameters, [&](parameter_key key, const auto& b) {
      const std::string name = hf_pieces(model_.config.names, key, {b.value.extent(0)}).front().name;
      if (!trainable.trains(key) || base_.at(name).type == dtype::float32) return;
      throw usage_error(base_.path().string() + ": " + name + " is stored in " + std::string(safetensors_name(base_.at(name).type)) +
                        ", too coarse for steps of a bias, and an adapter must keep the type: convert it to F32, or leave --bias-step out");
    });
    if (unread_.tied_head.empty() || !trainable.trains({parameter_role::embedding, layer_index{-1}})) return;
    throw usage_error(base_.path().string() + ": the plan trains the embedding, of which the checkpoint holds a copy as " +
                      unread_.tied_head.front() +
                      " though config.json ties the two: remove the copy, so that nothing else reads the old one");
  }

  Backend backend_;
  model_directory base_;
  unread_tensors unread_;
  model_type model_;
  std::optional<parameter_snapshot<model_type>> snapshot_;
  std::function<std::string(const Backend&)> describe_;
};

}  // namespace esft::tool
