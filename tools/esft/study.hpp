// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A matrix of fine-tuning runs: which experts, trained how, from which seeds and at which learning rates.

#include "engine.hpp"
#include "hilo_choice.hpp"
#include "task_folder.hpp"

#include <esft/analysis/comparison.hpp>
#include <esft/analysis/mean_and_spread.hpp>
#include <esft/core/low_rank.hpp>
#include <esft/optim/optimizers/adamw.hpp>
#include <esft/selection/policy_arguments.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace esft::tool {

/// One way to fine-tune. Arms that choose experts name a scorer and a policy; `full`, `hilo`, `lora` without a policy, and `esft` of only
/// shared experts or modules that are no experts choose none.
struct study_arm {
  std::string name{};
  std::string method = "esft";  ///< the name of a plan
  std::string scorer{};         ///< empty: no experts are chosen
  std::string policy{};
  std::string tokens = "all";  ///< which tokens of the sample are scored: all, or those that predict the answer
  policy_arguments given{};
  std::string like{};     ///< an arm whose selection the policy imitates, or whose trained parameters decide a rank or a budget
  std::string factors{};  ///< hybrid: an arm; those of its experts that are not trained whole get factors
  std::string mix{};      ///< rows of the task to rows of the study's alignment data, such as 3:1; empty: none of these
  bool shared_experts = false;
  bool non_expert_modules = false;
  low_rank_options how{};
  hilo_request hilo{};
  std::vector<std::string> targets{};
  std::vector<double> rates{};  ///< instead of the study's
  bool run = true;              ///< false: the arm is there for others to name, and nothing is trained for itself
};

/// The whole matrix: tasks x arms x seeds x rates.
struct study_settings {
  engine_request model;
  std::filesystem::path data, out;
  std::string alignment{};  ///< file of `data` with general text that arms may mix in
  std::vector<std::string> tasks, domains;
  std::vector<std::string> only{};  ///< tasks whose runs are made here, where several machines share a study; empty: all
  std::vector<std::uint64_t> seeds{1};
  std::vector<double> rates{1e-3};
  std::vector<study_arm> arms;
  std::vector<arm_panel> panels{};    ///< charts of the report, where one of all arms would hold too many
  std::vector<std::string> limits{};  ///< what the report must say that was left out
  std::int64_t steps = 60;
  std::int64_t warmup = 3;
  double final_factor = 0.1;
  double weight_decay = adamw_options{}.weight_decay;
  std::size_t rows = 8;
  std::size_t length = 256;
  std::size_t score_tokens = 8192;
  std::size_t probe_tokens = 8192;
};

/// What one run measured. All but the time follow from the settings, bit for bit.
struct study_run {
  std::string task, arm;
  std::uint64_t seed = 0;
  double rate = 0;
  double base_loss = 0, loss = 0;
  double base_exact = 0, exact = 0;
  std::map<std::string, double> forgotten;  ///< domain -> rise of its loss
  std::size_t experts = 0;                  ///< selected
  std::int64_t trained_parameters = 0, state_bytes = 0, skipped = 0;
  std::size_t frozen_moved = 0, trained_still = 0;  ///< parameters: both must be none
  double seconds_per_step = 0;
  bool diverged = false;  ///< the loss ended as no number: nothing else is known of this run

  [[nodiscard]] double gain() const { return base_loss - loss; }
  [[nodiscard]] double mean_forgotten() const;
};

/// Runs what is missing of the matrix and writes the tables and the report (`write_study`) into `settings.out`; with `only`, what is
/// missing of those tasks, and no tables. A run that diverges stops no other: it is named, kept as such, and in no table.
/// @throws usage_error for settings that mean nothing, and where the folder holds runs of other settings
std::vector<study_run> run_study(const study_settings& settings);

/// Writes runs.csv, table.csv and matched.csv, which are the same bits whenever the study is; times.csv, seconds a step of every run;
/// table_with_times.csv, everything that table.csv has and the seconds; and report.html.
/// @param parameters of the whole model
void write_study(const study_settings& settings, const std::vector<study_run>& runs, std::int64_t parameters);

/// Means and standard deviations over runs that differ by seed only.
struct study_row {
  std::string task, arm;
  double rate = 0;
  std::size_t seeds = 0, experts = 0;  ///< experts: of the first seed
  mean_spread gain, exact, forgotten, trained_parameters, state_bytes, seconds;
};
[[nodiscard]] std::vector<study_row> study_table(const std::vector<study_run>& runs);
void print_study(const std::vector<study_row>& table);

/// Runs a study, prints its table and what the receipts say.
/// @throws finished where a frozen parameter moved, or a planned one did not change
void run_and_print(const study_settings& settings);

}  // namespace esft::tool
