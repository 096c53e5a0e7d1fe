// SPDX-License-Identifier: Apache-2.0
#include "study.hpp"

#include "console.hpp"
#include "format.hpp"
#include "inputs.hpp"
#include "progress.hpp"

#include <esft/analysis/comparison_report.hpp>
#include <esft/analysis/matched_loss.hpp>
#include <esft/core/config.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/json_value.hpp>
#include <esft/io/sha256.hpp>
#include <esft/optim/schedule.hpp>
#include <esft/peft/plans.hpp>
#include <esft/relevance/scorers.hpp>
#include <esft/selection/policies.hpp>

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

policy_arguments default_arguments(const std::string& scorer, policy_arguments given) {
  const bool official = scorer == token_selection_ratio::name || scorer == average_gate_score::name;
  if (!given.p) given.p = scorer == average_gate_score::name ? 0.1 : 0.2;
  if (!official && !given.normalization) given.normalization = score_normalization::layer_sum;
  return given;
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
/// What one arm is, in the same way.
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
    std::filesystem::create_directories(settings_.out / "runs");
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
      if (here(task) && !std::filesystem::exists(file_of(task, arm, seed, rate))) ++missing;
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
      runs.push_back(from_json(json_reader(value, file.string())));
    });
    return runs;
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
      if (!arm.mix.empty() && settings_.alignment.empty())
        throw usage_error("the arm " + arm.name + " mixes in alignment data: say in the study which file, by alignment");
    }
    for (const study_arm& arm : settings_.arms) {
      const study_arm* at = &arm;
      for (std::size_t i = 0; i <= settings_.arms.size() && !at->like.empty(); ++i) at = find(at->like);
      if (!at->like.empty())
        throw usage_error("the arm " + arm.name + " is like an arm that is like it: one of a circle has to choose by itself");
    }
    if (settings_.arms.empty()) throw usage_error("a study needs at least one arm");
    if (settings_.tasks.empty()) throw usage_error("a study needs at least one task");
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
    policy_arguments given = default_arguments(arm.scorer, arm.given);
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
      if (arm.scorer.empty()) throw usage_error("the arm " + arm.name + " has a policy and no scorer");
      chosen = make_policy<Policy>(given).select(scores(task, arm.tokens).at(arm.scorer));
    });
    return chosen;
  }

  trainable_set plan(const std::string& task, const study_arm& arm, std::uint64_t seed, std::size_t& experts) {
    const parameter_inventory inventory = model_->inventory();
    if (arm.method == full_plan::name) return full_plan{}.trainable(inventory);
    expert_set chosen;
    if (!arm.policy.empty()) chosen = selection(task, arm, seed);
    experts = chosen.size();
    const bool whole = arm.method == esft_plan::name || arm.method == hybrid_plan::name;
    if (whole && arm.policy.empty())
      throw usage_error("the arm " + arm.name + " needs a scorer and a policy: " + arm.method + " trains selected experts");
    const esft_plan selected{chosen, arm.shared_experts, arm.non_expert_modules};
    if (arm.method == esft_plan::name) return selected.trainable(inventory);

    low_rank_options how = arm.how;
    how.seed = seed;
    const std::set<parameter_role> targets = low_rank_roles(arm.targets);
    std::size_t ignored = 0;
    const std::int64_t budget =
        arm.policy.empty() && !arm.like.empty() ? trained_elements(plan(task, *find(arm.like), seed, ignored), inventory) : 0;
    if (arm.method == hybrid_plan::name) {
      if (arm.factors.empty()) throw usage_error("the arm " + arm.name + " needs factors, an arm whose other experts get factors");
      hybrid_plan both{selected, {.how = how, .experts = selection(task, *find(arm.factors), seed)}};
      both.factors.targets = arm.targets.empty() ? low_rank_roles({"experts"}) : targets;
      return both.trainable(inventory);
    }
    if (arm.method == hilo_plan::name) {
      if (!arm.policy.empty()) throw usage_error("the arm " + arm.name + " selects routed experts, which hilo leaves alone");
      hilo_request request = arm.hilo;
      request.budget = budget;
      return make_hilo_plan(request, how, targets, inventory, model_->base()).trainable(inventory);
    }
    lora_plan factors{how, targets, {}};
    if (!arm.policy.empty()) {
      factors.experts = chosen;
      if (arm.targets.empty()) factors.targets = low_rank_roles({"experts"});
    } else if (budget > 0) {  // the rank that comes closest to as many trained parameters
      factors.how.rank = 1;
      const std::int64_t per_rank = trained_elements(factors.trainable(inventory), inventory);
      factors.how.rank = std::max<std::int64_t>(1, (budget + per_rank / 2) / per_rank);
      factors.how.alpha = 2 * static_cast<double>(factors.how.rank);
    }
    return factors.trainable(inventory);
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
    const arm_measurement after = model_->run_arm(trainable, data(task, seed, arm.mix), domains(), how, settings_.steps, {});
    const snapshot_difference changed = model_->changes();
    result.task = task;
    result.arm = arm.name;
    result.seed = seed;
    result.rate = rate;
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

std::pair<double, double> mean_and_spread(const std::vector<double>& values) {
  double mean = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / static_cast<double>(values.size() - 1)) : 0.0};
}

