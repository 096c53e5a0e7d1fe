// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft logits`: what a model says of every next token, as an array for other programs to compare with.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../output_file.hpp"

#include <esft/io/npy.hpp>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace esft::tool {
namespace {

struct logits_options {
  engine_request model;
  std::filesystem::path adapter, out;
  std::vector<std::int32_t> ids;
  bool force = false;
};

void logits(const logits_options& options) {
  expect_no_input(options.out, {options.model.model});
  const std::unique_ptr<engine> model = open_with_adapter(options.model, options.adapter, options.force);
  report_positions(model->config().max_positions, options.ids.size(), "give fewer --ids");
  const std::vector<float> values = model->logits(options.ids);
  const auto tokens = static_cast<index>(options.ids.size());
  write_npy<float>(options.out, {tokens, model->config().vocabulary}, values);
  out().line("wrote   " + options.out.string() + "   float32 [" + std::to_string(tokens) + ", " +
             std::to_string(model->config().vocabulary) + "]   " + model->description());
  json_value result = json_object();
  result.add("out", options.out.string()).add("tokens", tokens).add("vocabulary", model->config().vocabulary);
  out().result(result.add("dtype", std::string(name_of(model->stored_as()))));
}

}  // namespace

void add_logits(CLI::App& app) {
  auto options = std::make_shared<logits_options>();
  CLI::App* command = app.add_subcommand("logits", "Write what a model says of every next token, as .npy");
  add_model_options(*command, options->model);
  command->add_option("--adapter", options->adapter, "adapter directory, the run directory that holds it, or a LoRA directory of peft");
  command->add_flag("--force", options->force, "apply an adapter that was trained on another base");
  command->add_option("--ids", options->ids, "token ids of one sequence, such as 1,2,3")->delimiter(',')->required();
  command->add_option("--out", options->out, "file to write: float32 [tokens, vocabulary]")->required();
  command->callback([options] { logits(*options); });
}

}  // namespace esft::tool
