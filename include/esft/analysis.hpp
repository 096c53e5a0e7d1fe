// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of analysis/: statistics, overlaps, charts and reports.

#include <esft/analysis/charts/bar_chart.hpp>
#include <esft/analysis/charts/cumulative_share.hpp>
#include <esft/analysis/charts/line_chart.hpp>
#include <esft/analysis/charts/overlap_matrix.hpp>
#include <esft/analysis/charts/plot_frame.hpp>
#include <esft/analysis/charts/relevance_heat_map.hpp>
#include <esft/analysis/charts/scatter_chart.hpp>
#include <esft/analysis/comparison.hpp>
#include <esft/analysis/comparison_report.hpp>
#include <esft/analysis/expert_grouping.hpp>
#include <esft/analysis/matched_loss.hpp>
#include <esft/analysis/mean_and_spread.hpp>
#include <esft/analysis/overlap.hpp>
#include <esft/analysis/repeated_runs.hpp>
#include <esft/analysis/report.hpp>
#include <esft/analysis/routing_drift.hpp>
#include <esft/analysis/routing_stats.hpp>
#include <esft/analysis/sample_stability.hpp>
#include <esft/analysis/svg.hpp>
#include <esft/analysis/text.hpp>
#include <esft/analysis/theme.hpp>