void write_runs(const std::filesystem::path& out, const std::vector<study_run>& runs) {
  std::string numbers =
      "task,arm,seed,rate,base_loss,loss,gain,base_exact,exact,forgotten,experts,trained_parameters,state_bytes,skipped,"
      "frozen_moved,trained_still\n";
  std::string times = "task,arm,seed,rate,seconds_per_step\n";
  for (const study_run& r : runs) {
    const std::string key = r.task + "," + r.arm + "," + std::to_string(r.seed) + "," + exact_text(r.rate) + ",";
    numbers += key;
    for (const double value : {r.base_loss, r.loss, r.gain(), r.base_exact, r.exact, r.mean_forgotten()})
      numbers += exact_text(value) + ",";
    numbers += std::to_string(r.experts) + "," + std::to_string(r.trained_parameters) + "," + std::to_string(r.state_bytes) + "," +
               std::to_string(r.skipped) + "," + std::to_string(r.frozen_moved) + "," + std::to_string(r.trained_still) + "\n";
    times += key + exact_text(r.seconds_per_step) + "\n";
  }
  write_file_atomically(out / "runs.csv", numbers);
  write_file_atomically(out / "times.csv", times);
}

void write_table(const std::filesystem::path& out, const std::vector<study_row>& table) {
  std::string text = "task,arm,rate,seeds,experts,trained_parameters,state_bytes,gain,gain_sd,exact,exact_sd,forgotten,forgotten_sd\n";
  for (const study_row& row : table) {
    text += row.task + "," + row.arm + "," + exact_text(row.rate) + "," + std::to_string(row.seeds) + "," + std::to_string(row.experts) +
            "," + std::to_string(row.trained_parameters) + "," + std::to_string(row.state_bytes);
    for (const auto& [mean, spread] : {row.gain, row.exact, row.forgotten}) text += "," + exact_text(mean) + "," + exact_text(spread);
    text += "\n";
  }
  write_file_atomically(out / "table.csv", text);
}

/// For every two arms: what the first forgets less the second at the same task loss, seed by seed (analysis/matched_loss.hpp).
void write_matched(const std::filesystem::path& out, const std::vector<study_run>& runs) {
  std::map<std::string, std::map<std::string, std::map<std::uint64_t, std::vector<trade_off_point>>>> curves;  // task, arm, seed
  for (const study_run& run : runs) curves[run.task][run.arm][run.seed].push_back({run.loss, run.mean_forgotten()});
  std::string text = "task,arm,against,seeds,forgotten_difference,forgotten_difference_sd\n";
  for (const auto& [task, arms] : curves) {
    for (const auto& [arm, seeds] : arms) {
      for (const auto& [against, others] : arms) {
        if (arm == against) continue;
        std::vector<double> differences;
        for (const auto& [seed, points] : seeds) {
          const auto other = others.find(seed);
          if (other == others.end()) continue;
          const auto difference = forgotten_at_matched_loss(trade_off_curve(points), trade_off_curve(other->second));
          if (difference) differences.push_back(*difference);
        }
        if (differences.empty()) continue;
        const auto [mean, spread] = mean_and_spread(differences);
        text += task + "," + arm + "," + against + "," + std::to_string(differences.size()) + "," + exact_text(mean) + "," +
                exact_text(spread) + "\n";
      }
    }
  }
  write_file_atomically(out / "matched.csv", text);
}

