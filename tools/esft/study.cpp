// SPDX-License-Identifier: Apache-2.0
#include "study.hpp"

#include "console.hpp"
#include "format.hpp"
#include "inputs.hpp"
#include "plan_choice.hpp"
#include "policy_choice.hpp"
#include "progress.hpp"

#include <esft/core/config.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/json_value.hpp>
#include <esft/io/sha256.hpp>
#include <esft/optim/schedule.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <tuple>

namespace esft::tool {

double study_run::mean_forgotten() const {
  double sum = 0;
  for (const auto& [domain, rise] : forgotten) sum += rise;
  return forgotten.empty() ? 0 : sum / static_cast<double>(forgotten.size());
}

namespace {

/// Everything that a run's numbers depend on, as text: runs of other settings are not taken for these.
std::string identity_of(const study_settings& s, const engine& model) {
  json_value root = json_object();
  root.add("version", ESFT_VERSION_STRING).add("model", model.base().digest()).add("backend", s.model.backend);
  root.add("dtype", std::string(name_of(model.stored_as())));
  root.add("steps", s.steps).add("warmup", s.warmup).add("final_factor", s.final_factor).add("weight_decay", s.weight_decay);
  root.add("rows", s.rows).add("length", s.length).add("score_tokens", s.score_tokens).add("probe_tokens", s.probe_tokens);
  json_value files = json_object();
  const auto add = [&](const std::string& name) { files.add(name, file_digest(s.data / name)); };
  for (const std::string& task : s.tasks) {
    add(task + ".train.jsonl");
    add(task + ".test.jsonl");
  }
  for (const std::string& domain : s.domains) add("probe." + domain + ".jsonl");
  if (!s.alignment.empty()) add(s.alignment);
  root.add("data", std::move(files));
  return write_json(root);
}
/// What one arm is, in the same way. A key that came later is there only where it is said: runs of arms without it are found again.
std::string identity_of(const study_arm& arm) {
  json_value root = json_object();
  root.add("method", arm.method).add("scorer", arm.scorer).add("policy", arm.policy).add("like", arm.like);
  root.add("p", arm.given.p.value_or(0)).add("k", std::int64_t{arm.given.k.value_or(0)}).add("fraction", arm.given.fraction.value_or(0));
  root.add("budget", arm.given.budget.value_or(0)).add("draw", std::int64_t{arm.given.draw});
  root.add("shared", arm.shared_experts).add("other", arm.non_expert_modules);
  root.add("rank", arm.how.rank).add("alpha", arm.how.alpha).add("rslora", arm.how.rank_stabilised);
  if (arm.tokens != "all") root.add("tokens", arm.tokens);
  if (!arm.factors.empty()) root.add("factors", arm.factors);
  if (!arm.mix.empty()) root.add("mix", arm.mix);
  if (arm.given.normalization) root.add("normalization", arm.given.normalization == score_normalization::none ? "none" : "layer-sum");
  if (arm.given.mode != threshold_mode::exact) root.add("mode", "official");
  if (arm.given.min_experts != 0) root.add("min_experts", std::int64_t{arm.given.min_experts});
  if (arm.given.max_experts != 0) root.add("max_experts", std::int64_t{arm.given.max_experts});
  if (arm.given.group) root.add("group", std::int64_t{*arm.given.group});
  if (arm.method == hilo_plan::name) {
    root.add("lora_experts", arm.hilo.experts).add("ranks", arm.hilo.ranks).add("active", arm.hilo.active);
    root.add("null_experts", std::int64_t{arm.hilo.null_experts}).add("lora_balance", arm.hilo.balance);
  }
  json_value targets = json_array();
  for (const std::string& target : arm.targets) targets.push(target);
  root.add("targets", std::move(targets));
  return write_json(root);
}

json_value to_json(const study_run& run) {
  json_value root = json_object();
  root.add("task", run.task).add("arm", run.arm).add("seed", std::to_string(run.seed)).add("rate", run.rate);
  if (run.diverged) return root.add("diverged", true);
  root.add("base_loss", run.base_loss).add("loss", run.loss).add("base_exact", run.base_exact).add("exact", run.exact);
  json_value forgotten = json_object();
  for (const auto& [domain, rise] : run.forgotten) forgotten.add(domain, rise);
  root.add("forgotten", std::move(forgotten)).add("experts", run.experts).add("trained_parameters", run.trained_parameters);
  root.add("state_bytes", run.state_bytes).add("skipped", run.skipped);
  return root.add("frozen_moved", run.frozen_moved).add("trained_still", run.trained_still).add("seconds_per_step", run.seconds_per_step);
}
study_run from_json(const json_reader& root) {
  constexpr double any = 1e300;
  constexpr std::int64_t most = std::int64_t{1} << 53;
  study_run run;
  run.task = root.at("task").string();
  run.arm = root.at("arm").string();
  run.seed = std::stoull(root.at("seed").string());
  const auto number = [&](const char* key) { return root.at(key).number(-any, any); };
  run.rate = number("rate");
  if (const auto diverged = root.find("diverged")) run.diverged = diverged->boolean();
  if (run.diverged) return run;
  run.base_loss = number("base_loss");
  run.loss = number("loss");
  run.base_exact = number("base_exact");
  run.exact = number("exact");
  for (const auto& [domain, rise] : root.at("forgotten").members()) run.forgotten[domain] = rise.number(-any, any);
  run.experts = static_cast<std::size_t>(root.at("experts").integer(0, most));
  run.trained_parameters = root.at("trained_parameters").integer(0, most);
  run.state_bytes = root.at("state_bytes").integer(0, most);
  run.skipped = root.at("skipped").integer(0, most);
  run.frozen_moved = static_cast<std::size_t>(root.at("frozen_moved").integer(0, most));
  run.trained_still = static_cast<std::size_t>(root.at("trained_still").integer(0, most));
  run.seconds_per_step = number("seconds_per_step");
  return run;
}

class study {
 public:
  explicit study(const study_settings& settings)
      : settings_(settings),
        folder_{settings.data, tokenizer_of(settings.model), settings.rows, settings.length},
        model_(open_engine(settings.model)) {
    check();
    make_directory(settings_.out / "runs");
    identity_ = identity_of(settings_, *model_);
    const auto file = settings_.out / "settings.json";
    if (std::filesystem::exists(file) && read_small_file(file, 1U << 20U) != identity_) {
      throw usage_error(settings_.out.string() + " holds runs of another model, data or settings (settings.json): choose another --out");
    }
    write_file_atomically(file, identity_);
  }

