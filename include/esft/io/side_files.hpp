// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Copies what lies beside the weights of a model directory.

#include <esft/io/contained_path.hpp>
#include <esft/io/directory.hpp>

#include <filesystem>
#include <string>

namespace esft::detail {

/// Files beside the weights (configuration, tokenizer, licence) belong to a model made from this one as well.
inline void copy_side_files(const std::filesystem::path& from, const std::filesystem::path& to) {
  for (const auto& candidate : entries_of(from)) {
    const std::filesystem::path name = candidate.path().filename();
    const std::filesystem::path extension = name.extension();
    const bool is_weights = extension == ".safetensors" || extension == ".bin" || extension == ".pt" || extension == ".pth" ||
                            extension == ".gguf" || extension == ".h5" || extension == ".msgpack" ||
                            name.string().ends_with(".bin.index.json");
    if (candidate.is_regular_file() && !is_weights && !name.string().starts_with("."))
      copy_file_atomically(contained_path(from, name.string()), to / name);
  }
}

}  // namespace esft::detail
