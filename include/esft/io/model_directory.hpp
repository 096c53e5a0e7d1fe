// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `model_directory`: all tensors of a Hugging Face model directory by name, in one file or in shards, experts one by one.

#include <esft/core/contract.hpp>
#include <esft/io/contained_path.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/expert_slices.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/safetensors_reader.hpp>
#include <esft/io/sha256.hpp>
#include <esft/io/tensor_record.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Name of the index of a sharded model.
inline constexpr std::string_view shard_index_name = "model.safetensors.index.json";

/// SHA-256 of a tensor's stored bytes, in hexadecimal.
inline std::string tensor_digest(const safetensors_file& file, const tensor_record& record) {
  sha256 hash;
  file.for_each_chunk(record, [&](std::span<const std::byte> bytes) { hash.update(bytes); });
  return hash.hex_digest();
}

/// Adds one tensor to the digest of a model: a line of name, element type, shape and SHA-256 of the bytes.
inline void add_to_model_digest(sha256& model, const tensor_record& record, std::string_view digest) {
  model.update(record.name);
  model.update(std::string_view("\0", 1));  // no tensor name holds a control character, so that lines are unambiguous
  model.update(safetensors_name(record.type));
  model.update(to_string(record.shape));
  model.update(digest);
  model.update("\n");
}

