// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft convert`: LoRA adapters to and from the directories of the package peft.

#include "../command.hpp"
#include "../console.hpp"

#include <esft/io/hf_config_json.hpp>
#include <esft/io/peft_export.hpp>
#include <esft/io/peft_import.hpp>
#include <esft/train/apply_adapter.hpp>

#include <filesystem>
#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct convert_options {
  std::filesystem::path model, adapter, out;
  std::string to;
  std::string layout = "parameters";
};

void convert(const convert_options& options) {
  const model_directory base = model_directory::open(options.model);
  json_value result = json_object();
  result.add("out", options.out.string()).add("format", options.to);
  if (options.to == "peft") {
    const adapter from = read_adapter(adapter_directory(options.adapter));
    write_peft_adapter(options.out, base, from, options.layout == "modules" ? peft_layout::modules : peft_layout::parameters);
    if (options.layout == "modules" && read_hf_config(options.model).model_type == "qwen2_moe")
      out().warn("peft 0.21 with transformers 5 reads this layout of qwen2_moe wrongly and does not say so: use --layout parameters there");
    result.add("layout", options.layout);
    out().line("wrote   " + options.out.string() + "   peft, layout " + options.layout);
  } else {
    const peft_import report = import_peft_adapter(options.adapter, base, options.out);
    result.add("pairs", report.pairs).add("idle", report.idle);
    out().line("wrote   " + options.out.string() + "   " + std::to_string(report.pairs) + " pairs of factors" +
               (report.idle > 0 ? ", " + std::to_string(report.idle) + " that add nothing left out" : ""));
    if (report.widened) out().warn("stored as float32: bfloat16 would have rounded scales that differ between modules");
  }
  out().result(result);
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<convert_options>();
  CLI::App* command = app.add_subcommand("convert", "Turn a LoRA adapter into a directory of the package peft, or the other way");
  command->add_option("--model", options->model, "base model directory")->required();
  command->add_option("--adapter", options->adapter, "adapter directory of esft, or of peft")->required();
  command->add_option("--to", options->to, "what to write: peft, or esft from a peft directory")
      ->check(CLI::IsMember({"peft", "esft"}))
      ->required();
  command
      ->add_option(
          "--layout", options->layout,
          "peft: parameters (one tensor for the experts of a layer: transformers 5) or modules (each expert's maps by their names in "
          "the checkpoint: transformers 4, other programs)")
      ->check(CLI::IsMember({"parameters", "modules"}))
      ->capture_default_str();
  command->add_option("--out", options->out, "new or empty directory")->required();
  command->callback([options] { convert(*options); });
}

}  // namespace esft::tool
