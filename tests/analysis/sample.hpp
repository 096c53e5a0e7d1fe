// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A comparison with every part filled, for tests of the report.

#include <esft/analysis/comparison.hpp>
#include <esft/analysis/overlap.hpp>
#include <esft/core/rng.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace esft_test {

/// Skewed scores that sum to 1 per layer.
inline esft::score_table sample_scores(std::uint64_t seed, std::int32_t first, std::int32_t layers, int experts) {
  esft::score_table table;
  for (std::int32_t l = first; l < first + layers; ++l) {
    const esft::counter_rng rng(seed, esft::rng_stream::test, static_cast<std::uint64_t>(l));
    auto& layer = table.layers[esft::layer_index(l)];
    double sum = 0;
    for (int e = 0; e < experts; ++e) {
      layer.scores.push_back(std::pow(rng.uniform(static_cast<std::uint64_t>(e)), 5.0) + 0.004);
      sum += layer.scores.back();
    }
    for (double& score : layer.scores) score /= sum;
  }
  table.tokens = 131072;
  return table;
}

inline esft::comparison sample_comparison(std::int32_t layers = 4, int experts = 32) {
  esft::comparison c;
  c.title = "ESFT on package stanzas";
  c.subtitle = "byte-moe 3.6M, package stanza to JSON, seed 7";
  c.facts = {{"model", "byte-moe, 4 MoE layers, 32 experts, top-4"},
             {"task", "stanza to JSON, 20 000 rows"},
             {"seed", "7"},
             {"backend", "eigen, 2 threads"},
             {"version", "0.1.0"}};
  c.findings = {"At equal task loss esft-token forgot 12 % less than full fine-tuning, with 8 % of its optimizer state.",
                "Random experts of the same number reached a higher task loss in all three draws."};
  c.base_task_loss = 2.265;
  c.base_exact_match = 0.0;
  c.total_parameters = 3'590'000;
  const std::vector<std::string> domains{"scripture-en", "scripture-es", "python", "licences", "packages", "arithmetic"};
  const auto run = [&](std::string arm, std::string variant, double rate, double loss, double match, double forgot, std::int64_t trained,
                       double step) {
    esft::arm_result r{std::move(arm), std::move(variant), rate, loss, match, {}, trained, trained * 16, step, trained * 2 + 4096};
    for (std::size_t d = 0; d < domains.size(); ++d) r.forgotten[domains[d]] = forgot * (0.4 + 0.24 * static_cast<double>(d));
    c.arms.push_back(std::move(r));
  };
  run("esft-token", "", 1e-3, 1.121, .31, .021, 290'000, .142);
  run("esft-token", "", 3e-3, .917, .46, .059, 290'000, .143);
  run("esft-token", "", 1e-2, .861, .48, .131, 290'000, .142);
  run("esft-gate", "", 1e-3, 1.144, .30, .023, 270'000, .139);
  run("esft-gate", "", 3e-3, .938, .44, .061, 270'000, .140);
  run("random", "draw 1", 3e-3, 1.108, .33, .097, 290'000, .144);
  run("random", "draw 2", 3e-3, 1.190, .29, .091, 290'000, .143);
  run("random", "draw 3", 3e-3, 1.034, .38, .101, 290'000, .143);
  run("full", "", 1e-4, 1.011, .41, .041, 3'590'000, .209);
  run("full", "", 3e-4, .841, .50, .083, 3'590'000, .208);
  run("full", "", 1e-3, .760, .55, .271, 3'590'000, .209);
  run("full", "", 1e-2, std::nan(""), 0, .9, 3'590'000, .208);
  for (const std::string score : {"token", "gate"}) {
    esft::relevance_map map{"stanza to JSON",
                            score,
                            score == "token" ? "share of routing slots" : "mean gate weight",
                            sample_scores(score == "token" ? 1 : 2, 0, layers, experts),
                            {},
                            .2};
    map.selected = esft::top_experts(map.scores, 3);
    c.relevance.push_back(std::move(map));
  }
  std::vector<esft::score_table> tables;
  for (std::uint64_t d = 0; d < domains.size(); ++d) tables.push_back(sample_scores(10 + d, 0, 4, 32));
  c.overlap = {domains, esft::shared_top_experts(tables, 4), 4, esft::shared_by_chance(4, 32)};
  for (const std::string name : {"esft-token", "esft-gate", "random, draw 1", "random, draw 2", "random, draw 3", "full, lr 0.0003"}) {
    esft::curve line{name, {}, {}};
    const esft::counter_rng rng(c.losses.size(), esft::rng_stream::test);
    for (std::uint64_t s = 1; s <= 250; ++s) {
      line.points.push_back({static_cast<double>(s), 0.9 + 0.05 * static_cast<double>(c.losses.size()) +
                                                         1.4 * std::exp(-static_cast<double>(s) / 40) + 0.05 * rng.normal(s)});
    }
    c.losses.push_back(std::move(line));
  }
  c.receipt = {{true, "12 of 128 experts changed, exactly those that were planned"},
               {true, "116 experts, router, attention, embeddings: byte-identical (SHA-256)"},
               {false, "layer 2, expert 9: selected, but it received no token"}};
  c.limits = {"One task, one seed, a model of 3.6 million parameters. Nothing here says what happens at 16 billion."};
  c.config = {{"steps", "250"}, {"batch", "16 x 256 bytes"}, {"optimizer", "AdamW, betas 0.9 0.95, weight decay 0.1"}};
  return c;
}

}  // namespace esft_test
