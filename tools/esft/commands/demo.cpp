// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft demo`: the whole pipeline on the bundled model and one of its tasks: score, select, train several arms from the same seed and
/// data order, prove what changed, compare, and write a report.

#include "../command.hpp"
#include "../format.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"
#include "../task_folder.hpp"

#include <esft/analysis/comparison_report.hpp>
#include <esft/analysis/overlap.hpp>
#include <esft/core/config.hpp>
#include <esft/io/adapter.hpp>
#include <esft/io/directory.hpp>
#include <esft/io/jsonl.hpp>
#include <esft/io/merge_adapter.hpp>
#include <esft/io/receipt.hpp>
#include <esft/peft/plans.hpp>
#include <esft/relevance.hpp>
#include <esft/selection.hpp>
#include <esft/train.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace esft::tool {
namespace {

struct demo_options {
  engine_request model{.model = "examples/quickstart/model"};
  std::filesystem::path data = "examples/quickstart/data";
  std::filesystem::path out = "out/quickstart";
  std::string task = "package_section";
  std::int64_t steps = 60;
  std::size_t rows = 8;
  std::size_t length = 256;
  std::uint64_t seed = 7;
  int draws = 3;
  double seconds = 140;  // arms beyond the first rate start only while this much time has not passed
};

const std::vector<std::string> domains{"scripture_en", "scripture_es", "python", "licences", "packages", "arithmetic"};
const std::vector<std::string> tasks{"arithmetic_prefix", "package_json", "package_section", "licence_id"};

/// Tokens of a task or domain: enough to score experts and to notice forgetting.
constexpr std::size_t sampled = 8192;

struct run_spec {
  std::string arm;
  std::string variant;
  double rate = 0;
  trainable_set trainable;
  bool extra = false;  // further learning rates: left out when time is short
};

class demo {
 public:
  explicit demo(demo_options chosen)
      : options_(std::move(chosen)),
        folder_{options_.data, tokenizer_of(options_.model), options_.rows, options_.length},
        model_(open_engine(options_.model)),
        data_(folder_.task(options_.task, options_.seed)),
        start_(std::chrono::steady_clock::now()) {}

  int run() {
    make_directory(options_.out);
    print_header();
    score();
    select();
    train();
    const bool proved = prove();
    print_table();
    report();
    out().result(result(proved));
    return proved ? 0 : static_cast<int>(error_category::bad_input);
  }

 private:
  [[nodiscard]] double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
  void print_header() {
    const auto& c = model_->config();
    out().line(formatted("esft %s · demo · seed %llu · backend %s", ESFT_VERSION_STRING, static_cast<unsigned long long>(options_.seed),
                         model_->description().c_str()));
    out().line(formatted("model   %s   %lld layers, %lld experts each (top-%lld + shared), %.2f M parameters   sha256 %s",
                         options_.model.model.string().c_str(), static_cast<long long>(c.layers), static_cast<long long>(c.experts),
                         static_cast<long long>(c.active), static_cast<double>(total_parameters()) / 1e6,
                         model_->base().digest().substr(0, 12).c_str()));
    out().line(formatted("task    %s   train %zu, test %zu records   forgetting probe: %zu domains", options_.task.c_str(),
                         data_.training.sets().front().source().size(), data_.prompts.size(), domains.size()));
    out().line();
  }
  [[nodiscard]] std::int64_t total_parameters() const {
    std::int64_t total = 0;
    for (const parameter_entry& entry : model_->inventory()) total += entry.elements;
    return total;
  }

  /// Both scores of the paper.
  struct relevance_scores {
    score_table token;
    score_table gate;
  };
  [[nodiscard]] relevance_scores scores_of(const std::vector<training_sample>& samples) {
    scorer_group scorers;
    scorers.add(token_selection_ratio());
    scorers.add(average_gate_score());
    model_->observe(sequence_of(folder_.batches(samples)), scorers, {});
    const auto tables = scorers.scores();
    return {tables.at(std::string(token_selection_ratio::name)), tables.at(std::string(average_gate_score::name))};
  }

