// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The flags of the plan hilo, and the numbers, ranks and active counts of low-rank experts that they ask for.

#include "number_checks.hpp"

#include <esft/peft/low_rank_allocation.hpp>
#include <esft/peft/plans/hilo.hpp>
#include <esft/train/layer_tails.hpp>

#include <CLI/App.hpp>

#include <array>
#include <cstdint>
#include <set>
#include <string>

namespace esft::tool {

/// What was asked for.
struct hilo_request {
  std::string experts = "4";
  std::string ranks = "8";
  std::string active = "2";
  int null_experts = 0;
  double balance = 0;
  std::int64_t budget = 0;    ///< parameters; 0: numbers and ranks are as given
  bool or_least = false;      ///< a budget that does not pay for the least everywhere is that then, not an error
  std::string grow = "experts";
  std::int64_t spectrum = 0;  ///< low-rank experts of a matrix over all layers; 0: not by spectra
  double exponent = 2.5;
};

inline constexpr std::array<const char*, 9> hilo_flags{"--lora-experts", "--ranks",     "--active",    "--null-experts",
                                                       "--lora-balance", "--lora-budget", "--lora-grow", "--lora-spectrum",
                                                       "--spectrum-exponent"};

inline void add_hilo_options(CLI::App& command, hilo_request& request) {
  command.add_option("--lora-experts", request.experts,
                     "hilo: low-rank experts of a matrix, bottom to top: 2,4,6,8 or 2468 for quarters of the layers, or MoLA's triangle, "
                     "inverted-triangle, hourglass, rectangle")
      ->capture_default_str();
  command.add_option("--ranks", request.ranks, "hilo: their ranks, bottom to top, such as 8,8,4,4")->capture_default_str();
  command.add_option("--active", request.active, "hilo: how many of them a token uses, bottom to top, null experts counted")
      ->capture_default_str();
  command.add_option("--null-experts", request.null_experts, "hilo: further choices of each router that add nothing (AdaMoE)")
      ->check(non_negative_number)
      ->capture_default_str();
  command.add_option("--lora-balance", request.balance, "hilo: coefficient of the balance loss of each router of low-rank experts")
      ->check(non_negative_number)
      ->capture_default_str();
  command.add_option("--lora-budget", request.budget, "hilo: trained parameters to spend, more of them the higher the layer")
      ->check(positive_number);
  command.add_option("--lora-grow", request.grow, "hilo: what --lora-budget pays for, the other one is as given")
      ->check(CLI::IsMember({"experts", "ranks"}))
      ->capture_default_str();
  command.add_option("--lora-spectrum", request.spectrum,
                     "hilo: low-rank experts over all layers, shared out by the spectra of the weights (AlphaLoRA)")
      ->check(positive_number);
  command.add_option("--spectrum-exponent", request.exponent, "hilo: how strongly --lora-spectrum tells layers apart")
      ->check(non_negative_number)
      ->capture_default_str();
}

/// The plan, with numbers or ranks found where a budget or the spectra decide.
[[nodiscard]] inline hilo_plan make_hilo_plan(const hilo_request& request, const low_rank_options& how,
                                              const std::set<parameter_role>& targets, const parameter_inventory& model,
                                              const model_directory& base) {
  hilo_plan plan{how,
                 parse_layer_pattern(request.experts),
                 parse_layer_pattern(request.ranks),
                 parse_layer_pattern(request.active),
                 request.null_experts,
                 request.balance,
                 targets};
  if (request.budget > 0 && request.spectrum > 0)
    throw usage_error("--lora-budget and --lora-spectrum both decide the numbers: choose one");
  if (request.spectrum > 0) {
    plan.low_rank_experts = allocate_by_quality(layer_tails(base, model, targets), request.exponent, request.spectrum);
  }
  if (request.budget > 0) {
    const std::vector<low_rank_extent> costs = low_rank_extents(model, targets);
    const layer_pattern n = spread(plan.low_rank_experts, costs.size());
    const layer_pattern r = spread(plan.ranks, costs.size());
    const auto grown = [&](std::int64_t least, auto&& cost) {
      std::int64_t budget = 0;
      for (std::size_t l = 0; request.or_least && l < costs.size(); ++l) budget += cost(l, least);
      constexpr std::int64_t most = 64;
      return grow_with_depth(costs.size(), least, std::max(least, most), std::max(budget, request.budget), cost);
    };
    if (request.grow == "experts") {
      const layer_pattern k = spread(plan.active, costs.size());
      plan.low_rank_experts = grown(std::max<std::int64_t>(1, *std::max_element(k.begin(), k.end()) - plan.null_experts),
                                    [&](std::size_t l, std::int64_t x) { return costs[l].elements(x, r[l], plan.null_experts); });
    } else {
      plan.ranks = grown(1, [&](std::size_t l, std::int64_t x) { return costs[l].elements(n[l], x, plan.null_experts); });
    }
  }
  return plan;
}

}  // namespace esft::tool
