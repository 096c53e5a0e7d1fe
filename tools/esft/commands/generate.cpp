// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft generate`: continues one prompt greedily.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace esft::tool {
namespace {

struct generate_options {
  engine_request model;
  std::filesystem::path adapter;
  std::string prompt;
  std::string format = "pair";
  std::string chat = "esft";
  std::int64_t max_new_tokens = 128;
  bool force = false;
};

std::vector<std::int32_t> render(const generate_options& options, const any_tokenizer& words) {
  if (options.format == "pair") return render_prompt(words, options.prompt);
  if (options.format == "chat") return render_prompt(words, conversation{{"user", options.prompt, false}}, {.chat = options.chat});
  std::vector<std::int32_t> tokens;
  if (words.bos != no_token) tokens.push_back(words.bos);
  const std::vector<std::int32_t> text = words.encode(options.prompt);
  tokens.insert(tokens.end(), text.begin(), text.end());
  return tokens;
}

void generate(const generate_options& options) {
  const std::unique_ptr<engine> model = open_with_adapter(options.model, options.adapter, options.force);
  const any_tokenizer words = tokenizer_of(options.model);
  const std::int32_t stop = options.format == "chat" ? stop_token(words, {.chat = options.chat}) : words.eos;
  const std::vector<std::vector<std::int32_t>> prompts{render(options, words)};
  const std::vector<std::int32_t> answer = model->generate(prompts, stop, options.max_new_tokens).front();
  report_positions(model->config().max_positions, prompts.front().size() + answer.size(), "shorten the prompt, or lower --max-new-tokens");
  const std::string text = words.decode(answer);
  if (!out().json) std::printf("%s\n", text.c_str());
  json_value result = json_object();
  result.add("text", find_invalid_utf8(text) == std::string_view::npos ? text : detail::printable(text)).add("tokens", answer.size());
  result.add("complete", static_cast<std::int64_t>(answer.size()) < options.max_new_tokens);
  out().result(result);
}

}  // namespace

void add_generate(CLI::App& app) {
  auto options = std::make_shared<generate_options>();
  CLI::App* command = app.add_subcommand("generate", "Continue a prompt greedily");
  add_model_options(*command, options->model);
  command->add_option("--adapter", options->adapter, "adapter directory, the run directory that holds it, or a LoRA directory of peft");
  command->add_flag("--force", options->force, "apply an adapter that was trained on another base");
  command->add_option("--prompt", options->prompt, "what to continue")->required();
  command->add_option("--format", options->format, "how the prompt is written: a pair's prompt, a user's turn, or plain text")
      ->check(CLI::IsMember({"pair", "chat", "text"}))
      ->capture_default_str();
  add_chat_option(*command, options->chat);
  command->add_option("--max-new-tokens", options->max_new_tokens, "most tokens of the answer")
      ->check(positive_number)
      ->capture_default_str();
  command->callback([options] { generate(*options); });
}

}  // namespace esft::tool