  void score() {
    std::vector<std::pair<std::string, std::string>> sources;  // name, file
    for (const std::string& name : tasks) sources.emplace_back(name, name + ".train.jsonl");
    for (const std::string& name : domains) sources.emplace_back(name, "probe." + name + ".jsonl");
    std::int64_t tokens = 0;
    for (const auto& [name, file] : sources) {
      scores_.emplace(name, scores_of(folder_.some_samples(file, sampled)));
      tokens += scores_.at(name).token.tokens;
    }
    for (const std::string& name : domains) {
      domains_.emplace(name, folder_.batches(folder_.some_samples("probe." + name + ".jsonl", sampled)));
    }
    out().line(
        formatted("1 score    %lld tokens of %zu tasks and domains   %.1f s", static_cast<long long>(tokens), sources.size(), elapsed()));
  }

  void select() {
    const relevance_scores& s = scores_.at(options_.task);
    by_token_ = top_p({.p = token_selection_ratio::usual_p}).select(s.token);
    by_gate_ = top_p({.p = average_gate_score::usual_p}).select(s.gate);
    const std::size_t all = s.token.layers.size() * static_cast<std::size_t>(model_->config().experts);
    out().line(formatted("2 select   token score, p = 0.20 -> %zu of %zu experts (%.0f %%)   gate score, p = 0.10 -> %zu", by_token_.size(),
                         all, 100.0 * static_cast<double>(by_token_.size()) / static_cast<double>(all), by_gate_.size()));
    for (const auto& [layer, experts] : by_token_.layers) {
      double share = 0;
      std::string ids;
      for (const expert_index e : experts) {
        share += s.token.layers.at(layer).scores[static_cast<std::size_t>(e.value)];
        ids += (ids.empty() ? "" : ", ") + std::to_string(e.value);
      }
      out().line(formatted("           layer %d   experts %-24s share %.2f", layer.value, ids.c_str(), share));
    }
  }

  [[nodiscard]] trainable_set esft_set(const expert_set& experts) const { return esft_plan{experts}.trainable(model_->inventory()); }

  /// LoRA beside every linear map, of the rank that comes closest to as many trained elements.
  [[nodiscard]] trainable_set lora_set(std::int64_t budget) const {
    const parameter_inventory model = model_->inventory();
    lora_plan plan{{.rank = 1, .seed = options_.seed}};
    const std::int64_t per_rank = trained_elements(plan.trainable(model), model);
    plan.how.rank = std::max<std::int64_t>(1, (budget + per_rank / 2) / per_rank);
    plan.how.alpha = 2 * static_cast<double>(plan.how.rank);
    return plan.trainable(model);
  }

  [[nodiscard]] std::vector<run_spec> specs() const {
    const trainable_set everything = full_plan{}.trainable(model_->inventory());
    std::vector<run_spec> list;
    list.push_back({"esft-token", "", 3e-3, esft_set(by_token_), false});
    list.push_back({"esft-gate", "", 3e-3, esft_set(by_gate_), false});
    for (int draw = 1; draw <= options_.draws; ++draw)
      list.push_back({"random", "draw " + std::to_string(draw), 3e-3, esft_set(random(draw)), false});
    list.push_back({"full", "", 1e-3, everything, false});
    const trainable_set lora = lora_set(trained_elements(esft_set(by_token_), model_->inventory()));
    list.push_back({"lora", "", 3e-3, lora, false});
    list.push_back({"esft-token", "", 1e-3, esft_set(by_token_), true});
    list.push_back({"full", "", 3e-4, everything, true});
    list.push_back({"esft-token", "", 6e-3, esft_set(by_token_), true});
    list.push_back({"lora", "", 1e-2, lora, true});
    list.push_back({"full", "", 3e-3, everything, true});
    return list;
  }
  [[nodiscard]] expert_set random(int draw) const {
    return random_like({by_token_, options_.seed, static_cast<std::uint32_t>(draw)}).select(scores_.at(options_.task).token);
  }