  std::vector<study_run> run() {
    std::vector<study_run> runs;
    std::size_t missing = 0;
    for_each_run([&](const std::string& task, const study_arm& arm, std::uint64_t seed, double rate) {
      if (!here(task) || std::filesystem::exists(file_of(task, arm, seed, rate))) return;
      ++missing;
      std::size_t experts = 0;  // what cannot be trained is refused here, not after hours of other arms
      static_cast<void>(plan(task, arm, seed, experts));
    });
    progress bar("study", static_cast<std::int64_t>(missing), "runs");
    std::int64_t done = 0;
    for_each_run([&](const std::string& task, const study_arm& arm, std::uint64_t seed, double rate) {
      const auto file = file_of(task, arm, seed, rate);
      if (!std::filesystem::exists(file)) {
        if (!here(task)) return;
        write_file_atomically(file, write_json(to_json(measure(task, arm, seed, rate))));
        bar.update(++done, task + " " + arm.name);
      }
      const std::string text = read_small_file(file, 1U << 20U);
      const json_value value = parse_json(text, file.string());
      study_run one = from_json(json_reader(value, file.string()));
      if (one.diverged) {
        out().warn(task + ", " + arm.name + ", seed " + std::to_string(seed) + ", rate " + significant(rate, 3) +
                   ": diverged, so it is in no table; its rate is too high");
        return;
      }
      runs.push_back(std::move(one));
    });
    return runs;
  }
  /// Of the whole model.
  [[nodiscard]] std::int64_t parameters() const {
    std::int64_t total = 0;
    for (const parameter_entry& entry : model_->inventory()) total += entry.elements;
    return total;
  }

