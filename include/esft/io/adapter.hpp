// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Adapter directories: the trained tensors alone, under their Hugging Face names, with what was trained and on which base.

#include <esft/core/expert_names.hpp>
#include <esft/core/low_rank.hpp>
#include <esft/core/low_rank_names.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/expert_config.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/safetensors.hpp>
#include <esft/io/sha256.hpp>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Newest version of `esft.json` that this library reads; newer ones are refused. Version 2 adds low-rank factors, version 3 routers of
/// such; an adapter is written in the oldest version that can say what it holds.
inline constexpr std::int64_t adapter_format_version = 3;

/// What an adapter says about itself.
struct adapter_manifest {
  std::string method;                 ///< "esft", "full", ...
  std::string base_digest;            ///< `model_directory::digest()` of the base; empty in official adapters
  std::vector<std::string> planned;   ///< tensors that the plan trains, under their checkpoint names
  expert_config experts;              ///< content of `expert_cfg.json`
  std::map<std::string, std::string> properties;  ///< whatever the trainer wants to remember: seed, data, versions
  std::optional<low_rank_options> low_rank{};     ///< of the factors among the tensors; a factor's own rank is that of its shape
  std::map<layer_index, std::int64_t> low_rank_active{};  ///< of layers with routed factors: how many pairs a token uses
};

/// Names of the files of an adapter.
struct adapter_files {
  static constexpr std::string_view tensors = "adapter.safetensors";
  static constexpr std::string_view experts = "expert_cfg.json";
  static constexpr std::string_view manifest = "esft.json";
};

namespace detail {

inline json_value write_adapter_manifest(const adapter_manifest& manifest, const std::map<std::string, std::string>& digests) {
  json_value planned = json_array();
  for (const std::string& name : manifest.planned) planned.push(name);
  json_value tensors = json_object();
  for (const auto& [name, digest] : digests) tensors.add(name, digest);
  json_value properties = json_object();
  for (const auto& [key, value] : manifest.properties) properties.add(key, value);
  json_value root = json_object();
  root.add("format_version", !manifest.low_rank ? 1 : manifest.low_rank_active.empty() ? 2 : 3)
      .add("method", manifest.method)
      .add("base_sha256", manifest.base_digest);
  root.add("planned", std::move(planned)).add("sha256", std::move(tensors)).add("properties", std::move(properties));
  if (manifest.low_rank) {
    json_value how = json_object();
    how.add("rank", manifest.low_rank->rank).add("alpha", manifest.low_rank->alpha);
    how.add("rank_stabilised", manifest.low_rank->rank_stabilised).add("dropout", manifest.low_rank->dropout);
    how.add("seed", std::to_string(manifest.low_rank->seed));
    json_value active = json_object();
    for (const auto& [layer, count] : manifest.low_rank_active) active.add(std::to_string(layer.value), count);
    if (!manifest.low_rank_active.empty()) how.add("active", std::move(active));
    root.add("low_rank", std::move(how));
  }
  return root;
}

/// The source, with the digest of its bytes left in `digest` once they were handed out.
inline tensor_source with_digest(const tensor_source& source, std::string& digest) {
  tensor_source result = source;
  result.write = [&source, &digest](const byte_sink& sink) {
    sha256 hash;
    source.write([&](std::span<const std::byte> bytes) {
      hash.update(bytes);
      sink(bytes);
    });
    digest = hash.hex_digest();
  };
  return result;
}

}  // namespace detail