  void train() {
    out().line(formatted("3 train    %lld steps of %zu x %zu tokens, the same batches for every arm",
                         static_cast<long long>(options_.steps), options_.rows, options_.length));
    model_->remember();
    before_ = model_->measure(data_, domains_);
    std::filesystem::remove(options_.out / "metrics.jsonl");
    jsonl_writer metrics(options_.out / "metrics.jsonl");
    for (const run_spec& spec : specs()) {
      if (spec.extra && elapsed() > options_.seconds) {
        out().line(
            formatted("           %s at rate %.0e left out: %.0f s have passed (--seconds)", spec.arm.c_str(), spec.rate, elapsed()));
        continue;
      }
      model_->restore();
      trainer_options how;
      how.learning_rate = spec.rate;
      how.schedule = [span = schedule_span{3, options_.steps, 0.1}](std::int64_t step) { return cosine_schedule{span}.factor(step); };
      const std::string name = spec.arm + (spec.variant.empty() ? "" : " " + spec.variant);
      const arm_measurement result = model_->run_arm(spec.trainable, data_, domains_, how, options_.steps, [&](const step_report& step) {
        json_value line = json_object();
        line.add("arm", name).add("rate", spec.rate).add("step", step.step).add("loss", step.loss).add("gradient_norm", step.gradient_norm);
        line.add("skipped", step.skipped).add("seconds", step.seconds);
        metrics.write(line);
      });
      const snapshot_difference changed = model_->changes();
      frozen_moved_ += changed.frozen_changed;
      trained_still_ += changed.trained_unchanged;
      out().line(formatted("           %-16s rate %.0e   loss %.4f -> %.4f   exact %.1f %%   %.3f s/step", name.c_str(), spec.rate,
                           before_.loss, result.after.loss, 100 * result.after.exact_match, result.seconds_per_step));
      std::fflush(stdout);
      add_result(spec, name, result);
      if (spec.arm == "esft-token" && !spec.extra) save_adapter();
    }
    model_->restore();
  }

  void add_result(const run_spec& spec, const std::string& name, const arm_measurement& result) {
    arm_result row{spec.arm,
                   spec.variant,
                   spec.rate,
                   result.after.loss,
                   result.after.exact_match,
                   {},
                   result.trained_parameters,
                   result.state_bytes,
                   result.seconds_per_step,
                   result.trained_parameters * static_cast<std::int64_t>(size_of(model_->config().storage))};
    for (const auto& [domain, loss] : result.after.domain_loss) row.forgotten[domain] = loss - before_.domain_loss.at(domain);
    rows_.push_back(row);
    curve line{name + (spec.extra ? " " + std::to_string(spec.rate) : ""), {}, {}};
    for (const auto& [step, loss] : result.training_loss) line.points.push_back({step, loss});
    curves_.push_back(std::move(line));
  }

  void save_adapter() {
    adapter_manifest manifest;
    manifest.method = "esft";
    manifest.base_digest = model_->base().digest();
    manifest.planned = model_->planned_names(esft_set(by_token_));
    manifest.experts = {by_token_, false, false};
    model_->write_trained(options_.out / "adapter", manifest);
    trained_loss_ = model_->loss(sequence_of(data_.test)).loss;
  }

  bool prove() {
    const auto adapter = options_.out / "adapter";
    const auto merged = options_.out / "merged";
    std::filesystem::remove_all(merged);
    merge_adapter(options_.model.model, adapter, merged);
    const receipt proof = verify_adapter(options_.model.model, adapter, merged);
    save_receipt(options_.out / "receipt.json", proof);
    const auto check = [&](bool holds, const std::string& sentence) { receipt_.emplace_back(holds, sentence); };
    check(proof.ok(),
          "planned = changed = saved: " + std::to_string(proof.saved) + " tensors of " + std::to_string(by_token_.size()) + " experts");
    check(proof.ok(), "every other tensor of the merged model is byte-identical to the base (" +
                          std::to_string(proof.frozen_identical.value_or(0)) + ", SHA-256)");
    check(frozen_moved_ == 0, "no arm moved a single bit of what it had frozen");
    check(trained_still_ == 0, "every trained expert and tensor of every arm changed");
    engine_request reloaded = options_.model;
    reloaded.model = merged;
    const double reloaded_loss = open_engine(reloaded)->loss(sequence_of(data_.test)).loss;
    check(reloaded_loss == trained_loss_, "merged and reloaded, the model has the loss of the trained one, bit for bit");
    out().line("4 verify");
    bool all = true;
    for (const auto& [holds, sentence] : receipt_) {
      out().line(formatted("           %s %s", holds ? "ok  " : "FAIL", sentence.c_str()));
      all = all && holds;
    }
    return all;
  }

