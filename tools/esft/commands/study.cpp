// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft study`: a declared matrix of fine-tuning runs.

#include "../number_checks.hpp"
#include "../study.hpp"
#include "../command.hpp"
#include "../policy_choice.hpp"

#include <esft/peft/plans.hpp>
#include <esft/relevance/scorers.hpp>
#include <esft/selection/policies.hpp>

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace esft::tool {
namespace {

/// A TOML table whose keys are taken one by one: what nobody took is an unknown key, and an error.
class table_reader {
 public:
  table_reader(const toml::table& table, std::string file, std::string where)
      : table_(table), file_(std::move(file)), where_(std::move(where)) {}

  template <class T>
  void take(const char* key, T& into) {
    const toml::node* node = find(key);
    if (node != nullptr) read(*node, key, into);
  }
  template <class T>
  void take(const char* key, std::optional<T>& into) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    T value{};
    read(*node, key, value);
    into = value;
  }
  template <class T>
  void take(const char* key, std::vector<T>& into) {
    const toml::node* node = find(key);
    if (node == nullptr) return;
    const toml::array* array = node->as_array();
    if (array == nullptr) wrong(*node, key, "a list");
    into.clear();
    for (const toml::node& element : *array) {
      T value{};
      read(element, key, value);
      into.push_back(std::move(value));
    }
  }
  [[nodiscard]] const toml::node* find(const char* key) {
    taken_.insert(key);
    return table_.get(key);
  }
  void finish() const {
    for (const auto& [key, node] : table_) {
      if (!taken_.contains(std::string(key.str())))
        throw usage_error(place(node) + "unknown key '" + std::string(key.str()) + "' in " + where_);
    }
  }
  [[nodiscard]] std::string place(const toml::node& node) const { return file_ + ":" + std::to_string(node.source().begin.line) + ": "; }

 private:
  [[noreturn]] void wrong(const toml::node& node, const char* key, const char* wanted) const {
    throw usage_error(place(node) + key + " must be " + wanted);
  }
  void read(const toml::node& node, const char* key, std::string& into) const {
    const auto value = node.value_exact<std::string>();
    if (!value) wrong(node, key, "a string");
    into = *value;
  }
  void read(const toml::node& node, const char* key, std::filesystem::path& into) const {
    std::string text;
    read(node, key, text);
    into = text;
  }
  void read(const toml::node& node, const char* key, bool& into) const {
    const auto value = node.value_exact<bool>();
    if (!value) wrong(node, key, "true or false");
    into = *value;
  }
  void read(const toml::node& node, const char* key, double& into) const {
    const auto value = node.value<double>();
    if (!node.is_number() || !value || !std::isfinite(*value) || *value < 0) wrong(node, key, "a number, not negative");
    into = *value;
  }
  template <std::integral Integer>
  void read(const toml::node& node, const char* key, Integer& into) const {
    const auto value = node.value_exact<std::int64_t>();
    if (!value || !std::in_range<Integer>(*value) || *value < 0) wrong(node, key, "a whole number, not negative");
    into = static_cast<Integer>(*value);
  }

  const toml::table& table_;
  std::string file_, where_;
  std::set<std::string> taken_;
};

void expect_one_of(const std::string& value, const std::vector<std::string>& names, const std::string& where) {
  if (value.empty() || std::find(names.begin(), names.end(), value) != names.end()) return;
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  throw usage_error(where + "'" + value + "' is none of " + list);
}

study_arm read_arm(const toml::table& table, const std::string& file) {
  table_reader reader(table, file, "an arm");
  study_arm arm;
  reader.take("name", arm.name);
  reader.take("method", arm.method);
  reader.take("scorer", arm.scorer);
  reader.take("policy", arm.policy);
  reader.take("like", arm.like);
  reader.take("p", arm.given.p);
  reader.take("k", arm.given.k);
  reader.take("fraction", arm.given.fraction);
  reader.take("budget", arm.given.budget);
  reader.take("draw", arm.given.draw);
  reader.take("min_experts", arm.given.min_experts);
  reader.take("max_experts", arm.given.max_experts);
  reader.take("group", arm.given.group);
  std::string normalization;
  std::string mode = "exact";
  reader.take("normalization", normalization);
  reader.take("mode", mode);
  reader.take("shared_experts", arm.shared_experts);
  reader.take("non_expert_modules", arm.non_expert_modules);
  reader.take("tokens", arm.tokens);
  reader.take("factors", arm.factors);
  reader.take("mix", arm.mix);
  reader.take("rank", arm.how.rank);
  reader.take("alpha", arm.how.alpha);
  reader.take("rslora", arm.how.rank_stabilised);
  reader.take("lora_experts", arm.hilo.experts);
  reader.take("ranks", arm.hilo.ranks);
  reader.take("active", arm.hilo.active);
  reader.take("null_experts", arm.hilo.null_experts);
  reader.take("lora_balance", arm.hilo.balance);
  reader.take("targets", arm.targets);
  reader.take("rates", arm.rates);
  reader.take("run", arm.run);
  reader.finish();
  const std::string where = reader.place(table);
  std::vector<std::string> plans;
  builtin_plans::for_each([&]<class Plan>() { plans.emplace_back(Plan::name); });
  expect_one_of(arm.method, plans, where + "method ");
  expect_one_of(arm.tokens, {"all", "answer"}, where + "tokens ");
  expect_one_of(arm.scorer, names_of(builtin_scorers{}), where + "scorer ");
  expect_one_of(arm.policy, names_of(builtin_policies{}), where + "policy ");
  expect_one_of(normalization, {"none", "layer-sum"}, where + "normalization ");
  expect_one_of(mode, {"exact", "official"}, where + "mode ");
  if (!normalization.empty())
    arm.given.normalization = normalization == "none" ? score_normalization::none : score_normalization::layer_sum;
  arm.given.mode = mode == "official" ? threshold_mode::official_compat : threshold_mode::exact;
  for (const char* key : {"p", "k", "fraction", "budget", "draw", "min_experts", "max_experts", "group", "normalization", "mode"}) {
    if (!table.contains(key)) continue;
    std::string argument = key;
    std::replace(argument.begin(), argument.end(), '_', '-');
    if (arm.policy.empty()) throw usage_error(where + "the arm has no policy that would take " + key);
    visit_by_name(builtin_policies{}, arm.policy, [&]<class Policy>() { require_taken<Policy>(argument, key); });
  }
  return arm;
}

/// Reads a study. Paths in it are relative to where the tool runs, as on the command line. @throws usage_error naming file and line
study_settings read_study(const std::filesystem::path& path) {
  toml::table table;
  try {
    table = toml::parse_file(path.string());
  } catch (const toml::parse_error& problem) {
    std::ostringstream where;
    where << path.string() << ":" << problem.source().begin.line << ": " << problem.description();
    throw usage_error(where.str());
  }
  study_settings study;
  table_reader reader(table, path.string(), "the study");
  reader.take("model", study.model.model);
  reader.take("backend", study.model.backend);
  reader.take("dtype", study.model.dtype);
  reader.take("data", study.data);
  reader.take("alignment", study.alignment);
  reader.take("out", study.out);
  reader.take("tasks", study.tasks);
  reader.take("domains", study.domains);
  reader.take("seeds", study.seeds);
  reader.take("rates", study.rates);
  reader.take("steps", study.steps);
  reader.take("warmup", study.warmup);
  reader.take("final_factor", study.final_factor);
  reader.take("weight_decay", study.weight_decay);
  reader.take("rows", study.rows);
  reader.take("length", study.length);
  reader.take("score_tokens", study.score_tokens);
  reader.take("probe_tokens", study.probe_tokens);
  if (const toml::node* arms = reader.find("arm")) {
    const toml::array* list = arms->as_array();
    if (list == nullptr || !list->is_array_of_tables()) throw usage_error(reader.place(*arms) + "arms are written as [[arm]]");
    for (const toml::node& arm : *list) study.arms.push_back(read_arm(*arm.as_table(), path.string()));
  }
  reader.finish();
  expect_one_of(study.model.dtype, {"auto", "float32", "bfloat16"}, path.string() + ": dtype ");
  return study;
}

}  // namespace