/// Writes an adapter: `adapter.safetensors` with full replacement values, `expert_cfg.json` and `esft.json`. An adapter that is
/// already in `directory` stays until the new one is complete. `save_adapter` (train/save_adapter.hpp) does it for a model.
/// @throws storage_error; usage_error if other files are in the way, or for factors of which the manifest does not say how they are scaled;
/// numerics_error for a tensor with a NaN or an infinity, and nothing is written
/// @pre tensors have the base's element types and shapes
inline void write_adapter(const std::filesystem::path& directory, const adapter_manifest& manifest,
                          std::span<const tensor_source> tensors) {
  for (const tensor_source& source : tensors) {
    if (manifest.low_rank || !is_low_rank_name(source.name)) continue;
    throw usage_error(directory.string() + ": " + source.name + " is a low-rank factor, and the manifest does not say how factors are " +
                      "scaled: set `low_rank`, or let `save_adapter` write what a model has learned");
  }
  atomic_directory output(directory, {adapter_files::tensors, adapter_files::experts, adapter_files::manifest});
  std::map<std::string, std::string> digests;
  std::vector<tensor_source> sources;
  for (const tensor_source& source : tensors) sources.push_back(detail::with_digest(source, digests[source.name]));
  write_safetensors(output.path() / adapter_files::tensors, sources, {{"format", "pt"}});
  const safetensors_file written = safetensors_file::open(output.path() / adapter_files::tensors);
  for (const tensor_record& record : written.tensors()) {
    if (all_finite(written, record)) continue;
    throw numerics_error(directory.string() + ": not written, as " + record.name +
                         " holds a NaN or an infinity: training diverged; lower the learning rate or check the data");
  }
  save_expert_config(output.path() / adapter_files::experts, manifest.experts);
  write_file_atomically(output.path() / adapter_files::manifest, write_json(detail::write_adapter_manifest(manifest, digests)));
  output.commit();
}

