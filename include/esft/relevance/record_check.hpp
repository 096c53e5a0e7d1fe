// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `check_record`: a routing record is believed only after its shape and every value of its real tokens were checked.

#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>
#include <esft/core/routing_record.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>

namespace esft {

/// Rows of a record, padding included.
[[nodiscard]] inline std::size_t row_count(const routing_record& record) {
  return record.active > 0 ? record.ids.size() / static_cast<std::size_t>(record.active) : 0;
}

/// Sample number of a row; -1 is padding.
[[nodiscard]] inline std::int32_t sample_of(const routing_record& record, std::size_t row) {
  return record.sample.empty() ? 0 : record.sample[row];
}

namespace detail {
inline std::string record_place(const routing_record& record, std::size_t row) {
  return "routing record of layer " + std::to_string(record.layer.value) + ", token " + std::to_string(row) + ": ";
}
}  // namespace detail

/// Refuses a record that no router could have made. Padding rows may hold anything; slots may be empty.
/// @throws contract_violation if the spans do not fit [T, K]
/// @throws error (bad_input) for an id out of range or chosen twice; numerics_error for a weight that is not finite and >= 0
/// @cost O(T K^2)
inline void check_record(const routing_record& record) {
  ESFT_EXPECTS(record.layer.value >= 0, "a layer index is not negative");
  ESFT_EXPECTS(record.active > 0 && record.active <= record.experts, "K is between 1 and E");
  const auto active = static_cast<std::size_t>(record.active);
  ESFT_EXPECTS(record.ids.size() % active == 0, "ids is [T, K]");
  ESFT_EXPECTS(record.weights.size() == record.ids.size(), "weights is [T, K] like ids");
  const std::size_t rows = row_count(record);
  ESFT_EXPECTS(record.sample.empty() || record.sample.size() == rows, "sample is [T] or empty");
  for (std::size_t row = 0; row < rows; ++row) {
    if (sample_of(record, row) < 0) continue;
    const auto ids = record.ids.subspan(row * active, active);  // [K]
    for (std::size_t slot = 0; slot < active; ++slot) {
      if (ids[slot] == no_expert) continue;
      if (ids[slot] < 0 || ids[slot] >= record.experts) {
        throw error(error_category::bad_input, detail::record_place(record, row) + "expert id " + std::to_string(ids[slot]) +
                                                   " is not in [0, " + std::to_string(record.experts) +
                                                   "); check the number of experts");
      }
      for (std::size_t before = 0; before < slot; ++before) {
        if (ids[before] != ids[slot]) continue;
        throw error(error_category::bad_input, detail::record_place(record, row) + "expert " + std::to_string(ids[slot]) +
                                                   " is chosen twice; check the number of active experts (top-k)");
      }
      const float weight = record.weights[row * active + slot];
      if (!std::isfinite(weight) || weight < 0.0F) {
        throw numerics_error(detail::record_place(record, row) + "expert " + std::to_string(ids[slot]) + " has gate weight " +
                             std::to_string(weight) +
                             ", not a finite number >= 0; the forward pass that made it is broken, scores from it would mislead");
      }
    }
  }
}

}  // namespace esft
