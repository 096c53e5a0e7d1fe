// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft verify`: proves on files alone that training changed what was planned and nothing else.

#include "../adapter_choice.hpp"
#include "../command.hpp"
#include "../proof.hpp"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace esft::tool {

void add_verify(CLI::App& app) {
  struct verify_options {
    std::filesystem::path base, adapter, merged;
  };
  auto options = std::make_shared<verify_options>();
  CLI::App* command = app.add_subcommand("verify", "Prove on files alone what an adapter and a merged model changed");
  command->add_option("base", options->base, "base model directory")->required();
  command->add_option("adapter", options->adapter, "adapter directory, the run directory that holds it, or a LoRA directory of peft")->required();
  command->add_option("merged", options->merged, "merged model directory");
  command->callback([options] {
    const std::optional<std::filesystem::path> merged = options->merged.empty() ? std::nullopt : std::optional(options->merged);
    const usable_adapter usable(options->adapter, model_directory::open(options->base));
    const receipt proof = verify_adapter(options->base, usable.path(), merged);
    print_receipt(proof);
    if (!proof.ok()) throw finished{static_cast<int>(error_category::bad_input)};
  });
}

}  // namespace esft::tool
