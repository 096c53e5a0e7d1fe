// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Files of a few tensors with values that a test spells out.

#include <esft/io/factor_matrix.hpp>
#include <esft/io/safetensors.hpp>

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace esft::test {

struct named {
  std::string name;
  tensor_shape shape;
  std::vector<float> values;
};

/// Writes the tensors as elements of `type`, and the folder if need be.
inline void write_tensors(const std::filesystem::path& file, const std::vector<named>& tensors, dtype type = dtype::float32) {
  std::filesystem::create_directories(file.parent_path());
  std::vector<std::vector<std::byte>> bytes;
  std::vector<tensor_source> sources;
  for (const named& t : tensors) bytes.push_back(stored_bytes(t.values, type));
  for (std::size_t i = 0; i < tensors.size(); ++i) sources.push_back(memory_source(tensors[i].name, type, tensors[i].shape, bytes[i]));
  write_safetensors(file, sources, {{"format", "pt"}});
}

}  // namespace esft::test
