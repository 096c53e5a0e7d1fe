// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Whether a model's weights fit the memory of this machine, asked before any of them is read.

#include "format.hpp"

#include <esft/core/error.hpp>
#include <esft/io/hf_config_json.hpp>
#include <esft/io/model_directory.hpp>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <limits>
#include <map>
#include <string>

namespace esft::tool {

/// The first number of a file, or of the line that begins with `key`; none where there is no such file or number.
inline std::int64_t number_in_file(const std::string& file, const std::string& key = {}) {
  std::ifstream in(file);
  std::string word;
  while (in >> word) {
    if (!key.empty() && word != key) continue;
    if (!key.empty()) in >> word;
    std::int64_t value = -1;
    const auto [end, problem] = std::from_chars(word.data(), word.data() + word.size(), value);
    return problem == std::errc{} && end == word.data() + word.size() ? value : -1;
  }
  return -1;
}

/// Memory that this process can still have: what the kernel calls available, and what a container leaves. @unit bytes
[[nodiscard]] inline std::int64_t available_memory() {
  std::int64_t available = std::numeric_limits<std::int64_t>::max();
  const std::int64_t kilobytes = number_in_file("/proc/meminfo", "MemAvailable:");
  if (kilobytes >= 0) available = 1024 * kilobytes;
  const std::string group = "/sys/fs/cgroup/";
  const std::int64_t most = number_in_file(group + "memory.max");
  const std::int64_t used = number_in_file(group + "memory.current");
  const std::int64_t cached = std::max<std::int64_t>(0, number_in_file(group + "memory.stat", "inactive_file"));
  if (most >= 0 && used >= 0) available = std::min(available, most - used + cached);
  return available;
}

/// The elements of every layer as config.json and the headers of the files announce them; -1 for what belongs to no layer.
[[nodiscard]] inline std::map<std::int64_t, std::int64_t> elements_by_layer(const model_directory& model, std::int64_t layers) {
  std::map<std::int64_t, std::int64_t> result;
  for (const std::string& name : model.names()) {
    std::int64_t layer = -1;
    const std::string prefix = "model.layers.";
    if (name.starts_with(prefix)) std::from_chars(name.data() + prefix.size(), name.data() + name.size(), layer);
    if (layer < layers) result[layer] += static_cast<std::int64_t>(model.at(name).element_count());  // those behind predict further tokens
  }
  return result;
}

/// What there is for weights, and how to say so.
struct free_room {
  std::int64_t bytes = 0;
  const char* owner = "";
};

/// @param value_bytes of a weight in memory @param most bytes that weights may take; 0: what is free
/// @throws device_error with the plan by layer when the weights need more
inline void expect_room(const model_directory& model, std::int64_t value_bytes, std::int64_t most, const free_room& free) {
  const std::int64_t room = most > 0 ? most : free.bytes;
  const auto layers = elements_by_layer(model, read_hf_config(model.path()).num_hidden_layers);
  std::int64_t all = 0;
  for (const auto& [layer, elements] : layers) all += elements;
  if (all * value_bytes <= room) return;
  text_table table({"layer", "parameters", "memory"});
  const auto row = [&](const std::string& name, std::int64_t elements) {
    table.add({name, grouped(elements), bytes_text(elements * value_bytes)});
  };
  for (const auto& [layer, elements] : layers) row(layer < 0 ? "embedding, norm, head" : std::to_string(layer), elements);
  row("all", all);
  std::string text = model.path().string() + ": the weights alone need " + bytes_text(all * value_bytes) + " of memory, " +
                     (most > 0 ? "--memory allows " : free.owner) + bytes_text(room) + ":";
  for (const std::string& line : table.lines()) text += "\n" + line;
  throw device_error(text + "\nuse a machine or device with more memory, or --dtype bfloat16 where the checkpoint has it");
}

}  // namespace esft::tool
