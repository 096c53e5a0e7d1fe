// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `round_to_4_decimals`: the rounding that published score summaries carry, applied before their threshold test.

#include <esft/core/contract.hpp>
#include <esft/core/score_table.hpp>

#include <array>
#include <charconv>
#include <system_error>

namespace esft {

/// The double nearest to `value` written with 4 decimals, exact ties to even; the same bits as decimal text and back.
/// @pre |value| < 1e15
[[nodiscard]] inline double round_to_4_decimals(double value) {
  std::array<char, 32> text{};
  const auto written = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, 4);
  ESFT_EXPECTS(written.ec == std::errc(), "a score is far below 1e15");
  double rounded = 0;
  std::from_chars(text.data(), written.ptr, rounded);
  return rounded;
}

/// Every score rounded to 4 decimals. Exact counts are dropped: they would contradict the rounded scores.
[[nodiscard]] inline layer_scores round_to_4_decimals(const layer_scores& layer) {
  layer_scores rounded;
  for (const double score : layer.scores) rounded.scores.push_back(round_to_4_decimals(score));
  return rounded;
}

/// Every layer rounded.
[[nodiscard]] inline score_table round_to_4_decimals(const score_table& table) {
  score_table rounded;
  rounded.tokens = table.tokens;
  for (const auto& [which, layer] : table.layers) rounded.layers[which] = round_to_4_decimals(layer);
  return rounded;
}

}  // namespace esft
