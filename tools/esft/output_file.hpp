// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A file that a command writes is none of those that it reads: --out in the place of --data would be the end of the data.

#include <esft/core/error.hpp>

#include <filesystem>
#include <initializer_list>
#include <string>
#include <system_error>

namespace esft::tool {

/// @param inputs files, and directories of models, whose weights, config.json and tokenizer are meant; empty paths are none
/// @throws usage_error where `out` is one of them
inline void expect_no_input(const std::filesystem::path& out, std::initializer_list<std::filesystem::path> inputs) {
  std::error_code absent;
  if (!std::filesystem::exists(out, absent)) return;
  const std::string name = out.filename().string();
  const bool of_a_model = name.ends_with(".safetensors") || name == "config.json" || name.starts_with("tokenizer");
  for (const std::filesystem::path& input : inputs) {
    const bool inside = of_a_model && std::filesystem::equivalent(out.parent_path().empty() ? "." : out.parent_path(), input, absent);
    if (!inside && !std::filesystem::equivalent(out, input, absent)) continue;
    throw usage_error("--out " + out.string() + " would replace what is read from " + input.string() + "; choose another file");
  }
}

}  // namespace esft::tool