/// Read access to the tensors of a model. Opening validates every shard's header and the index; data is read on demand.
/// Where a checkpoint stores all experts of a layer in one tensor, its tensors here are the parts of each expert: see `expert_slices`. So
/// names, digests and adapters are the same whether a checkpoint stores experts together or one by one.
class model_directory {
 public:
  /// @throws input_error  @pre shards are files of the directory, or links inside its Hugging Face cache entry
  static model_directory open(const std::filesystem::path& directory, file_access access = file_access::positioned) {
    return model_directory(directory, access);
  }

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return directory_; }
  /// Open files, in name order of the files.
  [[nodiscard]] const std::vector<safetensors_file>& shards() const noexcept { return shards_; }
  /// Names of the shard files as the index writes them; parallel to `shards()`.
  [[nodiscard]] const std::vector<std::string>& shard_names() const noexcept { return shard_names_; }
  /// Whether the model has an index file.
  [[nodiscard]] bool is_sharded() const noexcept { return is_sharded_; }

  /// The experts' parts of a tensor of a shard in the order of their bytes; empty where the tensor is one itself.
  [[nodiscard]] std::span<const tensor_record> slices_of(const tensor_record& stored) const {
    const auto found = slices_.find(stored.name);
    return found == slices_.end() ? std::span<const tensor_record>() : found->second;
  }

  /// Names of all tensors, sorted.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const entry& tensor : tensors_) result.push_back(tensor.record->name);
    return result;
  }
  /// The record of a tensor, or null.
  [[nodiscard]] const tensor_record* find(std::string_view name) const noexcept {
    const entry* found = lookup(name);
    return found == nullptr ? nullptr : found->record;
  }
  /// The record of a tensor. @throws input_error `unknown_tensor`
  [[nodiscard]] const tensor_record& at(std::string_view name) const { return *required(name).record; }
  /// The shard that holds a tensor. @throws input_error `unknown_tensor`
  [[nodiscard]] const safetensors_file& shard_of(std::string_view name) const { return shards_[required(name).shard]; }

  /// Copies the stored bytes. @pre out.size() == at(name).byte_size()
  void read(std::string_view name, std::span<std::byte> out) const {
    const entry& tensor = required(name);
    shards_[tensor.shard].read(*tensor.record, out);
  }
  /// Converts to float by value. @pre out.size() == at(name).element_count()
  void read_floats(std::string_view name, std::span<float> out) const {
    const entry& tensor = required(name);
    shards_[tensor.shard].read_floats(*tensor.record, out);
  }
  /// The same for the elements [first, first + out.size()) of a tensor. @pre they are inside it
  void read_floats(std::string_view name, std::uint64_t first, std::span<float> out) const {
    const entry& tensor = required(name);
    ESFT_EXPECTS(first + out.size() <= tensor.record->element_count(), "the elements lie inside the tensor");
    tensor_record part = *tensor.record;
    part.begin += first * size_of(part.type);
    part.end = part.begin + out.size() * size_of(part.type);
    shards_[tensor.shard].read_floats(part, out);
  }

  /// SHA-256 of a tensor's stored bytes.
  [[nodiscard]] std::string tensor_digest(std::string_view name) const {
    const entry& tensor = required(name);
    return esft::tensor_digest(shards_[tensor.shard], *tensor.record);
  }
  /// SHA-256 over name, element type, shape and bytes of all tensors in name order: independent of how they are sharded.
  /// @cost reads every byte of the model once
  [[nodiscard]] std::string digest() const {
    sha256 hash;
    for (const entry& tensor : tensors_)
      add_to_model_digest(hash, *tensor.record, esft::tensor_digest(shards_[tensor.shard], *tensor.record));
    return hash.hex_digest();
  }

 private:
  struct entry {
    const tensor_record* record;
    std::size_t shard;
  };

  model_directory(const std::filesystem::path& directory, file_access access) : directory_(directory), access_(access) {
    if (std::filesystem::exists(directory / "model.safetensors")) {
      shard_names_ = {"model.safetensors"};
      open_shards();
    } else if (std::filesystem::exists(directory / shard_index_name)) {
      is_sharded_ = true;
      open_index();
    } else {
      refuse_directory();
    }
    split_fused();
  }

  void open_shards() {
    for (const std::string& name : shard_names_) shards_.push_back(safetensors_file::open(contained_path(directory_, name), access_));
    for (std::size_t shard = 0; shard < shards_.size(); ++shard) {
      for (const tensor_record& record : shards_[shard].tensors()) tensors_.push_back({&record, shard});
    }
    std::sort(tensors_.begin(), tensors_.end(), [](const entry& a, const entry& b) { return a.record->name < b.record->name; });
  }

  void open_index() {
    const std::string file = (directory_ / shard_index_name).string();
    const std::filesystem::path index_path = contained_path(directory_, shard_index_name);
    const json_value tree = parse_json(read_small_file(index_path, safetensors_header_limit), file);
    std::map<std::string, std::string> shard_of;
    std::set<std::string> names;
    for (const auto& [tensor, shard] : json_reader(tree, file).at("weight_map").members()) {
      const std::string& name = shard.string();
      shard_of.emplace(tensor, name);
      if (names.insert(name).second && !std::string_view(name).ends_with(".safetensors")) {
        throw input_error(input_error_code::unsupported_format, {file, tensor, {}},
                          "the shard '" + detail::printable(name) + "' is not a safetensors file");
      }
    }
    shard_names_.assign(names.begin(), names.end());
    open_shards();
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const std::string& name = tensors_[i].record->name;
      const std::string& shard = shard_names_[tensors_[i].shard];
      const auto listed = shard_of.find(name);
      if (i > 0 && tensors_[i - 1].record->name == name) {
        mismatch(file, name, "is in two shards, '" + shard_names_[tensors_[i - 1].shard] + "' and '" + shard + "'");
      }
      if (listed == shard_of.end()) mismatch(file, name, "is in '" + shard + "' but not in the index");
      if (listed->second != shard) mismatch(file, name, "is in '" + shard + "', the index says '" + listed->second + "'");
    }
    for (const auto& [name, shard] : shard_of) {
      if (find(name) == nullptr) mismatch(file, name, "is not in '" + shard + "', where the index puts it");
    }
    for (const auto& candidate : entries_of(directory_)) {
      const std::string name = candidate.path().filename().string();
      if (name.starts_with("model-") && name.ends_with(".safetensors") && !names.contains(name)) {
        mismatch(file, name, "is a shard in this directory that the index does not name");
      }
    }
  }

  /// Puts the parts of fused tensors in their place.
  void split_fused() {
    std::vector<entry> all;
    for (const entry& tensor : tensors_) {
      const std::string bias = fused_bias_name(tensor.record->name);
      const fused_layout layout = !bias.empty() && lookup(bias) != nullptr ? fused_layout::interleaved : fused_layout::halves;
      std::vector<tensor_record> parts = expert_slices(*tensor.record, layout);
      if (parts.empty()) {
        all.push_back(tensor);
        continue;
      }
      for (const tensor_record& part : slices_[tensor.record->name] = std::move(parts)) all.push_back({&part, tensor.shard});
    }
    tensors_ = std::move(all);
    const auto name_of = [](const entry& tensor) -> const std::string& { return tensor.record->name; };
    std::sort(tensors_.begin(), tensors_.end(), [&](const entry& a, const entry& b) { return name_of(a) < name_of(b); });
    const auto twice = std::adjacent_find(tensors_.begin(), tensors_.end(),
                                          [&](const entry& a, const entry& b) { return name_of(a) == name_of(b); });
    if (twice != tensors_.end()) {
      mismatch(directory_.string(), name_of(*twice), "is in the model twice: by itself and as a part of the tensor of all experts");
    }
  }

  [[noreturn]] static void mismatch(const std::string& file, const std::string& name, const std::string& problem) {
    throw input_error(input_error_code::index_mismatch, {file, name, {}}, problem,
                      "shards of two models are mixed, or a download is incomplete");
  }

  [[noreturn]] void refuse_directory() const {
    const input_place place{directory_.string(), {}, {}};
    std::error_code ignored;
    if (!std::filesystem::is_directory(directory_, ignored)) {
      throw input_error(input_error_code::cannot_open, place, "no such directory", "give the directory that holds config.json");
    }
    for (const auto& candidate : entries_of(directory_)) {
      const std::filesystem::path extension = candidate.path().extension();
      if (extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".gguf") {
        throw input_error(input_error_code::unsupported_format, place, "holds '" + detail::printable(candidate.path().filename().string()) +
                          "' but no safetensors file", "convert the checkpoint with transformers' save_pretrained");
      }
    }
    throw input_error(input_error_code::nothing_to_load, place, "neither model.safetensors nor " + std::string(shard_index_name),
                      "give the directory that holds the model");
  }

  [[nodiscard]] const entry* lookup(std::string_view name) const noexcept {
    const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                        [](const entry& tensor, std::string_view wanted) { return tensor.record->name < wanted; });
    return found != tensors_.end() && found->record->name == name ? &*found : nullptr;
  }
  [[nodiscard]] const entry& required(std::string_view name) const {
    if (const entry* found = lookup(name)) return *found;
    throw input_error(input_error_code::unknown_tensor, {directory_.string(), std::string(name), {}}, "the model has no such tensor",
                      "check that config.json belongs to these weights");
  }

  std::filesystem::path directory_;
  file_access access_;
  bool is_sharded_ = false;
  std::vector<std::string> shard_names_;
  std::vector<safetensors_file> shards_;
  std::vector<entry> tensors_;  // sorted by name; point into shards_ and slices_
  std::map<std::string, std::vector<tensor_record>, std::less<>> slices_;  // of tensors that hold all experts of a layer
};

}  // namespace esft
