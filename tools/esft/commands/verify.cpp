// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft verify`: proves on files alone that training changed what was planned and nothing else.

#include "../command.hpp"
#include "../proof.hpp"

#include <esft/train/apply_adapter.hpp>

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
  command->add_option("adapter", options->adapter, "adapter directory, or the run directory that holds it")->required();
  command->add_option("merged", options->merged, "merged model directory");
  command->callback([options] {
    const std::optional<std::filesystem::path> merged = options->merged.empty() ? std::nullopt : std::optional(options->merged);
    const receipt proof = verify_adapter(options->base, adapter_directory(options->adapter), merged);
    print_receipt(proof);
    if (!proof.ok()) throw finished{static_cast<int>(error_category::bad_input)};
  });
}

}  // namespace esft::tool
