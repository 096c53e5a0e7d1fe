// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft inspect`: what is in a model directory or an adapter, without loading it.

#include "../command.hpp"
#include "../console.hpp"
#include "../format.hpp"

#include <esft/io/hf_config_json.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/train/apply_adapter.hpp>

#include <filesystem>
#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct inspect_options {
  std::filesystem::path directory;
  bool tensors = false;
};

/// Lists tensors and adds them up. `Source` has names() and find(name).
class tensor_list {
 public:
  void add(const std::string& name, const tensor_record& record, const std::string& digest) {
    table_.add({detail::printable(name), std::string(safetensors_name(record.type)), to_string(record.shape),
                bytes_text(static_cast<std::int64_t>(record.byte_size())), digest.substr(0, 12)});
    json_value entry = json_object();
    json_value shape = json_array();
    for (const index extent : record.shape) shape.push(extent);
    entry.add("name", name)
        .add("dtype", std::string(safetensors_name(record.type)))
        .add("shape", std::move(shape))
        .add("bytes", record.byte_size())
        .add("sha256", digest);
    list_.push(std::move(entry));
    ++count_;
    elements_ += static_cast<std::int64_t>(record.element_count());
    bytes_ += static_cast<std::int64_t>(record.byte_size());
  }
  void finish(bool listed, json_value& result) {
    if (listed) {
      for (const std::string& line : table_.lines()) out().line(line);
    }
    out().line("tensors  " + std::to_string(count_) + "   parameters " + grouped(elements_) + "   " + bytes_text(bytes_));
    result.add("tensor_count", count_).add("parameters", elements_).add("bytes", bytes_).add("tensors", std::move(list_));
  }

 private:
  text_table table_{{"tensor", "type", "shape", "size", "sha256"}};
  json_value list_ = json_array();
  std::int64_t count_ = 0;
  std::int64_t elements_ = 0;
  std::int64_t bytes_ = 0;
};

void inspect_adapter(const inspect_options& options, const std::filesystem::path& directory) {
  const adapter changes = read_adapter(directory);
  json_value result = json_object();
  tensor_list list;
  for (const std::string& name : changes.names()) list.add(name, *changes.find(name), changes.tensor_digest(name));
  out().line("adapter  " + directory.string() + "   method " + changes.manifest().method +
             (changes.is_official() ? "   official layout, names no base" : ""));
  result.add("kind", "adapter").add("method", changes.manifest().method).add("official", changes.is_official());
  if (!changes.is_official()) {
    out().line("base     sha256 " + changes.manifest().base_digest);
    result.add("base_sha256", changes.manifest().base_digest);
    for (const auto& [key, value] : changes.manifest().properties) out().line("         " + key + " " + detail::printable(value));
  }
  if (const auto& how = changes.manifest().low_rank) {
    const auto& active = changes.manifest().low_rank_active;
    std::string used;
    for (const auto& [layer, count] : active)
      used += (used.empty() ? "" : ", ") + std::to_string(layer.value) + ": " + std::to_string(count);
    if (!active.empty()) out().line("routed   low-rank experts that a token uses, by layer: " + used + "; each has the rank of its shape");
    out().line("factors  rank " + std::to_string(how->rank) + ", alpha " + significant(how->alpha, 6) + ", scale " +
               significant(how->scale(), 6));
    result.add("rank", how->rank).add("alpha", how->alpha).add("scale", how->scale());
  }
  json_value layers = json_object();
  for (const auto& [layer, experts] : changes.manifest().experts.experts.layers) {
    std::string ids;
    json_value listed = json_array();
    for (const expert_index expert : experts) {
      ids += (ids.empty() ? "" : ", ") + std::to_string(expert.value);
      listed.push(expert.value);
    }
    out().line("layer " + std::to_string(layer.value) + "  experts " + (ids.empty() ? "none" : ids));
    layers.add(std::to_string(layer.value), std::move(listed));
  }
  result.add("experts", std::move(layers));
  list.finish(options.tensors, result);
  out().result(result);
}

void inspect_model(const inspect_options& options) {
  const model_directory model = model_directory::open(options.directory);
  json_value result = json_object();
  result.add("kind", "model");
  if (std::filesystem::exists(options.directory / "config.json")) {
    const hf_config config = read_hf_config(options.directory);
    index moe_layers = 0;
    for (index layer = 0; layer < config.num_hidden_layers; ++layer) moe_layers += config.is_moe_layer(layer) ? 1 : 0;
    const index shared = config.num_shared_experts + (config.shared_expert_intermediate_size > 0 ? 1 : 0);
    out().line("model    " + config.model_type + "   " + std::to_string(config.num_hidden_layers) + " layers, " +
               std::to_string(moe_layers) + " of them with " + std::to_string(config.num_experts) + " experts (top-" +
               std::to_string(config.num_experts_per_tok) + ", " + std::to_string(shared) + " shared)   width " +
               std::to_string(config.hidden_size) + "   vocabulary " + std::to_string(config.vocab_size));
    result.add("model_type", config.model_type).add("layers", config.num_hidden_layers).add("moe_layers", moe_layers);
    result.add("experts", config.num_experts)
        .add("experts_per_token", config.num_experts_per_tok)
        .add("shared_experts", shared);
    result.add("width", config.hidden_size).add("vocabulary", config.vocab_size);
  }
  tensor_list list;
  for (const std::string& name : model.names()) list.add(name, model.at(name), model.tensor_digest(name));
  list.finish(options.tensors, result);
  const std::string digest = model.digest();
  out().line("sha256   " + digest);
  result.add("sha256", digest);
  out().result(result);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto options = std::make_shared<inspect_options>();
  CLI::App* command = app.add_subcommand("inspect", "Show tensors, shapes, experts and digests of a model or an adapter");
  command->add_option("directory", options->directory, "model or adapter directory")->required();
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->callback([options] {
    const std::filesystem::path adapter = adapter_directory(options->directory);
    if (std::filesystem::exists(adapter / adapter_files::experts)) {
      inspect_adapter(*options, adapter);
    } else {
      inspect_model(*options);
    }
  });
}

}  // namespace esft::tool