/// An open adapter: ours, or an official one (any number of safetensors files and `expert_cfg.json`).
class adapter {
 public:
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return directory_; }
  [[nodiscard]] const adapter_manifest& manifest() const noexcept { return manifest_; }
  /// Whether there is no `esft.json`: neither the base nor the bytes can be checked then.
  [[nodiscard]] bool is_official() const noexcept { return is_official_; }

  /// Names of all tensors as the base has them, sorted.
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> result;
    for (const auto& [name, tensor] : tensors_) result.push_back(name);
    return result;
  }
  /// The record of a tensor, or null. Its own name may be the legacy one.
  [[nodiscard]] const tensor_record* find(const std::string& name) const noexcept {
    const auto found = tensors_.find(name);
    return found == tensors_.end() ? nullptr : found->second.record;
  }
  /// The file that holds a tensor.
  [[nodiscard]] const safetensors_file& file_of(const std::string& name) const { return files_[required(name).file]; }
  /// A source for writing a tensor elsewhere, under the name that the base has. The adapter must outlive it.
  [[nodiscard]] tensor_source source(const std::string& name) const {
    const entry& tensor = required(name);
    tensor_source result = file_source(files_[tensor.file], *tensor.record);
    result.name = name;
    return result;
  }
  /// SHA-256 of the stored bytes.
  [[nodiscard]] std::string tensor_digest(const std::string& name) const {
    const entry& tensor = required(name);
    return esft::tensor_digest(files_[tensor.file], *tensor.record);
  }
  /// SHA-256 that `esft.json` gives; empty for an official adapter.
  [[nodiscard]] std::string stated_digest(const std::string& name) const {
    const auto found = digests_.find(name);
    return found == digests_.end() ? std::string() : found->second;
  }
  /// Converts a tensor to float by value. @pre out.size() == find(name)->element_count()
  void read_floats(const std::string& name, std::span<float> out) const {
    const entry& tensor = required(name);
    files_[tensor.file].read_floats(*tensor.record, out);
  }
  /// Copies the stored bytes. @pre out.size() == find(name)->byte_size()
  void read(const std::string& name, std::span<std::byte> out) const {
    const entry& tensor = required(name);
    files_[tensor.file].read(*tensor.record, out);
  }

  /// Reads all bytes. @throws input_error `digest_mismatch` for a damaged tensor, `out_of_range` for one with a NaN or an infinity
  void verify_digests() const {
    for (const auto& [name, tensor] : tensors_) {
      if (all_finite(files_[tensor.file], *tensor.record)) continue;
      throw input_error(input_error_code::out_of_range, {directory_.string(), name, {}}, "holds a NaN or an infinity",
                        "the training that wrote it diverged, or the adapter is damaged");
    }
    for (const auto& [name, digest] : digests_) {
      if (tensor_digest(name) != digest) {
        throw input_error(input_error_code::digest_mismatch, {directory_.string(), name, {}},
                          "the bytes are not those that were saved (SHA-256 differs)", "the adapter is damaged: copy it again");
      }
    }
  }

  friend adapter read_adapter(const std::filesystem::path& directory);

 private:
  struct entry {
    const tensor_record* record;
    std::size_t file;
  };

  explicit adapter(const std::filesystem::path& directory) : directory_(directory) {
    const std::filesystem::path manifest = directory / adapter_files::manifest;
    if (std::filesystem::exists(directory / "adapter_config.json") && !std::filesystem::exists(directory / adapter_files::experts)) {
      throw input_error(input_error_code::unsupported_format, {directory.string(), {}, {}}, "is a LoRA directory of the package peft",
                        "turn it into an adapter of esft: import_peft_adapter, or esft convert --to esft --model BASE --adapter " +
                            directory.string() + " --out NEW");
    }
    is_official_ = !std::filesystem::exists(manifest);
    manifest_.experts = read_expert_config(directory / adapter_files::experts);
    open_files();
    if (is_official_) {
      manifest_.method = "esft";
    } else {
      read_manifest(manifest);
    }
  }

  void open_files() {
    std::vector<std::string> names = {std::string(adapter_files::tensors)};
    if (is_official_) {
      names.clear();
      for (const auto& candidate : entries_of(directory_)) {
        if (candidate.path().extension() == ".safetensors") names.push_back(candidate.path().filename().string());
      }
    }
    if (names.empty())
      throw input_error(input_error_code::nothing_to_load, {directory_.string(), {}, {}}, "no safetensors file",
                        "give an adapter's directory");
    for (const std::string& name : names) files_.push_back(safetensors_file::open(contained_path(directory_, name)));
    for (std::size_t file = 0; file < files_.size(); ++file) {
      for (const tensor_record& record : files_[file].tensors()) {
        const bool is_legacy = record.name.starts_with("layers.");  // the first official adapters lack the prefix
        const std::string name = is_legacy ? "model." + record.name : record.name;
        if (!tensors_.emplace(name, entry{&record, file}).second) {
          throw input_error(input_error_code::duplicate_key, {files_[file].path().string(), name, {}},
                            "the tensor is in this adapter twice");
        }
      }
    }
  }

  void read_manifest(const std::filesystem::path& path) {
    const json_value tree = parse_json(read_small_file(path, safetensors_header_limit), path.string());
    const json_reader root(tree, path.string());
    if (root.at("format_version").integer(1, 1'000'000) > adapter_format_version) {
      root.at("format_version").fail(input_error_code::unsupported_version, "written by a newer esft", "update esft");
    }
    manifest_.method = root.at("method").string();
    manifest_.base_digest = root.at("base_sha256").string();
    for (const json_reader& name : root.at("planned").elements()) manifest_.planned.push_back(name.string());
    for (const auto& [key, value] : root.at("properties").members()) manifest_.properties.emplace(key, value.string());
    if (const auto how = root.find("low_rank")) {
      low_rank_options factors;
      factors.rank = how->at("rank").integer(1, 1'000'000);
      factors.alpha = how->at("alpha").number(0, 1e9);
      factors.rank_stabilised = how->at("rank_stabilised").boolean();
      factors.dropout = how->at("dropout").number(0, 1);
      const auto whole = [](const std::string& text, auto& out) {
        const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), out);
        return problem == std::errc{} && end == text.data() + text.size();
      };
      if (!whole(how->at("seed").string(), factors.seed)) {
        how->at("seed").fail(input_error_code::bad_record, "the seed must be a whole number");
      }
      if (const auto active = how->find("active")) {
        for (const auto& [key, count] : active->members()) {
          layer_index layer;
          if (!whole(key, layer.value)) count.fail(input_error_code::bad_record, "the key must be the number of a layer");
          manifest_.low_rank_active[layer] = count.integer(1, 1'000'000);
        }
      }
      manifest_.low_rank = factors;
    }
    for (const auto& [name, digest] : root.at("sha256").members()) {
      digests_.emplace(name, digest.string());
      if (!tensors_.contains(name))
        digest.fail(input_error_code::index_mismatch, "this tensor is not in " + std::string(adapter_files::tensors));
    }
    for (const auto& [name, tensor] : tensors_) {
      if (!digests_.contains(name)) {
        throw input_error(input_error_code::index_mismatch, {path.string(), name, {}},
                          "the tensor is in the adapter but has no SHA-256 here");
      }
    }
  }

  [[nodiscard]] const entry& required(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found != tensors_.end()) return found->second;
    throw input_error(input_error_code::unknown_tensor, {directory_.string(), name, {}}, "the adapter has no such tensor");
  }

  std::filesystem::path directory_;
  bool is_official_ = false;
  adapter_manifest manifest_;
  std::map<std::string, std::string> digests_;
  std::vector<safetensors_file> files_;
  std::map<std::string, entry> tensors_;
};

