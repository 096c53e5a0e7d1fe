// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What several commands read alike: model and backend options, the tokenizer of a model, data sets, batches.

#include "adapter_choice.hpp"
#include "console.hpp"
#include "engine.hpp"
#include "number_checks.hpp"
#include "progress.hpp"

#include <esft/data/tokenizers.hpp>
#include <esft/io/file.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/sha256.hpp>
#include <esft/train/dataset.hpp>
#include <esft/train/open_tokenizer.hpp>

#include <CLI/App.hpp>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace esft::tool {

/// Adds --backend, --dtype, --threads, --deterministic and what else backends take.
inline void add_backend_options(CLI::App& command, engine_request& request) {
  command.add_option("--backend", request.backend, "what computes; `esft list backends` names them")->capture_default_str();
  command
      .add_option(
          "--dtype", request.dtype,
          "what weights and activations are stored as: float32, bfloat16, or auto (bfloat16 where the checkpoint is, on a CPU only with AMX); "
          "sums, optimizer state and master weights are float32 in any case")
      ->transform([](const std::string& name) { return name == "bf16" ? std::string("bfloat16") : name; })
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}))
      ->capture_default_str();
  command.add_option("--threads", request.threads, "threads of the backend, 0: all; results do not depend on it")
      ->check(non_negative_number)
      ->capture_default_str();
  command
      .add_option("--memory", request.memory,
                  "most memory for weights, such as 24GiB, above which a model is refused before it is read; "
                  "default: what is available")
      ->transform(CLI::AsSizeValue(false));
  command.add_flag("--mmap", request.mapped,
                   "map the checkpoint's files read-only instead of reading them: no copies, but a file that another process cuts short "
                   "meanwhile ends this one");
  command.add_flag("--deterministic,!--no-deterministic", request.deterministic,
                   "two runs give the same bits (default); without, a GPU may add in any order, CPU backends do not change");
  command
      .add_option("--grouped", request.grouped,
                  "how a GPU computes the products of all experts: streams (a call of cuBLAS an expert, the default), batched (one call), or "
                  "device (kernels that need no sizes on the host, the default with --record)")
      ->check(CLI::IsMember({"streams", "batched", "device"}));
}
/// Adds --model and the options of a backend.
inline void add_model_options(CLI::App& command, engine_request& request) {
  command.add_option("--model", request.model, "directory of config.json and *.safetensors")->required();
  add_backend_options(command, request);
}

/// The tokenizer in a model's directory. @throws error (bad input) when there is none that belongs to the model
inline any_tokenizer tokenizer_of(const engine_request& request) { return open_tokenizer(request.model, read_hf_config(request.model)); }

/// Adds --chat-template.
inline void add_chat_option(CLI::App& command, std::string& chat) {
  std::vector<std::string> templates = names_of(builtin_chat_templates{});
  command.add_option("--chat-template", chat, "how conversations are written: the one that the model was trained with")
      ->check(CLI::IsMember(templates))
      ->capture_default_str();
}

/// Reads a data set and says what was left out.
inline dataset open_dataset(const std::filesystem::path& file, bool skip_bad_records = false) {
  dataset records = read_dataset(file, skip_bad_records ? bad_record_policy::skip : bad_record_policy::error);
  if (records.skipped > 0) out().warn(std::to_string(records.skipped) + " malformed records left out; the first: " + records.first_problem);
  return records;
}

/// Documents in a random order until they hold enough tokens: the sample that the paper scores.
inline std::vector<training_sample> sampled(std::vector<training_sample> documents, std::int64_t tokens, std::uint64_t seed) {
  shuffle(documents, counter_rng(seed, rng_stream::shuffle));
  std::int64_t seen = 0;
  std::size_t kept = 0;
  while (kept < documents.size() && (tokens == 0 || seen < tokens)) seen += static_cast<std::int64_t>(documents[kept++].tokens.size());
  documents.resize(kept);
  return documents;
}

/// Says that documents did not fit a row: a later piece does not see the earlier one, which matters where an answer needs its prompt.
inline void report_divided(const packing_report& report, std::size_t length) {
  if (report.divided == 0) return;
  out().warn(std::to_string(report.divided) + " of " + std::to_string(report.documents) + " documents are longer than a row of " +
             std::to_string(length) + " tokens and were divided; --length makes rows longer");
}

/// Says, once in a process, that a sequence is longer than what the model was made for. Nothing stops: rotary embedding has a number for
/// every position, but the model has not learned what those mean.
inline void report_positions(index positions, std::size_t longest, const std::string& way_out) {
  static bool said = false;
  if (said || longest <= static_cast<std::size_t>(positions)) return;
  said = true;
  out().warn("the longest sequence has " + std::to_string(longest) + " tokens, but the model was made for " +
             std::to_string(positions) + " positions (max_position_embeddings in config.json): what it says beyond them means "
             "little; " + way_out);
}
/// What there is to say about rows of data.
inline void report_rows(index positions, const packing_report& report, std::size_t length) {
  report_divided(report, length);
  report_positions(positions, report.longest, "--length " + std::to_string(positions) + " divides what is longer");
}

/// A loss over no token is not 0, and no model is perfect for it. @throws error (bad input)
inline void expect_measured(const loss_result& result, const std::filesystem::path& data) {
  if (result.labelled > 0) return;
  throw error(error_category::bad_input, data.string() + ": no token of it is measured: this tokenizer makes none of its answers, as "
                                                         "`esft tokenize` shows; use the tokenizer that the model was trained with");
}

/// Batches of evaluation data with a progress bar.
inline batch_sequence with_progress(const evaluation_batches<>& batches, progress& bar) {
  return {batches.size(), [&batches, &bar](std::size_t i) {
            bar.update(static_cast<std::int64_t>(i));
            return batches[i];
          }};
}

/// An adapter that was trained on this model, or one of peft. What it holds is open: a converted one's files may go.
/// @throws input_error `wrong_base` when it belongs to another one and not `force`
inline adapter read_adapter_of(const engine& model, const std::filesystem::path& path, bool force) {
  const usable_adapter usable(path, model.base());
  adapter changes = read_adapter(usable.path());
  if (!force && !usable.converted()) expect_trained_on(model.base(), changes, "give the base that it was trained on, or --force");
  return changes;
}
/// Loads the base and puts the adapter on top, if one is named.
inline std::unique_ptr<engine> open_with_adapter(const engine_request& request, const std::filesystem::path& adapter_path, bool force) {
  std::unique_ptr<engine> model = open_engine(request);
  if (!adapter_path.empty()) model->apply_adapter(read_adapter_of(*model, adapter_path, force));
  return model;
}

/// SHA-256 of a file's bytes.
inline std::string file_digest(const std::filesystem::path& path) {
  const input_file file(path);
  sha256 hash;
  std::vector<std::byte> buffer(1U << 18U);
  for (std::uint64_t at = 0; at < file.size(); at += buffer.size()) {
    buffer.resize(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), file.size() - at)));
    file.read_at(at, buffer);
    hash.update(buffer);
  }
  return hash.hex_digest();
}

}  // namespace esft::tool
