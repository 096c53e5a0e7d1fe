// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The concept `relevance_scorer`: streaming evidence of how much each routed expert matters to a task.

#include <esft/core/routing_record.hpp>
#include <esft/core/score_table.hpp>

#include <concepts>
#include <cstdint>
#include <string_view>

namespace esft {

/// Accumulates routing records and yields scores. Laws (tests/relevance/laws.cpp):
/// merging two scorers equals one scorer that observed both streams; padding never counts; permuting the experts permutes the scores.
template <class S>
concept relevance_scorer = requires(S scorer, const S& other, const routing_record& record) {
  { scorer.observe(record) } -> std::same_as<void>;
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

}  // namespace esft
