// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The order in which a router prefers experts, for any bit pattern of the logits, as one integer per expert.

#include <esft/core/config.hpp>

#include <bit>
#include <cstdint>

namespace esft::detail::cuda {

/// Larger means preferred: by falling logit, equal ones (and -0 = +0) by rising id, NaN after everything. Different ids have different
/// keys, so K passes that each take the largest key left give K distinct ids whatever the logits hold. 0 is no expert's key.
ESFT_HOST_DEVICE constexpr std::uint64_t preference(float logit, std::int32_t id) noexcept {
  std::uint32_t order = 0;
  if (logit == logit) {
    const auto bits = std::bit_cast<std::uint32_t>(logit == 0 ? 0.0F : logit);
    order = (bits >> 31U) != 0 ? ~bits : bits | 0x80000000U;
  }
  return static_cast<std::uint64_t>(order) << 32U | (0xffffffffU - static_cast<std::uint32_t>(id));
}
ESFT_HOST_DEVICE constexpr std::int32_t preferred_id(std::uint64_t key) noexcept {
  return static_cast<std::int32_t>(0xffffffffU - static_cast<std::uint32_t>(key));
}

}  // namespace esft::detail::cuda
