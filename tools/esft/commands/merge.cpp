// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft merge`: a base model with an adapter's tensors, streamed, and the proof that it is base + adapter.

#include "../adapter_choice.hpp"
#include "../command.hpp"
#include "../proof.hpp"

#include <esft/io/merge_adapter.hpp>

#include <filesystem>
#include <memory>
#include <string>

namespace esft::tool {
namespace {

struct merge_options {
  std::filesystem::path model, adapter, out;
  bool keep = false;
};

void merge(const merge_options& options) {
  const usable_adapter usable(options.adapter, model_directory::open(options.model));
  const std::filesystem::path& from = usable.path();
  merge_adapter(options.model, from, options.out, options.keep ? keep_replaced::yes : keep_replaced::no);
  const receipt proof = verify_adapter(options.model, from, options.out);
  print_receipt(proof);
  out().line("wrote   " + options.out.string());
  if (!proof.ok()) throw finished{static_cast<int>(error_category::bad_input)};
}

}  // namespace

void add_merge(CLI::App& app) {
  auto options = std::make_shared<merge_options>();
  CLI::App* command = app.add_subcommand("merge", "Write base + adapter as a model of its own, and prove it");
  command->add_option("--model", options->model, "base model directory")->required();
  command->add_option("--adapter", options->adapter, "adapter directory, the run directory that holds it, or a LoRA directory of peft")->required();
  command->add_option("--out", options->out, "new or empty directory")->required();
  command->add_flag("--keep-replaced", options->keep, "keep the tensors that are replaced beside the weights, for `esft unmerge`");
  command->callback([options] { merge(*options); });
}

}  // namespace esft::tool