  void print_table() const {
    out().line();
    out().line(formatted("%-12s %-7s %6s %9s %7s %9s %9s %10s %8s %10s", "arm", "", "rate", "task loss", "exact", "forgotten", "trained",
                         "state", "s/step", "adapter"));
    out().line(formatted("%-12s %-7s %6s %9s %7s %9s %9s %10s %8s %10s", "", "", "", "nats/byte", "%", "nats/byte", "params", "bytes", "",
                         "bytes"));
    out().line(formatted("%-12s %-7s %6s %9.4f %7.1f %9s %9s %10s %8s %10s", "base", "", "", before_.loss, 100 * before_.exact_match, "-",
                         "-", "-", "-", "-"));
    for (const arm_result& row : rows_) {
      out().line(formatted("%-12s %-7s %6.0e %9.4f %7.1f %9.4f %9lld %10lld %8.3f %10lld", row.arm.c_str(), row.variant.c_str(),
                           row.learning_rate, row.task_loss, 100 * row.exact_match.value_or(0), row.mean_forgotten(),
                           static_cast<long long>(row.trained_parameters), static_cast<long long>(row.state_bytes), row.seconds_per_step,
                           static_cast<long long>(row.adapter_bytes)));
    }
    out().line();
    for (const std::string& sentence : findings()) out().line(sentence);
  }

  [[nodiscard]] const arm_result* first(const std::string& arm) const {
    const auto found = std::find_if(rows_.begin(), rows_.end(), [&](const arm_result& row) { return row.arm == arm; });
    return found == rows_.end() ? nullptr : &*found;
  }

  // What the numbers say, in words chosen by the numbers.
  [[nodiscard]] std::vector<std::string> findings() const {
    std::vector<std::string> lines;
    const arm_result* token = first("esft-token");
    const arm_result* full = first("full");
    if (token == nullptr || full == nullptr) return lines;
    std::vector<double> random;
    for (const arm_result& row : rows_) {
      if (row.arm == "random") random.push_back(row.task_loss);
    }
    const double best_random = random.empty() ? 0 : *std::min_element(random.begin(), random.end());
    if (!random.empty()) {
      lines.push_back(
          token->task_loss < best_random
              ? formatted("ESFT by token score beats every random draw of as many experts: task loss %.4f against %.4f at best.",
                          token->task_loss, best_random)
              : formatted("ESFT by token score is NOT better than random experts here: task loss %.4f, best random draw %.4f.",
                          token->task_loss, best_random));
    }
    lines.push_back(formatted(
        "ESFT trains %.1f %% of the parameters with %.1f %% of the training state of full fine-tuning, in %.2f of its time per step.",
        100.0 * static_cast<double>(token->trained_parameters) / static_cast<double>(full->trained_parameters),
        100.0 * static_cast<double>(token->state_bytes) / static_cast<double>(full->state_bytes),
        token->seconds_per_step / full->seconds_per_step));
    for (const arm_result& run : rows_) {  // is a run of ESFT beaten on both axes by a run of full fine-tuning?
      if (run.arm != "esft-token") continue;
      const auto ahead = std::find_if(rows_.begin(), rows_.end(), [&](const arm_result& other) {
        return other.arm == "full" && other.task_loss <= run.task_loss && other.mean_forgotten() <= run.mean_forgotten();
      });
      lines.push_back(
          ahead == rows_.end()
              ? formatted("ESFT at %.0e (task loss %.4f, forgotten %.4f): no run of full fine-tuning here is better on both.",
                          run.learning_rate, run.task_loss, run.mean_forgotten())
              : formatted("ESFT at %.0e (task loss %.4f, forgotten %.4f) is beaten on both by full fine-tuning at %.0e (%.4f, %.4f): "
                          "what it saves here is parameters, state, time and files.",
                          run.learning_rate, run.task_loss, run.mean_forgotten(), ahead->learning_rate, ahead->task_loss,
                          ahead->mean_forgotten()));
    }
    return lines;
  }

  [[nodiscard]] domain_overlap overlaps() const {
    domain_overlap result;
    result.domains = domains;
    result.domains.insert(result.domains.end(), tasks.begin(), tasks.end());
    result.top = static_cast<std::size_t>(model_->config().active);
    result.by_chance = shared_by_chance(result.top, static_cast<std::size_t>(model_->config().experts));
    std::vector<score_table> tables;
    for (const std::string& name : result.domains) tables.push_back(scores_.at(name).token);
    result.shared = shared_top_experts(tables, result.top);
    return result;
  }

