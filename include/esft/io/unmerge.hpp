// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `unmerge`: the base of a merged model, from what the merge kept, proved by the base's own digest.

#include <esft/io/directory.hpp>
#include <esft/io/fused_sources.hpp>
#include <esft/io/merge_adapter.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors.hpp>
#include <esft/io/side_files.hpp>

#include <cstddef>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace esft {

/// What was put back.
struct unmerged {
  std::size_t restored = 0;  ///< tensors
  std::string base_digest;   ///< of the result, and of the base before the merge
};

/// Writes the model that was merged into, to `output`, a new or empty directory: same shards, and every tensor bit for bit.
/// Nothing is written where the result is not that base: then the merged model was changed after the merge.
/// @throws input_error `nothing_to_load` when the merge kept nothing, `digest_mismatch`, `unknown_tensor`; usage_error; storage_error
inline unmerged unmerge(const std::filesystem::path& merged_directory, const std::filesystem::path& output) {
  const std::filesystem::path kept_path = merged_directory / replaced_tensors_name;
  if (!std::filesystem::exists(kept_path)) {
    throw input_error(input_error_code::nothing_to_load, {merged_directory.string(), {}, {}},
                      "holds no " + std::string(replaced_tensors_name) + ": the merge did not keep what it replaced",
                      "merge again and keep what is replaced (keep_replaced::yes), or go back to the base itself");
  }
  const model_directory merged = model_directory::open(merged_directory);
  const safetensors_file kept = safetensors_file::open(kept_path);
  verify_self_digest(kept);
  const auto stated = kept.metadata().find(std::string(replaced_base_key));
  if (stated == kept.metadata().end()) {
    throw input_error(input_error_code::missing_key, {kept_path.string(), {}, {}}, "does not say which base it belongs to");
  }
  for (const tensor_record& record : kept.tensors()) {
    if (merged.find(record.name) != nullptr) continue;
    throw input_error(input_error_code::unknown_tensor, {kept_path.string(), record.name, {}}, "the merged model has no such tensor");
  }
  atomic_directory target(output);
  for (std::size_t i = 0; i < merged.shards().size(); ++i) {
    const safetensors_file& shard = merged.shards()[i];
    std::vector<tensor_source> sources;
    const auto original = [&](const tensor_record& record) {
      const tensor_record* before = kept.find(record.name);
      return before != nullptr ? file_source(kept, *before) : file_source(shard, record);
    };
    for (const tensor_record& stored : shard.tensors()) sources.push_back(stored_source(merged, stored, original));
    write_safetensors(target.path() / merged.shard_names()[i], sources, shard.metadata());
    shard.expect_unchanged();
  }
  detail::copy_side_files(merged_directory, target.path());
  const std::string digest = model_directory::open(target.path()).digest();
  if (digest != stated->second) {
    throw input_error(input_error_code::digest_mismatch, {merged_directory.string(), {}, {}},
                      "with the kept tensors put back this is not the base that was merged into (SHA-256 differs)",
                      "a tensor was changed after the merge");
  }
  target.commit();
  return {kept.tensors().size(), digest};
}

}  // namespace esft
