// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How far a backend may be from the reference in double on the same rounded inputs: one table, with the reason of every row.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <string>

namespace esft::test {

/// How an output came about; decides its bound.
enum class precision {
  exact,   ///< integers, copies, and sums of small integers: no rounding anywhere, so any difference is a bug
  summed,  ///< float sums kept as float
  stored,  ///< float sums rounded once to the storage type
};

/// u = 2^-24, half an ulp of float at 1.
inline constexpr double float_unit = 0x1.0p-24;

/// Inputs are of size one. Where an output is a difference of such terms that cancel (the gradient of a softmax over one key), its own
/// size says nothing about its rounding.
inline constexpr double least_size = 1;

/// Factor for attention whose probabilities and their gradients are rounded to bf16 before they weigh values, as tile registers want
/// them: 2^-8 of the largest output. Each term is off by at most 2^-9 of itself, so an output that cancels is off by up to 2^-9 of what it
/// cancelled from. 0.0045 of the largest was seen where the largest's own rounding allows 0.0039 more; float statistics keep their bound.
inline constexpr double rounded_weights = 65536;

/// Bound of one element.
/// - A float dot product of K terms was seen to err by at most 0.33 sqrt(K) u S, S = the sum of absolute products; 4 sqrt(K) u S leaves a
///   factor of ten, while one term lost or doubled shows as about S / K, thousands of times more.
/// - Rounding to bf16, whose significand has 8 bits, adds at most 2^-8 of the value, and so at most 2^-16 of the sum of squares; only few
///   values come near that, many of them average 2.6e-6.
struct tolerance {
  double per_magnitude;  ///< x u x magnitude of the terms that were added
  double nmse;           ///< bound on sum (a - b)^2 / sum b^2 over the output
};

inline tolerance tolerance_of(precision kind, bool bf16_storage, double factor) {
  if (kind == precision::exact) return {0, 0};
  if (kind == precision::stored && bf16_storage) return {factor, 0x1.0p-16 + 1e-10};
  return {factor, 1e-10};                                                // float sums of at most a few thousand terms stay below 1e-12
}

/// Packed bf16 weights meet a gradient of floats (of logits) as two bf16 numbers, hi + lo: what is lost is at most 2^-17 of each term, which is
/// 128 u. bf16 training elsewhere rounds that gradient to one bf16 number, which would lose 2^-9.
inline constexpr double split_operand_factor = 128;

/// How the difference quotients of a loss are taken, and how far a gradient may be from them.
struct difference_rule {
  double step;
  double allowed;  ///< relative to max(least, |difference quotient|)
  double least;
  bool twice;  ///< quotients of two steps, so that the term in the square of the step is gone
};
/// With h = 1e-5 a correct gradient errs by at most some 1e-8 relative, and an element wrong by 0.1 % shows as 1e-3 (both measured);
/// 1e-6 lies a hundred times above the one and a thousand times below the other.
inline constexpr difference_rule double_differences{1e-5, 1e-6, 1e-3, false};
/// A float loss of size S errs by some u S, its quotient by u S / h: a large step, of a quarter of the inputs' size at most, so that what is
/// left of the fourth power of the step stays below it too. Correct gradients of the plain loops were seen to err by 7e-4, and 0.05 must be found.
inline constexpr difference_rule float_differences{0x1.0p-5, 2e-3, 0.1, true};

/// The comparison of one output.
struct comparison {
  bool passed = true;
  std::string what;
};

/// Compares `actual` with `expected`. `magnitude` holds per element the size of the terms added, or is empty: then the largest output is
/// used.
inline comparison compare(std::span<const double> actual, std::span<const double> expected, std::span<const double> magnitude,
                          precision kind, bool bf16_storage, double factor) {
  if (actual.size() != expected.size()) return {false, "sizes differ"};
  const tolerance bound = tolerance_of(kind, bf16_storage, factor);
  double largest = least_size;
  for (const double e : expected) largest = std::max(largest, std::isnan(e) ? 0 : std::abs(e));
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(actual[i] - expected[i]);
    const double size = magnitude.empty() ? largest : magnitude[i];
    double allowed = bound.per_magnitude * float_unit * size;
    if (kind == precision::stored && bf16_storage) allowed += 0x1.0p-8 * std::abs(expected[i]);
    if (std::isnan(actual[i]) && std::isnan(expected[i])) continue;  // 0 / 0 on both sides, as the mean of no columns
    if (!(difference <= allowed) && !(actual[i] == expected[i])) {
      return {false, "element " + std::to_string(i) + ": " + std::to_string(actual[i]) + " instead of " + std::to_string(expected[i]) +
                         ", off by " + std::to_string(difference / std::max(largest, 1e-300)) + " of the largest"};
    }
    error += difference * difference;
    norm += expected[i] * expected[i];
  }
  if (magnitude.empty()) norm = std::max(norm, least_size * least_size * static_cast<double>(expected.size()));
  if (kind != precision::exact && error > bound.nmse * norm) return {false, "nmse " + std::to_string(error / norm)};
  return {};
}

}  // namespace esft::test