/// Opens an adapter; headers and records are validated, bytes are not read. @throws input_error
inline adapter read_adapter(const std::filesystem::path& directory) { return adapter(directory); }

/// @throws input_error `wrong_base` for an adapter that says it was trained on another model; official ones do not say on which
inline void expect_trained_on(const model_directory& base, const adapter& changes,
                              const std::string& way_out = "give the base that it was trained on") {
  if (changes.is_official() || changes.manifest().base_digest == base.digest()) return;
  throw input_error(input_error_code::wrong_base, {changes.path().string(), {}, {}},
                    "was not trained on " + base.path().string() + " (SHA-256 differs)", way_out);
}
/// Opens an adapter of this base: what a program does that puts it on a model loaded from there. @throws input_error, also `wrong_base`
/// @cost reads the base once, for its digest
inline adapter read_adapter(const std::filesystem::path& directory, const model_directory& base) {
  adapter changes = read_adapter(directory);
  expect_trained_on(base, changes);
  return changes;
}

/// Tensors that an expert configuration trains, given all names of the base, sorted: for adapters that do not list them.
/// A selected expert is in the list even if the base lacks it.
inline std::vector<std::string> planned_tensors(const expert_config& config, std::span<const std::string> base_names) {
  std::vector<std::string> planned;
  std::string block = std::string(expert_name_styles.front().block);
  std::set<std::string> parts;  // what follows "experts.<e>." in this base
  for (const std::string& name : base_names) {
    constexpr std::string_view mark = ".experts.";
    const std::size_t at = name.find(mark);
    const std::size_t end = at == std::string::npos ? at : name.find('.', at + mark.size());
    if (end == std::string::npos) continue;
    block = name.substr(name.rfind('.', at - 1) + 1, at - name.rfind('.', at - 1) - 1);
    parts.insert(name.substr(end + 1));
  }
  if (parts.empty()) parts = {"gate_proj.weight", "up_proj.weight", "down_proj.weight"};
  for (const auto& [layer, experts] : config.experts.layers) {
    const std::string prefix = "model.layers." + std::to_string(layer.value) + "." + block + ".";
    for (const expert_index expert : experts) {
      for (const std::string& part : parts) planned.push_back(expert_matrix(prefix, expert.value, part));
    }
  }
  for (const std::string& name : base_names) {
    const bool is_routed = name.find(".experts.") != std::string::npos;
    const bool is_shared = name.find("." + block + ".shared_expert") != std::string::npos;
    if ((is_shared && config.shared_experts) || (!is_routed && !is_shared && config.non_expert_modules)) planned.push_back(name);
  }
  std::sort(planned.begin(), planned.end());
  return planned;
}

}  // namespace esft
