// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The concept `relevance_scorer`: streaming evidence of how much each routed expert matters to a task.

#include <esft/core/error.hpp>
#include <esft/core/expert_records.hpp>
#include <esft/core/routing_record.hpp>
#include <esft/core/score_table.hpp>

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>

namespace esft {

/// Whether a scorer reads records of a kind. What it reads is what it costs: `routing_record` and `expert_output_record` a forward pass,
/// `expert_gradient_record` a backward pass too, `expert_weights_record` none.
template <class S, class Record>
concept observes = requires(S scorer, const Record& record) {
  { scorer.observe(record) } -> std::same_as<void>;
};

/// Accumulates records of one kind and yields scores. Laws (tests/relevance/laws.cpp): merging two scorers equals one scorer that observed
/// both streams; padding never counts; permuting the experts permutes the scores.
template <class S>
concept relevance_scorer = (observes<S, routing_record> || observes<S, expert_output_record> || observes<S, expert_gradient_record> ||
                            observes<S, expert_weights_record>)&&requires(S scorer, const S& other) {
  { scorer.merge(other) } -> std::same_as<void>;
  { other.scores() } -> std::same_as<score_table>;
  { S::name } -> std::convertible_to<std::string_view>;
};

/// How tokens of different samples are averaged.
enum class sample_mean : std::uint8_t {
  pooled,      ///< every token weighs the same, as the official aggregation does
  per_sample,  ///< every sample weighs the same, however long it is, as eq. 6 and 7 of the paper are written
};

/// Options common to the built-in scorers.
struct scorer_options {
  sample_mean mean = sample_mean::pooled;
};

/// For scorers that average over something else than all tokens: an expert that a sample never used has no mean there.
/// @throws usage_error for the per-sample mean
inline void require_pooled(std::string_view scorer, scorer_options options) {
  if (options.mean == sample_mean::pooled) return;
  throw usage_error("the scorer " + std::string(scorer) + " has no per-sample mean, since it does not average over all tokens; " +
                    "leave the pooled mean");
}

}  // namespace esft
