// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `engine`: a loaded model on one backend behind an interface, so that only one source file per backend instantiates the model.

#include "console.hpp"

#include <esft/core/step_report.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/core/trainable_set.hpp>
#include <esft/core/type_list.hpp>
#include <esft/data/batch.hpp>
#include <esft/io/adapter.hpp>
#include <esft/model/config.hpp>
#include <esft/train/arm.hpp>
#include <esft/train/evaluation.hpp>
#include <esft/train/purify.hpp>
#include <esft/train/recipe.hpp>
#include <esft/train/run_directory.hpp>
#include <esft/train/scoring.hpp>
#include <esft/train/snapshot.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft::tool {

/// Batches by number, however they are made.
struct batch_sequence {
  std::size_t count = 0;
  std::function<token_batch(std::size_t)> get;

  [[nodiscard]] std::size_t size() const { return count; }
  [[nodiscard]] token_batch operator[](std::size_t i) const { return get(i); }
};

/// What the tool does with a model. One engine has one backend and one model.
class engine {
 public:
  virtual ~engine() = default;

  /// Backend, kernels and threads, for people.
  [[nodiscard]] virtual std::string description() const = 0;
  /// What weights and activations are stored as.
  [[nodiscard]] virtual dtype stored_as() const = 0;
  [[nodiscard]] virtual const decoder_config& config() const = 0;
  [[nodiscard]] virtual const model_directory& base() const = 0;
  /// What the files hold and loading left out, one sentence for each kind.
  [[nodiscard]] virtual std::vector<std::string> left_out() const = 0;
  [[nodiscard]] virtual parameter_inventory inventory() const = 0;
  [[nodiscard]] virtual std::vector<std::string> planned_names(const trainable_set& trainable) const = 0;

  virtual void apply_adapter(const adapter& changes) = 0;
  /// What an adapter moved that clean samples, one a batch, do not explain; with `reset` the worst goes back. `write_trained` then writes
  /// the rest.
  virtual std::vector<tensor_audit> purify(const adapter& changes, const batch_sequence& clean, const purify_options& options) = 0;
  /// Shows the scorers what they read of the model on these batches; gradient scorers leave it frozen.
  virtual void observe(const batch_sequence& batches, scorer_group& scorers, const scoring_options& options) = 0;
  [[nodiscard]] virtual loss_result loss(const batch_sequence& batches) = 0;
  [[nodiscard]] virtual std::vector<std::vector<std::int32_t>> generate(std::span<const std::vector<std::int32_t>> prompts,
                                                                        std::int32_t stop, std::int64_t max_new_tokens) = 0;
  /// What each token of one sequence says of the next. @shape result [T, V] @throws usage_error for an id outside the vocabulary
  [[nodiscard]] virtual std::vector<float> logits(const std::vector<std::int32_t>& ids) = 0;

  /// Trains what the set names, and leaves it applied.
  virtual run_outcome train(const trainable_set& trainable, const trainer_options& options, const batch_schedule<>& data,
                            const run_settings& settings, const run_hooks& hooks) = 0;
  /// One step without a run directory, for measuring. The model is changed.
  virtual step_report one_step(const trainable_set& trainable, const trainer_options& options, const token_batch& batch) = 0;
  /// Keeps a copy of all parameters: what `restore` goes back to and `changes` compares with.
  virtual void remember() = 0;
  virtual void restore() = 0;
  [[nodiscard]] virtual snapshot_difference changes() = 0;
  /// Measures the model as it stands.
  [[nodiscard]] virtual task_measurement measure(const task_data& task, const domain_batches& domains) = 0;
  /// Trains in memory, without a run directory, and measures.
  virtual arm_measurement run_arm(const trainable_set& trainable, const task_data& task, const domain_batches& domains,
                                  const trainer_options& options, std::int64_t steps,
                                  const std::function<void(const step_report&)>& progress) = 0;
  virtual void write_trained(const std::filesystem::path& directory, const adapter_manifest& manifest) = 0;
  /// Frozen tensors in memory that differ from the checkpoint.
  [[nodiscard]] virtual std::vector<std::string> moved_frozen() = 0;
};

/// What to open.
struct engine_request {
  std::filesystem::path model;
  std::string backend = "eigen";
  std::string dtype = "auto";  ///< what weights and activations are stored as: auto, float32 or bfloat16
  int threads = 0;             ///< 0: all
  std::int64_t memory = 0;     ///< most bytes that weights in host memory may take; 0: what is available
  bool mapped = false;         ///< the checkpoint's files are mapped, not read
  bool deterministic = true;   ///< two runs give the same bits; CPU backends do in any case
  std::string grouped{};       ///< how a GPU computes the products of all experts: streams, batched, device; empty: as it likes
};

/// Each built backend: its name, what it stores the weights of a model as, and how to open the model on it.
struct eigen_engine {
  static constexpr std::string_view name = "eigen";
  static dtype stored_as(const engine_request& request);
  static std::unique_ptr<engine> open(const engine_request& request);
};
struct reference_engine {
  static constexpr std::string_view name = "reference";
  static dtype stored_as(const engine_request& request);
  static std::unique_ptr<engine> open(const engine_request& request);
};
#if defined(ESFT_TOOL_HAS_CUDA)
struct cuda_engine {
  static constexpr std::string_view name = "cuda";
  static dtype stored_as(const engine_request& request);
  static std::unique_ptr<engine> open(const engine_request& request);
  /// The first device of this machine, or that there is none.
  static std::string device();
};
#endif
#if defined(ESFT_TOOL_HAS_KOKKOS)
struct kokkos_engine {
  static constexpr std::string_view name = "kokkos";
  static dtype stored_as(const engine_request& request);
  static std::unique_ptr<engine> open(const engine_request& request);
};
#endif
#if defined(ESFT_TOOL_HAS_CUDA) && defined(ESFT_TOOL_HAS_KOKKOS)
using builtin_engines = type_list<eigen_engine, reference_engine, cuda_engine, kokkos_engine>;
#elif defined(ESFT_TOOL_HAS_CUDA)
using builtin_engines = type_list<eigen_engine, reference_engine, cuda_engine>;
#elif defined(ESFT_TOOL_HAS_KOKKOS)
using builtin_engines = type_list<eigen_engine, reference_engine, kokkos_engine>;
#else
using builtin_engines = type_list<eigen_engine, reference_engine>;
#endif

/// Names of a type list, for help texts and messages.
template <class... Types>
[[nodiscard]] std::vector<std::string> names_of(type_list<Types...>) {
  return {std::string(Types::name)...};
}

/// Calls `visit` with the engine that is asked for. @throws usage_error for an unknown backend, or a choice that it does not have
template <class Visit>
void visit_engine(const engine_request& request, Visit&& visit) {
  if (!request.grouped.empty() && request.backend != "cuda") {
    throw usage_error("--grouped chooses how a GPU multiplies; the backend " + request.backend + " has one way: leave it out");
  }
  if (visit_by_name(builtin_engines{}, request.backend, visit)) return;
  throw usage_error("no backend is called '" + request.backend + "'; `esft list backends` names those of this build");
}

/// Loads a model, and says what of its files was left out. @throws as `visit_engine`, and whatever loading throws
[[nodiscard]] inline std::unique_ptr<engine> open_engine(const engine_request& request) {
  std::unique_ptr<engine> result;
  visit_engine(request, [&]<class Engine>() { result = Engine::open(request); });
  for (const std::string& sentence : result->left_out()) out().warn(request.model.string() + ": " + sentence);
  return result;
}

}  // namespace esft::tool
