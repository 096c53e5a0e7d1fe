// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `builtin_scorers`: the scorers that the tool offers and the law suite runs on.

#include <esft/core/type_list.hpp>
#include <esft/relevance/scorers/average_gate_score.hpp>
#include <esft/relevance/scorers/condition_number.hpp>
#include <esft/relevance/scorers/fisher.hpp>
#include <esft/relevance/scorers/gradient_magnitude.hpp>
#include <esft/relevance/scorers/output_norm.hpp>
#include <esft/relevance/scorers/reap.hpp>
#include <esft/relevance/scorers/taylor.hpp>
#include <esft/relevance/scorers/token_selection_ratio.hpp>
#include <esft/relevance/scorers/weighted_frequency.hpp>

namespace esft {

/// Every scorer of this library, in the order in which the tool lists them.
using builtin_scorers = type_list<token_selection_ratio, average_gate_score, weighted_frequency, output_norm, reap, taylor, fisher,
                                  gradient_magnitude, condition_number>;

}  // namespace esft
