// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Checkpoints of a training run: the state with the run's fingerprint, so that a run is never continued as another one.

#include <esft/core/error.hpp>
#include <esft/io/training_state.hpp>
#include <esft/train/run_state.hpp>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Everything that a resumed run must share with the saved one to equal the uninterrupted one: field -> value.
using run_fingerprint = std::map<std::string, std::string>;

namespace detail {
inline constexpr std::string_view fingerprint_prefix = "esft.run.";

inline void expect_fingerprint(const run_fingerprint& now, const training_state& saved) {
  run_fingerprint then;
  for (const auto& [key, value] : saved.metadata) {
    if (key.starts_with(fingerprint_prefix)) then.emplace(key.substr(fingerprint_prefix.size()), value);
  }
  const auto refuse = [&](const std::string& field, const std::string& before, const std::string& after) {
    throw usage_error(saved.file.path().string() + ": the saved run had " + field + " = " + before + ", this one has " + after +
                      "; resume with the options of the saved run, or start a new run in another directory");
  };
  for (const auto& [field, value] : now) {
    const auto found = then.find(field);
    if (found == then.end()) refuse(field, "(nothing)", value);
    if (found->second != value) refuse(field, found->second, value);
  }
  for (const auto& [field, value] : then) {
    if (!now.contains(field)) refuse(field, value, "(nothing)");
  }
}
}  // namespace detail

/// Saves the run at its current step. @throws storage_error; earlier checkpoints are then intact
template <class Model>
void save_checkpoint(const std::filesystem::path& directory, typename Model::backend_type& backend, trainer<Model>& run,
                     const run_fingerprint& fingerprint) {
  std::map<std::string, std::string> metadata = state_counters(run);
  for (const auto& [field, value] : fingerprint) metadata.emplace(std::string(detail::fingerprint_prefix) + field, value);
  const std::vector<tensor_source> sources = state_sources(backend, run);
  save_training_state(directory, run.steps, sources, std::move(metadata));
}

/// What a run was continued from.
struct resumed_run {
  std::int64_t step = 0;
  std::vector<std::string> damaged;  ///< newer checkpoints that could not be used, with the reason: tell the user
};

/// Continues a fresh run from the newest checkpoint that is whole; absent when there is none.
/// @throws usage_error naming the field in which the runs differ; input_error when no checkpoint is usable
template <class Model>
std::optional<resumed_run> resume_from_checkpoint(const std::filesystem::path& directory, typename Model::backend_type& backend,
                                                  trainer<Model>& run, const run_fingerprint& fingerprint) {
  const std::optional<training_state> saved = load_latest_training_state(directory);
  if (!saved) return std::nullopt;
  detail::expect_fingerprint(fingerprint, *saved);
  restore_state(backend, run, saved->file);
  return resumed_run{run.steps, saved->skipped};
}

}  // namespace esft
