// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Training checkpoints: one self-verifying file per step, so that a crash leaves the old state or the new one.

#include <esft/io/file.hpp>
#include <esft/io/safetensors.hpp>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace esft {

/// Version of the checkpoint format that this library writes; newer ones are refused.
inline constexpr int training_state_version = 1;

/// A verified checkpoint.
struct training_state {
  safetensors_file file;                        ///< its tensors; read them by name
  std::int64_t step = 0;
  std::map<std::string, std::string> metadata;  ///< as given to `save_training_state`
  std::vector<std::string> skipped;             ///< newer checkpoints that are damaged, with the reason: tell the user
};

namespace detail {

inline constexpr std::string_view state_version_key = "esft.format_version";

inline std::filesystem::path state_path(const std::filesystem::path& directory, std::int64_t step) {
  return directory / ("step-" + std::to_string(step) + ".safetensors");
}

/// Step of a checkpoint's file name; absent for other files.
inline std::optional<std::int64_t> state_step(const std::filesystem::path& path) {
  const std::string name = path.filename().string();
  std::int64_t step = -1;
  if (!name.starts_with("step-")) return std::nullopt;
  std::from_chars(name.data() + 5, name.data() + name.size(), step);
  return step >= 0 && state_path({}, step) == name ? std::optional(step) : std::nullopt;
}

/// Steps of all checkpoints of a directory, newest first.
inline std::vector<std::int64_t> saved_steps(const std::filesystem::path& directory) {
  std::vector<std::int64_t> steps;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(directory, failure)) {
    if (const auto step = state_step(entry.path())) steps.push_back(*step);
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

/// Opens a checkpoint and checks every byte of it.
inline training_state open_training_state(const std::filesystem::path& path, std::int64_t step) {
  training_state state{safetensors_file::open(path), step, {}, {}};
  verify_self_digest(state.file);
  state.metadata = state.file.metadata();
  const std::string version = state.metadata[std::string(state_version_key)];
  if (version != std::to_string(training_state_version)) {
    throw input_error(input_error_code::unsupported_version, {path.string(), {}, {}},
                      "checkpoint format '" + printable(version) + "', this esft reads " + std::to_string(training_state_version),
                      "use the esft that wrote it");
  }
  state.metadata.erase(std::string(state_version_key));
  state.metadata.erase(std::string(file_digest_key));
  return state;
}

}  // namespace detail

/// Saves a checkpoint `step-<N>.safetensors`; when it returns, the state survives power loss. The two newest checkpoints are
/// kept; older ones are deleted only after the new one was read back and verified. Hold the `run_lock` of the directory.
/// @throws storage_error; earlier checkpoints are then intact  @cost writes and reads the state once
inline void save_training_state(const std::filesystem::path& directory, std::int64_t step, std::span<const tensor_source> tensors,
                                std::map<std::string, std::string> metadata) {
  ESFT_EXPECTS(step >= 0, "steps count from 0");
  ESFT_EXPECTS(!metadata.contains(std::string(detail::state_version_key)), "this key is taken by the format");
  metadata.emplace(detail::state_version_key, std::to_string(training_state_version));
  const std::filesystem::path path = detail::state_path(directory, step);
  write_safetensors(path, tensors, std::move(metadata), self_digest::in_metadata);
  try {
    static_cast<void>(detail::open_training_state(path, step));
  } catch (const input_error& problem) {
    throw storage_error("verify what was just written to", path, EIO, std::string("the disk may be failing: ") + problem.what());
  }
  std::error_code ignored;
  int kept = 0;  // a newer step than this one is damaged, or it would have been loaded: it does not count
  for (const std::int64_t saved : detail::saved_steps(directory)) {
    if (saved <= step && ++kept > 2) std::filesystem::remove(detail::state_path(directory, saved), ignored);
  }
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    const bool is_leftover = name.starts_with("step-") && name.find(".safetensors.tmp-") != std::string::npos;  // of a killed process
    if (is_leftover) std::filesystem::remove(entry.path(), ignored);
  }
}

/// The newest checkpoint that is whole; absent when the directory has none. Damaged newer ones are reported in `skipped`.
/// @throws input_error `nothing_to_load` when there are checkpoints but none is usable
inline std::optional<training_state> load_latest_training_state(const std::filesystem::path& directory) {
  std::vector<std::string> skipped;
  for (const std::int64_t step : detail::saved_steps(directory)) {
    try {
      training_state state = detail::open_training_state(detail::state_path(directory, step), step);
      state.skipped = std::move(skipped);
      return state;
    } catch (const input_error& problem) {
      skipped.emplace_back(problem.what());
    }
  }
  if (skipped.empty()) return std::nullopt;
  std::string reasons;
  for (const std::string& reason : skipped) reasons += (reasons.empty() ? "" : " | ") + reason;
  throw input_error(input_error_code::nothing_to_load, {directory.string(), {}, {}}, "no checkpoint is usable: " + reasons,
                    "start a new run in another directory");
}

}  // namespace esft
