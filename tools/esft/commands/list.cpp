// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft list`: the built-in models of each concept, from the same type lists that the flags use.

#include "../command.hpp"
#include "../console.hpp"
#include "../engine.hpp"

#include <esft/data/chat_template.hpp>
#include <esft/data/tokenizers.hpp>
#include <esft/moe/routers.hpp>
#include <esft/optim/schedule.hpp>
#include <esft/peft/plans.hpp>
#include <esft/relevance/scorers.hpp>
#include <esft/selection/policies.hpp>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace esft::tool {
namespace {

const std::map<std::string, std::vector<std::string>>& families() {
  static const std::map<std::string, std::vector<std::string>> all{
      {"routers", names_of(builtin_routers{})},       {"scorers", names_of(builtin_scorers{})},
      {"policies", names_of(builtin_policies{})},     {"plans", names_of(builtin_plans{})},
      {"backends", names_of(builtin_engines{})},      {"schedules", names_of(builtin_schedules{})},
      {"tokenizers", names_of(builtin_tokenizers{})}, {"chat-templates", names_of(builtin_chat_templates{})},
  };
  return all;
}

}  // namespace

void add_list(CLI::App& app) {
  auto family = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("list", "List what is built in");
  std::vector<std::string> names;
  for (const auto& [name, members] : families()) names.push_back(name);
  command->add_option("family", *family, "what to list")->required()->check(CLI::IsMember(names));
  command->callback([family] {
    json_value list = json_array();
    for (const std::string& member : families().at(*family)) {
      out().line(member);
      list.push(member);
    }
    json_value result = json_object();
    result.add(*family, std::move(list));
    out().result(result);
  });
}

}  // namespace esft::tool