void add_study(CLI::App& app) {
  struct options {
    std::filesystem::path file, model, out;
    std::vector<std::string> only;
    int threads = 0;
  };
  auto given = std::make_shared<options>();
  CLI::App* command = app.add_subcommand("study", "Run a declared matrix of fine-tuning runs; cut off, it goes on where it was");
  command->add_option("file", given->file, "TOML file: model, data, tasks, seeds, rates and one [[arm]] for each way to fine-tune")
      ->required();
  command->add_option("--model", given->model, "directory of another model than the file names, for the same study of several");
  command->add_option("--out", given->out, "folder to write instead of the one in the file");
  command->add_option("--task", given->only, "make the missing runs of these tasks only, and no tables: for machines that share a study")
      ->delimiter(',');
  command->add_option("--threads", given->threads, "threads of the backend, 0: all; results do not depend on it")
      ->check(non_negative_number)
      ->capture_default_str();
  command->callback([given] {
    study_settings study = read_study(given->file);
    study.only = given->only;
    study.model.threads = given->threads;
    if (!given->model.empty()) study.model.model = given->model;
    if (!given->out.empty()) study.out = given->out;
    if (study.out.empty()) throw usage_error(given->file.string() + " names no folder to write: add out = \"...\", or give --out");
    run_and_print(study);
  });
}

}  // namespace esft::tool
