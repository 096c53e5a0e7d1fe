// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `merge_adapter`: a base model with an adapter's tensors in place of its own, or its factors multiplied in; sharded as the base is.

#include <esft/io/adapter.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/fused_sources.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/low_rank_merge.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors.hpp>
#include <esft/io/side_files.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

namespace detail {

/// Every tensor of the adapter must replace a tensor of the base that is of the same shape and element type, or be a factor beside one.
inline void expect_fits(const model_directory& base, const adapter& changes) {
  for (const std::string& stem : low_rank_stems(changes)) {
    const std::string problem = low_rank_problem(base, changes, stem);
    if (problem.empty()) continue;
    throw input_error(input_error_code::shape_mismatch, {changes.path().string(), stem, {}}, problem, "choose the base it was trained on");
  }
  for (const std::string& name : changes.names()) {
    if (is_low_rank_name(name)) continue;
    const tensor_record& replacement = *changes.find(name);
    const tensor_record* original = base.find(name);
    const input_place place{changes.path().string(), name, {}};
    if (original == nullptr) {
      throw input_error(input_error_code::unknown_tensor, place, "the base model " + base.path().string() + " has no such tensor",
                        "choose the base it was trained on");
    }
    if (original->shape != replacement.shape) {
      throw input_error(input_error_code::shape_mismatch, place,
                        "has shape " + to_string(replacement.shape) + ", the base " + to_string(original->shape));
    }
    if (original->type != replacement.type) {
      throw input_error(
          input_error_code::dtype_mismatch, place,
          "holds " + std::string(safetensors_name(replacement.type)) + ", the base " + std::string(safetensors_name(original->type)));
    }
  }
}

/// A tied head that the files hold a second time stays as it is, so the embedding may not move away from it.
inline void expect_tied_head_stays(const model_directory& base, const adapter& changes) {
  const std::string copy = "lm_head.weight";
  const std::string embedding = "model.embed_tokens.weight";
  if (base.find(copy) == nullptr || changes.find(embedding) == nullptr || !read_hf_config(base.path()).tie_word_embeddings) return;
  throw input_error(input_error_code::unsupported_feature, {changes.path().string(), embedding, {}},
                    "changes the embedding, of which " + base.path().string() + " holds a copy as " + copy +
                        " though config.json ties the two: the merged model would have two different ones",
                    "remove the copy from the checkpoint and train on that");
}

}  // namespace detail

/// Name of the file in a merged model that holds what the merge replaced.
inline constexpr std::string_view replaced_tensors_name = "esft_replaced.safetensors";
/// Metadata key in it: `model_directory::digest()` of the base.
inline constexpr std::string_view replaced_base_key = "esft.base_sha256";

/// Whether a merge keeps what it replaces, in a file of the size of the adapter beside the weights: it can be undone without the base then.
enum class keep_replaced : std::uint8_t { no, yes };

/// Writes the merged model to `output`, a new or empty directory. @cost streaming: memory does not grow with the model
/// @throws input_error `wrong_base`, `unknown_tensor`, `shape_mismatch`, `dtype_mismatch`, `digest_mismatch`; usage_error; storage_error
inline void merge_adapter(const std::filesystem::path& base_directory, const std::filesystem::path& adapter_directory,
                          const std::filesystem::path& output, keep_replaced keep = keep_replaced::no) {
  const model_directory base = model_directory::open(base_directory);
  const adapter changes = read_adapter(adapter_directory);
  expect_mergeable(changes);
  detail::expect_fits(base, changes);
  detail::expect_tied_head_stays(base, changes);
  atomic_directory merged(output);
  expect_trained_on(base, changes, "merge with the base it was trained on; an adapter is applied once");
  changes.verify_digests();
  std::vector<tensor_source> replaced;
  for (std::size_t i = 0; i < base.shards().size(); ++i) {
    const safetensors_file& shard = base.shards()[i];
    std::vector<tensor_source> sources;
    const auto merged_tensor = [&](const tensor_record& record) {
      const bool changed = has_low_rank(changes, record.name) || changes.find(record.name) != nullptr;
      if (changed && keep == keep_replaced::yes) replaced.push_back(file_source(shard, record));
      if (has_low_rank(changes, record.name)) return low_rank_source(shard, record, changes);
      return changes.find(record.name) != nullptr ? changes.source(record.name) : file_source(shard, record);
    };
    for (const tensor_record& stored : shard.tensors()) sources.push_back(stored_source(base, stored, merged_tensor));
    write_safetensors(merged.path() / base.shard_names()[i], sources, shard.metadata());
    shard.expect_unchanged();
  }
  if (keep == keep_replaced::yes) {
    write_safetensors(merged.path() / replaced_tensors_name, replaced, {{std::string(replaced_base_key), base.digest()}, {"format", "pt"}},
                      self_digest::in_metadata);
  }
  detail::copy_side_files(base_directory, merged.path());
  merged.commit();
}

}  // namespace esft
