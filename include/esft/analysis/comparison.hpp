// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `comparison`: what an experiment with several ways of fine-tuning measured, as plain data.

#include <esft/analysis/charts/line_chart.hpp>
#include <esft/analysis/report.hpp>
#include <esft/core/expert_set.hpp>
#include <esft/core/score_table.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace esft {

/// One training run of an arm. A loss that is not finite means that the run diverged; it is shown as such.
struct arm_result {
  std::string arm;      ///< "esft-token"; runs of one arm share colour and marker
  std::string variant;  ///< what tells runs of one arm apart besides the learning rate: "draw 2", "seed 7"
  double learning_rate = 0;
  double task_loss = 0;                     ///< after training, on held-out task data @unit comparison::loss_unit
  std::optional<double> exact_match;        ///< @unit share in [0, 1]
  std::map<std::string, double> forgotten;  ///< domain -> rise of its loss over the base model's @unit comparison::loss_unit
  std::int64_t trained_parameters = 0;
  std::int64_t state_bytes = 0;  ///< optimizer state, gradients and master weights
  double seconds_per_step = 0;
  std::int64_t adapter_bytes = 0;

  /// Mean rise over the domains; NaN where none was measured.
  [[nodiscard]] double mean_forgotten() const {
    double sum = 0;
    for (const auto& [domain, rise] : forgotten) sum += rise;
    return forgotten.empty() ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(forgotten.size());
  }
};

/// Relevance of the experts to one task under one score, and what was selected from it.
struct relevance_map {
  std::string task;
  std::string score;  ///< "token" or "gate"
  std::string unit;   ///< "share of routing slots"
  score_table scores;
  expert_set selected;
  std::optional<double> p;  ///< threshold of the selection, where it had one
};

/// Shared top experts between domains.
struct domain_overlap {
  std::vector<std::string> domains;
  std::vector<std::vector<double>> shared;  ///< @shape [N, N] mean number of shared experts per layer
  std::size_t top = 0;                      ///< how many top experts were compared
  double by_chance = 0;                     ///< what random choices would share
};

/// Arms that share a chart of the trade-off.
struct arm_panel {
  std::string title;
  std::vector<std::string> arms;
};

/// Everything that the comparison report shows. Empty parts are left out of the page.
struct comparison {
  std::string title;
  std::string subtitle;
  std::vector<report_fact> facts;  ///< model, task, seed, backend, version
  std::string loss_unit = "nats per byte";
  std::vector<std::string> findings;  ///< what the numbers say, in sentences, bad news included
  double base_task_loss = std::numeric_limits<double>::quiet_NaN();
  std::optional<double> base_exact_match;
  std::int64_t total_parameters = 0;
  std::vector<arm_result> arms;   ///< in the order of the table
  std::vector<arm_panel> panels;  ///< charts of the trade-off, on the same axes, where one of all arms would hold too many; empty: one
  std::vector<relevance_map> relevance;
  domain_overlap overlap;
  std::vector<curve> losses;                          ///< x: step, y: training loss; a name that begins with an arm's gets its colour
  std::vector<std::pair<bool, std::string>> receipt;  ///< what was proved about the trained files
  std::vector<std::string> limits;                    ///< what must not be concluded from this page
  std::vector<report_fact> config;                    ///< settings that make the run again
};

}  // namespace esft
