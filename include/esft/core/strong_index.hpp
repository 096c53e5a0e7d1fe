// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `layer_index` and `expert_index`: distinct types, so that swapping them does not compile.

#include <compare>
#include <cstdint>

namespace esft {

/// A non-negative position that only compares and converts with its own kind.
template <class Tag>
struct strong_index {
  std::int32_t value{};

  constexpr strong_index() = default;
  constexpr explicit strong_index(std::int32_t position) noexcept : value(position) {}
  friend constexpr auto operator<=>(const strong_index&, const strong_index&) = default;
};

/// Absolute index of a decoder layer, dense layers included, counted from 0 as in checkpoint names.
using layer_index = strong_index<struct layer_tag>;
/// Index of a routed expert inside its layer, counted from 0.
using expert_index = strong_index<struct expert_tag>;

}  // namespace esft