 private:
  [[nodiscard]] bool here(const std::string& task) const {
    return settings_.only.empty() || std::find(settings_.only.begin(), settings_.only.end(), task) != settings_.only.end();
  }
  void check() const {
    for (const std::string& task : settings_.only) {
      if (std::find(settings_.tasks.begin(), settings_.tasks.end(), task) == settings_.tasks.end())
        throw usage_error("the study has no task " + task);
    }
    std::set<std::string> names;
    for (const study_arm& arm : settings_.arms) {
      if (arm.name.empty() ||
          arm.name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != std::string::npos)
        throw usage_error("an arm needs a name of letters, digits, '-', '_' and '.', not '" + arm.name + "'");
      if (!names.insert(arm.name).second) throw usage_error("two arms are named " + arm.name);
      if (!arm.like.empty() && find(arm.like) == nullptr)
        throw usage_error("the arm " + arm.name + " is like " + arm.like + ", which is no arm");
      if (!arm.factors.empty() && (find(arm.factors) == nullptr || find(arm.factors)->policy.empty()))
        throw usage_error("the arm " + arm.name + " takes the experts with factors from " + arm.factors + ", which is no arm that selects");
      const study_arm* like = arm.like.empty() ? nullptr : find(arm.like);
      if (!arm.policy.empty() && like != nullptr && like->policy.empty())
        throw usage_error("the arm " + arm.name + " selects like " + arm.like + ", which selects no experts");
      if (arm.policy.empty() != arm.scorer.empty())
        throw usage_error("the arm " + arm.name + " has a " + (arm.policy.empty() ? "scorer and no policy" : "policy and no scorer"));
      if (!arm.mix.empty() && settings_.alignment.empty())
        throw usage_error("the arm " + arm.name + " mixes in alignment data: say in the study which file, by alignment");
    }
    for (const study_arm& arm : settings_.arms) {
      const study_arm* at = &arm;
      for (std::size_t i = 0; i <= settings_.arms.size() && !at->like.empty(); ++i) at = find(at->like);
      if (!at->like.empty())
        throw usage_error("the arm " + arm.name + " is like an arm that is like it: one of a circle has to choose by itself");
    }
    if (std::none_of(settings_.arms.begin(), settings_.arms.end(), [](const study_arm& arm) { return arm.run; }))
      throw usage_error("a study needs at least one arm");
    if (settings_.tasks.empty()) throw usage_error("a study needs at least one task");
    if (settings_.seeds.empty()) throw usage_error("a study needs at least one seed");
    if (settings_.steps < 1 || settings_.rows < 1 || settings_.length < 1)
      throw usage_error("steps, rows and length of a study are each at least 1");
    expect_once(settings_.tasks, "task");
    expect_once(settings_.domains, "domain");
    expect_once(settings_.seeds, "seed");
    expect_once(settings_.rates, "rate");
    for (const study_arm& arm : settings_.arms) {
      expect_once(arm.rates, "rate");
      if (arm.run && arm.rates.empty() && settings_.rates.empty())
        throw usage_error("the arm " + arm.name + " has no learning rate: say which by rates");
    }
  }
  /// A run that counts twice would make the spread over seeds too small.
  template <class T>
  static void expect_once(std::vector<T> values, const std::string& what) {
    std::sort(values.begin(), values.end());
    if (std::adjacent_find(values.begin(), values.end()) != values.end()) throw usage_error("the study names a " + what + " twice");
  }
  [[nodiscard]] const study_arm* find(const std::string& name) const {
    for (const study_arm& arm : settings_.arms) {
      if (arm.name == name) return &arm;
    }
    return nullptr;
  }
  template <class Visit>
  void for_each_run(Visit&& visit) const {
    for (const std::string& task : settings_.tasks) {
      for (const study_arm& arm : settings_.arms) {
        if (!arm.run) continue;
        for (const std::uint64_t seed : settings_.seeds) {
          for (const double rate : arm.rates.empty() ? settings_.rates : arm.rates) visit(task, arm, seed, rate);
        }
      }
    }
  }
  [[nodiscard]] std::filesystem::path file_of(const std::string& task, const study_arm& arm, std::uint64_t seed, double rate) const {
    sha256 digest;
    for (const study_arm* at = &arm; at != nullptr; at = at->like.empty() ? nullptr : find(at->like)) {
      digest.update(identity_of(*at));
      if (!at->factors.empty()) digest.update(identity_of(*find(at->factors)));
    }
    return settings_.out / "runs" /
           (task + "." + arm.name + "." + digest.hex_digest().substr(0, 8) + ".seed" + std::to_string(seed) + ".rate" + exact_text(rate) +
            ".json");
  }