void write_report(const study_settings& settings, const std::vector<study_run>& runs, const std::string& task) {
  comparison page;
  page.title = "esft: " + std::to_string(settings.arms.size()) + " ways to fine-tune on " + task;
  page.subtitle = "The same model, batches and steps for every arm; each point is one run, an arm's runs differ by seed and learning rate";
  page.facts = {{"model", settings.model.model.string()},
                {"task", task},
                {"seeds", std::to_string(settings.seeds.size())},
                {"version", ESFT_VERSION_STRING}};
  page.loss_unit = "nats per token";
  for (const study_run& run : runs) {
    if (run.task != task) continue;
    page.base_task_loss = run.base_loss;
    page.base_exact_match = run.base_exact;
    page.arms.push_back({run.arm, "seed " + std::to_string(run.seed), run.rate, run.loss, run.exact, run.forgotten, run.trained_parameters,
                         run.state_bytes, run.seconds_per_step, 0});
    page.receipt.emplace_back(run.frozen_moved == 0 && run.trained_still == 0,
                              run.arm + ", seed " + std::to_string(run.seed) + ", rate " + significant(run.rate, 3) +
                                  ": what was planned changed, and no bit of what was frozen");
  }
  page.limits = {"Compare arms along their curves of learning rates and against the spread over seeds, not at single points."};
  page.config = {{"steps", std::to_string(settings.steps)},
                 {"batch", std::to_string(settings.rows) + " x " + std::to_string(settings.length) + " tokens"},
                 {"schedule", "cosine to " + significant(settings.final_factor, 3) + " after " + std::to_string(settings.warmup) +
                                  " steps of warm-up"}};
  const std::string name = settings.tasks.size() == 1 ? "report.html" : "report." + task + ".html";
  write_file_atomically(settings.out / name, render_html(comparison_report(page)));
}

}  // namespace

std::vector<study_row> study_table(const std::vector<study_run>& runs) {
  std::vector<study_row> table;
  std::map<std::tuple<std::string, std::string, double>, std::size_t> rows;
  std::vector<std::vector<const study_run*>> of;
  for (const study_run& run : runs) {
    const auto [found, fresh] = rows.try_emplace({run.task, run.arm, run.rate}, of.size());
    if (fresh) of.emplace_back();
    of[found->second].push_back(&run);
  }
  for (const auto& same : of) {
    const auto over_seeds = [&](auto&& value) {
      std::vector<double> values;
      for (const study_run* run : same) values.push_back(value(*run));
      return mean_and_spread(values);
    };
    const study_run& one = *same.front();
    table.push_back({one.task, one.arm, one.rate, same.size(), one.experts, one.trained_parameters, one.state_bytes,
                     over_seeds([](const study_run& r) { return r.gain(); }), over_seeds([](const study_run& r) { return r.exact; }),
                     over_seeds([](const study_run& r) { return r.mean_forgotten(); }),
                     over_seeds([](const study_run& r) { return r.seconds_per_step; })});
  }
  return table;
}

void print_study(const std::vector<study_row>& table) {
  text_table lines({"task", "arm", "rate", "seeds", "experts", "trained", "state", "gain", "exact %", "forgotten", "s/step"});
  const auto with_spread = [](const std::pair<double, double>& value, int digits, double factor = 1) {
    return fixed(factor * value.first, digits) + " +- " + fixed(factor * value.second, digits);
  };
  for (const study_row& row : table) {
    lines.add({row.task, row.arm, significant(row.rate, 3), std::to_string(row.seeds), std::to_string(row.experts),
               grouped(row.trained_parameters), bytes_text(row.state_bytes), with_spread(row.gain, 4), with_spread(row.exact, 1, 100),
               with_spread(row.forgotten, 4), fixed(row.seconds.first, 3)});
  }
  for (const std::string& line : lines.lines()) out().line(line);
}

std::vector<study_run> run_study(const study_settings& settings) {
  std::vector<study_run> runs = study(settings).run();
  if (!settings.only.empty()) return runs;
  write_runs(settings.out, runs);
  write_table(settings.out, study_table(runs));
  write_matched(settings.out, runs);
  for (const std::string& task : settings.tasks) write_report(settings, runs, task);
  return runs;
}

}  // namespace esft::tool
