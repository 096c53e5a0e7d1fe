// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `top_p`: per layer, the shortest prefix of the experts in falling score order whose cumulative score reaches p.

#include <esft/core/error.hpp>
#include <esft/core/int128.hpp>
#include <esft/core/ranking.hpp>
#include <esft/selection/normalization.hpp>
#include <esft/selection/policy.hpp>
#include <esft/selection/policy_arguments.hpp>
#include <esft/selection/rounding.hpp>
#include <esft/selection/score_check.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace esft {

/// Options of `top_p`. Usual values: p = 0.2 for token scores, 0.1 for gate scores.
struct top_p_options {
  double p = 0.2;                                              ///< threshold in (0, 1]; official_compat also takes 0, which selects nothing
  threshold_mode mode = threshold_mode::exact;
  score_normalization normalization = score_normalization::none;
  bool round_scores = false;                                   ///< round to 4 decimals first, as the official score files are
  int min_experts = 0;                                         ///< at least this many per layer, even without evidence
  int max_experts = 0;                                         ///< at most this many per layer; 0 = no limit
};

/// The selection rule of ESFT. A layer whose scores sum to less than p gives all experts that have evidence.
/// @eq min |E_s| such that sum_{e in E_s} R_e >= p, E_s a prefix of the falling order
/// @source "Let the Expert Stick to His Last" (arXiv 2407.01906) eq. 8
/// @deviation exact mode repairs the float64 sum of the official loop: scores .4,.3,.2,.1 with p = .9 give three experts, not four
/// (tests/selection/oracles.cpp)
class top_p {
 public:
  static constexpr std::string_view name = "top-p";
  static constexpr bool compares_p = true;
  static constexpr std::array<std::string_view, 5> takes{"p", "mode", "normalization", "min-experts", "max-experts"};

  /// @throws usage_error for options that mean nothing
  explicit top_p(top_p_options options = {}) : options_(options) {
    const bool zero_allowed = options_.mode == threshold_mode::official_compat;
    if (!(options_.p <= 1.0 && (options_.p > 0.0 || (zero_allowed && options_.p == 0.0)))) {
      throw usage_error("top-p: p = " + std::to_string(options_.p) +
                        " is not in (0, 1]; usual values are 0.2 for token and 0.1 for gate scores");
    }
    if (options_.min_experts < 0 || options_.max_experts < 0 || (options_.max_experts > 0 && options_.min_experts > options_.max_experts)) {
      throw usage_error("top-p: min_experts = " + std::to_string(options_.min_experts) + " and max_experts = " +
                        std::to_string(options_.max_experts) + " leave no number of experts to select");
    }
  }

  [[nodiscard]] static top_p from(const policy_arguments& given) {
    return top_p({.p = given.p.value_or(0.2),
                  .mode = given.mode,
                  .normalization = given.normalization.value_or(score_normalization::none),
                  .min_experts = given.min_experts,
                  .max_experts = given.max_experts});
  }

  [[nodiscard]] const top_p_options& options() const noexcept { return options_; }

  /// @throws error (bad_input) for a broken table, and in exact mode for a layer without any evidence
  [[nodiscard]] expert_set select(const score_table& table) const {
    check_scores(table);
    expert_set selected;
    for (const auto& [which, layer] : table.layers) {
      selected.layers[which] = select_layer(which, options_.round_scores ? round_to_4_decimals(layer) : layer);
    }
    return selected;
  }

 private:
  [[nodiscard]] std::vector<expert_index> select_layer(layer_index which, const layer_scores& layer) const {
    const bool integers = options_.mode == threshold_mode::exact && !layer.counts.empty();
    std::vector<expert_index> order = integers ? descending_order(std::span<const std::int64_t>(layer.counts))
                                               : descending_order(std::span<const double>(layer.scores));
    std::size_t length = options_.mode == threshold_mode::official_compat ? official_length(layer, order)
                         : integers                                       ? integer_length(which, layer, order)
                                                                          : tolerant_length(which, layer, order);
    length = std::max(length, static_cast<std::size_t>(options_.min_experts));
    if (options_.max_experts > 0) length = std::min(length, static_cast<std::size_t>(options_.max_experts));
    order.resize(std::min(length, order.size()));
    return order;
  }

  /// sum(counts) / total >= p without any rounding; p is read as the decimal number with 9 places that it was meant to be.
  [[nodiscard]] std::size_t integer_length(layer_index which, const layer_scores& layer, const std::vector<expert_index>& order) const {
    const int128 scale = 1'000'000'000;
    const int128 p = std::max<std::int64_t>(1, std::llround(static_cast<long double>(options_.p) * 1e9L));
    int128 sum = 0;  // counts of a file may add up beyond 63 bits
    for (const std::int64_t count : layer.counts) sum += count;
    if (sum == 0) refuse_without_evidence(name, which);
    const int128 whole = options_.normalization == score_normalization::layer_sum ? sum : layer.total_count;
    int128 cumulative = 0;
    std::size_t length = 0;
    while (length < order.size() && cumulative * scale < p * whole) {
      const std::int64_t count = layer.counts[static_cast<std::size_t>(order[length].value)];
      if (count == 0) break;
      cumulative += count;
      ++length;
    }
    return length;
  }

  [[nodiscard]] std::size_t tolerant_length(layer_index which, const layer_scores& layer, const std::vector<expert_index>& order) const {
    const double sum = score_sum(layer, order);
    if (sum == 0) refuse_without_evidence(name, which);
    const double whole = options_.normalization == score_normalization::layer_sum ? sum : 1.0;
    double cumulative = 0;
    std::size_t length = 0;
    while (length < order.size() && (length == 0 || cumulative < (options_.p - 1e-9) * whole)) {
      const double score = layer.scores[static_cast<std::size_t>(order[length].value)];
      if (score == 0) break;
      cumulative += score;
      ++length;
    }
    return length;
  }

  /// Test first, then take: the running float64 sum starts at 0 and an expert is taken while it is below p.
  [[nodiscard]] std::size_t official_length(const layer_scores& layer, const std::vector<expert_index>& order) const {
    const double whole = options_.normalization == score_normalization::layer_sum
                             ? std::accumulate(layer.scores.begin(), layer.scores.end(), 0.0)
                             : 1.0;
    double cumulative = 0;
    std::size_t length = 0;
    while (length < order.size() && !(cumulative >= options_.p * whole)) {
      cumulative += layer.scores[static_cast<std::size_t>(order[length].value)];
      ++length;
    }
    return length;
  }

  top_p_options options_;
};

}  // namespace esft
