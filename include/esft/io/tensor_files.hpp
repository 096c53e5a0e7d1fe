// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `tensor_files`: the tensors of a model, of an adapter of any kind, or of one safetensors file, by name.

#include <esft/io/adapter.hpp>
#include <esft/io/model_directory.hpp>
#include <esft/io/peft_config.hpp>
#include <esft/io/safetensors.hpp>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// Where a tensor lies.
struct stored_tensor {
  const safetensors_file* file = nullptr;
  const tensor_record* record = nullptr;
};

/// Whatever holds tensors, opened and validated as what it is.
class tensor_files {
 public:
  /// A directory of a model, an adapter or a peft adapter, or a file. @throws input_error
  explicit tensor_files(const std::filesystem::path& path) : path_(path) {
    if (std::filesystem::is_regular_file(path)) {
      file_.emplace(safetensors_file::open(path));
    } else if (std::filesystem::exists(path / adapter_files::experts)) {
      adapter_.emplace(read_adapter(path));
    } else if (std::filesystem::exists(path / peft_files::config)) {
      file_.emplace(safetensors_file::open(path / peft_files::tensors));
    } else {
      model_.emplace(model_directory::open(path));
    }
    if (file_) {
      for (const tensor_record& record : file_->tensors()) tensors_[record.name] = {&*file_, &record};
    } else if (model_) {
      for (const std::string& name : model_->names()) tensors_[name] = {&model_->shard_of(name), &model_->at(name)};
    } else {
      for (const std::string& name : adapter_->names()) tensors_[name] = {&adapter_->file_of(name), adapter_->find(name)};
    }
  }

  tensor_files(const tensor_files&) = delete;  // the records point into the files
  tensor_files& operator=(const tensor_files&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  /// Not a model: it is normal that most of a model's tensors are absent.
  [[nodiscard]] bool is_part() const noexcept { return !model_; }
  /// By name; an adapter's as the base names them.
  [[nodiscard]] const std::map<std::string, stored_tensor>& tensors() const noexcept { return tensors_; }

 private:
  std::filesystem::path path_;
  std::optional<safetensors_file> file_;
  std::optional<model_directory> model_;
  std::optional<adapter> adapter_;
  std::map<std::string, stored_tensor> tensors_;
};

}  // namespace esft
