// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of relevance/: scorers from routing decisions.

#include <esft/relevance/layer_sums.hpp>
#include <esft/relevance/record_check.hpp>
#include <esft/relevance/scorer.hpp>
#include <esft/relevance/scorers.hpp>
