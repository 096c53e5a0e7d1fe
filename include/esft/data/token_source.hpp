// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `training_sample` and concept `token_source`: documents as token ids, with a mark on those the model shall learn to produce.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace esft {

/// One document. `learned[i] != 0` means: producing `tokens[i]` from what stands before it carries loss.
/// Token 0 has nothing before it, so its mark never counts.
struct training_sample {
  std::vector<std::int32_t> tokens;   ///< @shape [n]
  std::vector<std::uint8_t> learned;  ///< @shape [n]

  friend bool operator==(const training_sample&, const training_sample&) = default;
};

/// Documents by index; two calls with the same index give the same document. `std::vector<training_sample>` is one;
/// a source that reads or encodes lazily may return by value.
template <class S>
concept token_source = requires(const S s, std::size_t i) {
  { s.size() } -> std::convertible_to<std::size_t>;
  { s[i] } -> std::convertible_to<const training_sample&>;
};

}  // namespace esft
