// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft diff`: which tensors and slices of two models or adapters differ, and by how much.

#include "../command.hpp"
#include "../console.hpp"
#include "../format.hpp"

#include <esft/io/tensor_diff.hpp>
#include <esft/train/apply_adapter.hpp>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace esft::tool {
namespace {

struct diff_options {
  std::filesystem::path a, b;
  std::size_t limit = 40;
};

std::string slices_text(const std::vector<index>& slices) {
  std::string text;
  for (const index slice : slices) text += (text.empty() ? "" : ",") + std::to_string(slice);
  return text.size() <= 40 ? text : text.substr(0, 37) + "...";
}

void print(const tensor_comparison& found, const diff_options& options) {
  text_table table({"tensor", "shape", "differ", "max |d|", "bytes", "slices"});
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < found.different.size(); ++i) {
    const tensor_difference& one = found.different[i];
    bytes += one.bytes;
    if (options.limit != 0 && i >= options.limit) continue;
    const std::string type = one.a == one.b ? "" : " " + std::string(name_of(one.a)) + "/" + std::string(name_of(one.b));
    table.add({one.name, to_string(one.shape) + type, grouped(static_cast<std::int64_t>(one.elements)), significant(one.largest),
               grouped(static_cast<std::int64_t>(one.bytes)), slices_text(one.slices)});
  }
  if (!found.different.empty()) {
    for (const std::string& line : table.lines()) out().line(line);
  }
  if (options.limit != 0 && found.different.size() > options.limit)
    out().line("and " + std::to_string(found.different.size() - options.limit) + " more; --limit 0 shows all");
  const auto list = [&](const std::string& what, const std::vector<std::string>& names) {
    for (std::size_t i = 0; i < names.size() && (options.limit == 0 || i < options.limit); ++i) out().line(what + names[i]);
    if (options.limit != 0 && names.size() > options.limit)
      out().line(what + "and " + std::to_string(names.size() - options.limit) + " more");
  };
  list("other shape  ", found.other_shape);
  list("only in A    ", found.only_a);
  list("only in B    ", found.only_b);
  out().line(std::to_string(found.different.size()) + " tensors differ in " + bytes_text(static_cast<std::int64_t>(bytes)) + ", " +
             std::to_string(found.equal) + " are equal (" + bytes_text(static_cast<std::int64_t>(found.equal_bytes)) + ")");
}

void diff(const diff_options& options) {
  const tensor_files a(adapter_directory(options.a));
  const tensor_files b(adapter_directory(options.b));
  tensor_comparison found = compare_tensors(a, b);
  if (b.is_part() && !a.is_part()) found.only_a.clear();  // an adapter holds a part of its base
  if (a.is_part() && !b.is_part()) found.only_b.clear();
  print(found, options);
  const auto names = [](const std::vector<std::string>& list) {
    json_value result = json_array();
    for (const std::string& name : list) result.push(name);
    return result;
  };
  json_value different = json_array();
  for (const tensor_difference& one : found.different) {
    json_value slices = json_array();
    for (const index slice : one.slices) slices.push(slice);
    json_value entry = json_object();
    entry.add("name", one.name).add("elements", one.elements).add("bytes", one.bytes);
    entry.add("largest", std::isfinite(one.largest) ? json_value(one.largest) : json_value(nullptr)).add("slices", std::move(slices));
    different.push(std::move(entry));
  }
  json_value result = json_object();
  result.add("same", found.same()).add("equal", found.equal).add("equal_bytes", found.equal_bytes).add("different", std::move(different));
  result.add("other_shape", names(found.other_shape)).add("only_a", names(found.only_a)).add("only_b", names(found.only_b));
  out().result(result);
}

}  // namespace

void add_diff(CLI::App& app) {
  auto options = std::make_shared<diff_options>();
  CLI::App* command = app.add_subcommand("diff", "Say which tensors of two models or adapters differ, and by how much");
  command->add_option("a", options->a, "model, adapter or run directory, or a safetensors file")->required();
  command->add_option("b", options->b, "what to compare it with")->required();
  command->add_option("--limit", options->limit, "lines of each kind, 0: all")->capture_default_str();
  command->callback([options] { diff(*options); });
}

}  // namespace esft::tool