  void report() const {
    comparison page;
    page.title = "esft: which experts does " + options_.task + " need?";
    page.subtitle = "Several ways to fine-tune the bundled model, from the same seed and the same data order";
    page.facts = {{"model", options_.model.model.string()}, {"base digest", model_->base().digest()}, {"task", options_.task},
                  {"seed", std::to_string(options_.seed)},  {"backend", model_->description()},       {"version", ESFT_VERSION_STRING}};
    page.findings = findings();
    page.base_task_loss = before_.loss;
    page.base_exact_match = before_.exact_match;
    page.total_parameters = total_parameters();
    page.arms = rows_;
    for (const std::string& name : tasks) {
      page.relevance.push_back(
          {name, "token", "share of routing slots", scores_.at(name).token, top_p({.p = 0.2}).select(scores_.at(name).token), 0.2});
    }
    page.relevance.push_back({options_.task, "gate", "mean gate weight", scores_.at(options_.task).gate, by_gate_, 0.1});
    page.overlap = overlaps();
    page.losses = curves_;
    page.receipt = receipt_;
    page.limits = {
        "A toy: a few million parameters, byte-level, a few minutes. Nothing here says how a model of billions of parameters behaves.",
        "One seed and one data order per run; the random arm alone has several draws. Small differences mean nothing.",
        "Each arm's learning rate matters more than the arm: compare along the curve of several rates, not at one point."};
    page.config = {{"steps", std::to_string(options_.steps)},
                   {"batch", std::to_string(options_.rows) + " x " + std::to_string(options_.length) + " tokens"},
                   {"schedule", "cosine to 0.1 after 3 steps of warm-up"},
                   {"optimizer", "AdamW, betas 0.9 0.95, no weight decay, clip 1.0"}};
    write_file_atomically(options_.out / "report.html", render_html(comparison_report(page)));
    out().line();
    out().line(formatted("report  %s   adapter %s   metrics %s   %.0f s in all", (options_.out / "report.html").string().c_str(),
                         (options_.out / "adapter").string().c_str(), (options_.out / "metrics.jsonl").string().c_str(), elapsed()));
  }

  [[nodiscard]] json_value result(bool proved) const {
    json_value arms = json_array();
    for (const arm_result& row : rows_) {
      json_value arm = json_object();
      arm.add("arm", row.arm).add("variant", row.variant).add("rate", row.learning_rate).add("task_loss", row.task_loss);
      arm.add("exact", row.exact_match.value_or(0))
          .add("forgotten", row.mean_forgotten())
          .add("trained_parameters", row.trained_parameters);
      arm.add("state_bytes", row.state_bytes).add("seconds_per_step", row.seconds_per_step).add("adapter_bytes", row.adapter_bytes);
      arms.push(std::move(arm));
    }
    json_value lines = json_array();
    for (const std::string& sentence : findings()) lines.push(sentence);
    json_value root = json_object();
    root.add("task", options_.task).add("base_loss", before_.loss).add("base_exact", before_.exact_match).add("arms", std::move(arms));
    root.add("findings", std::move(lines)).add("proved", proved).add("seconds", elapsed());
    root.add("report", (options_.out / "report.html").string()).add("adapter", (options_.out / "adapter").string());
    return root.add("metrics", (options_.out / "metrics.jsonl").string());
  }

  demo_options options_;
  task_folder folder_;
  std::unique_ptr<engine> model_;
  task_data data_;
  std::chrono::steady_clock::time_point start_;
  domain_batches domains_;
  std::map<std::string, relevance_scores> scores_;
  expert_set by_token_, by_gate_;
  task_measurement before_;
  std::vector<arm_result> rows_;
  std::vector<curve> curves_;
  std::vector<std::pair<bool, std::string>> receipt_;
  std::size_t frozen_moved_ = 0;
  std::size_t trained_still_ = 0;
  double trained_loss_ = 0;
};

}  // namespace

void add_demo(CLI::App& app) {
  auto options = std::make_shared<demo_options>();
  CLI::App* command = app.add_subcommand("demo", "Run the whole pipeline on the bundled model and write a report");
  command->add_option("--model", options->model.model, "model directory")->capture_default_str();
  add_backend_options(*command, options->model);
  command->add_option("--data", options->data, "folder of tasks and probes")->capture_default_str();
  command->add_option("--out", options->out, "folder to write")->capture_default_str();
  command->add_option("--task", options->task, "task to fine-tune on")->check(CLI::IsMember(tasks))->capture_default_str();
  command->add_option("--steps", options->steps, "optimizer steps per arm")->check(positive_number)->capture_default_str();
  command->add_option("--batch-rows", options->rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--seed", options->seed, "of the data order, random selections and factors")->capture_default_str();
  command->add_option("--draws", options->draws, "random selections to compare with")->capture_default_str();
  command->add_option("--seconds", options->seconds, "no further learning rates after this time")->capture_default_str();
  command->callback([options] { throw finished{demo(*options).run()}; });
}

}  // namespace esft::tool