  const std::map<std::string, score_table>& scores(const std::string& task, const std::string& tokens) {
    const auto found = scores_.find({task, tokens});
    if (found != scores_.end()) return found->second;
    scorer_group scorers;
    std::set<std::string> wanted;
    for (const study_arm& arm : settings_.arms) {
      if (!arm.scorer.empty() && arm.tokens == tokens) wanted.insert(arm.scorer);
    }
    for (const std::string& name : wanted)
      visit_by_name(builtin_scorers{}, name, [&]<class Scorer>() { scorers.add(Scorer(scorer_options{})); });
    restore();
    const auto sample = folder_.batches(folder_.some_samples(task + ".train.jsonl", settings_.score_tokens));
    model_->observe(sequence_of(sample), scorers, {.tokens = tokens == "all" ? scored_tokens::all : scored_tokens::answer});
    return scores_[{task, tokens}] = scorers.scores();
  }

  /// The experts that an arm chooses for a task; with a seed, what is drawn differs by it.
  expert_set selection(const std::string& task, const study_arm& arm, std::uint64_t seed) {
    policy_arguments given = with_defaults(arm.given, arm.scorer);
    const decoder_config& config = model_->config();
    if (!given.k) given.k = static_cast<int>(config.active);
    if (!given.group) given.group = config.router == router_kind::grouped_experts ? static_cast<int>(config.experts / config.groups) : 1;
    given.seed = seed;
    expert_set chosen;
    visit_by_name(builtin_policies{}, arm.policy, [&]<class Policy>() {
      const bool combines = Policy::name == union_of_tasks::name || Policy::name == intersection_of_tasks::name;
      if (combines && arm.like.empty()) {
        throw usage_error("the arm " + arm.name + " combines the selections of all tasks: say by like of which arm");
      }
      if (combines) {
        for (const std::string& other : settings_.tasks) given.like.push_back(selection(other, *find(arm.like), seed));
      } else if (!arm.like.empty()) {
        given.like = {selection(task, *find(arm.like), seed)};
        if (!given.budget) given.budget = static_cast<std::int64_t>(given.like.front().size());
      }
      const score_table& table = scores(task, arm.tokens).at(arm.scorer);
      require_shares<Policy>(given, arm.scorer, table);
      chosen = make_policy<Policy>(given).select(table);
    });
    return chosen;
  }

  /// What an arm trains. @throws usage_error that names the arm
  trainable_set plan(const std::string& task, const study_arm& arm, std::uint64_t seed, std::size_t& experts) {
    trainable_set result;
    try {
      result = make_plan(request_of(task, arm, seed, experts), model_->inventory(), model_->base()).trainable;
      if (result.empty()) throw usage_error("nothing is selected for " + task + ", so nothing would be trained");
    } catch (const usage_error& problem) {
      const std::string text = problem.what();
      throw usage_error((text.starts_with("the arm ") ? "" : "the arm " + arm.name + ": ") + text);
    }
    return result;
  }
  plan_request request_of(const std::string& task, const study_arm& arm, std::uint64_t seed, std::size_t& experts) {
    plan_request request{
        .method = arm.method, .selected = {}, .with_factors = {}, .factors = arm.how, .targets = arm.targets, .hilo = arm.hilo};
    request.factors.seed = seed;
    const parameter_inventory inventory = model_->inventory();
    if (!arm.policy.empty()) {
      request.selected = expert_config{selection(task, arm, seed), arm.shared_experts, arm.non_expert_modules};
      experts = request.selected->experts.size();
      if (arm.targets.empty()) request.targets = {"experts"};
    } else if (arm.shared_experts || arm.non_expert_modules) {
      request.selected = expert_config{{}, arm.shared_experts, arm.non_expert_modules};
      for (const parameter_entry& entry : inventory) {  // of every layer it is said that no expert is meant
        if (entry.key.role == parameter_role::expert_down) request.selected->experts.layers[entry.key.layer];
      }
    }
    if (!arm.factors.empty()) request.with_factors = selection(task, *find(arm.factors), seed);
    std::size_t ignored = 0;
    if (arm.policy.empty() && !arm.like.empty())
      request.parameters = trained_elements(plan(task, *find(arm.like), seed, ignored), inventory);
    return request;
  }

