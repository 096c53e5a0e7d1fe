// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Counter-based random numbers: a value is a pure function of (seed, stream, counter), so there is no state to save.

#include <esft/core/config.hpp>
#include <esft/core/int128.hpp>

#include <cmath>
#include <cstdint>

namespace esft {

/// Names of the independent random streams. One stream per purpose, so that adding one never shifts another.
enum class rng_stream : std::uint64_t { initialisation = 1, shuffle = 2, mixing = 3, random_policy = 4, corpus = 5, test = 6, routing = 8,
                                       low_rank = 9, dropout = 10 };

/// Counter-based generator: mixes (seed, stream, counter) with two rounds of the SplitMix64 finaliser.
/// Statistically good, not for cryptography.
/// @source G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014
class counter_rng {
 public:
  ESFT_HOST_DEVICE constexpr counter_rng(std::uint64_t seed, rng_stream stream, std::uint64_t substream = 0) noexcept
      : key_(mix(mix(seed + golden) ^ (static_cast<std::uint64_t>(stream) * 0xd1342543de82ef95ULL)) ^ mix(substream + 3 * golden)) {}

  /// 64 uniform bits for this counter.
  [[nodiscard]] ESFT_HOST_DEVICE constexpr std::uint64_t bits(std::uint64_t counter) const noexcept {
    return mix(mix(key_ + counter * golden) ^ key_);
  }
  /// Uniform in [0, 1), 53 bits.
  [[nodiscard]] ESFT_HOST_DEVICE constexpr double uniform(std::uint64_t counter) const noexcept {
    return static_cast<double>(bits(counter) >> 11U) * 0x1.0p-53;
  }
  /// Uniform integer in [0, bound). @pre bound > 0. The bias is below bound / 2^64.
  [[nodiscard]] constexpr std::uint64_t below(std::uint64_t counter, std::uint64_t bound) const noexcept {
    return static_cast<std::uint64_t>((static_cast<uint128>(bits(counter)) * bound) >> 64U);
  }
  /// Standard normal (Box-Muller on two counters' bits).
  [[nodiscard]] double normal(std::uint64_t counter) const noexcept {
    const double u1 = 1.0 - uniform(2 * counter);
    const double u2 = uniform(2 * counter + 1);
    return std::sqrt(-2.0 * std::log(u1)) * std::cos(6.283185307179586476925 * u2);
  }

 private:
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15ULL;
  ESFT_HOST_DEVICE static constexpr std::uint64_t mix(std::uint64_t z) noexcept {
    z = (z ^ (z >> 30U)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27U)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31U);
  }
  std::uint64_t key_;
};

/// Fisher-Yates permutation of `items`, a pure function of the generator.
template <class Range>
constexpr void shuffle(Range& items, const counter_rng& rng) {
  for (std::uint64_t i = items.size(); i > 1; --i) {
    const std::uint64_t j = rng.below(i, i);
    auto held = items[i - 1];
    items[i - 1] = items[j];
    items[j] = held;
  }
}

}  // namespace esft
