// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of relevance/: scorers from routing decisions, expert outputs, gradients and weights.

#include <esft/relevance/drift_audit.hpp>
#include <esft/relevance/expert_means.hpp>
#include <esft/relevance/layer_sums.hpp>
#include <esft/relevance/record_check.hpp>
#include <esft/relevance/routed_means.hpp>
#include <esft/relevance/scorer.hpp>
#include <esft/relevance/scorer_group.hpp>
#include <esft/relevance/scorers.hpp>
#include <esft/relevance/singular_values.hpp>