  void restore() {
    if (!remembered_) model_->remember();
    remembered_ = true;
    model_->restore();
  }
  const domain_batches& domains() {
    for (const std::string& name : settings_.domains) {
      if (!domains_.contains(name))
        domains_.emplace(name, folder_.batches(folder_.some_samples("probe." + name + ".jsonl", settings_.probe_tokens)));
    }
    return domains_;
  }
  const task_data& data(const std::string& task, std::uint64_t seed, const std::string& mix = {}) {
    const std::tuple wanted(task, seed, mix);
    if (!data_ || data_of_ != wanted)
      data_ = std::make_unique<task_data>(mix.empty() ? folder_.task(task, seed)
                                                      : folder_.task(task, seed, settings_.alignment, mix_weights(mix, "mix")));
    data_of_ = wanted;
    return *data_;
  }

  study_run measure(const std::string& task, const study_arm& arm, std::uint64_t seed, double rate) {
    study_run result;
    const trainable_set trainable = plan(task, arm, seed, result.experts);
    restore();
    if (!base_.contains(task)) base_[task] = model_->measure(data(task, seed), domains());
    const task_measurement& before = base_.at(task);
    trainer_options how;
    how.learning_rate = rate;
    how.adamw.weight_decay = settings_.weight_decay;
    how.schedule = [span = schedule_span{settings_.warmup, settings_.steps, settings_.final_factor}](std::int64_t step) {
      return cosine_schedule{span}.factor(step);
    };
    result.task = task;
    result.arm = arm.name;
    result.seed = seed;
    result.rate = rate;
    arm_measurement after;
    try {
      after = model_->run_arm(trainable, data(task, seed, arm.mix), domains(), how, settings_.steps, {});
    } catch (const numerics_error&) {
      result.diverged = true;
      return result;
    }
    const auto& losses = after.after.domain_loss;
    result.diverged = !std::isfinite(after.after.loss) ||
                      std::any_of(losses.begin(), losses.end(), [](const auto& one) { return !std::isfinite(one.second); });
    if (result.diverged) return result;
    const snapshot_difference changed = model_->changes();
    result.base_loss = before.loss;
    result.loss = after.after.loss;
    result.base_exact = before.exact_match;
    result.exact = after.after.exact_match;
    for (const auto& [domain, loss] : after.after.domain_loss) result.forgotten[domain] = loss - before.domain_loss.at(domain);
    result.trained_parameters = after.trained_parameters;
    result.state_bytes = after.state_bytes;
    result.skipped = after.skipped;
    result.frozen_moved = changed.frozen_changed;
    result.trained_still = changed.trained_unchanged;
    result.seconds_per_step = after.seconds_per_step;
    return result;
  }

  const study_settings& settings_;
  task_folder folder_;
  std::unique_ptr<engine> model_;
  std::string identity_;
  bool remembered_ = false;
  std::map<std::pair<std::string, std::string>, std::map<std::string, score_table>> scores_;  ///< of a task, over some of its tokens
  domain_batches domains_;
  std::unique_ptr<task_data> data_;
  std::tuple<std::string, std::uint64_t, std::string> data_of_;
  std::map<std::string, task_measurement> base_;
};

}  // namespace

std::vector<study_run> run_study(const study_settings& settings) {
  study matrix(settings);
  std::vector<study_run> runs = matrix.run();
  if (settings.only.empty()) write_study(settings, runs, matrix.parameters());
  return runs;
}

}  // namespace esft::tool
