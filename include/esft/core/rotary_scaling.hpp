// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `rotary_scaling`: how rotary embedding is stretched beyond the context of pre-training (YaRN).

namespace esft {

/// YaRN: pairs of columns that turn slowly are interpolated by `factor`, fast ones are not, those between are blended.
/// @source YaRN, arXiv 2309.00071, section 3
struct rotary_scaling {
  double factor = 1;              ///< 1: plain rotary embedding
  double original_positions = 0;  ///< context of pre-training
  double beta_fast = 32;          ///< turns within that context above which a pair keeps its rate
  double beta_slow = 1;           ///< turns below which it is interpolated fully
  bool truncate = true;           ///< the two bounds are rounded outwards to whole pairs
  double magnitude = 1;           ///< factor on cosine and sine

  [[nodiscard]] bool scales() const noexcept { return factor != 1 || magnitude != 1; }
  friend bool operator==(const rotary_scaling&, const rotary_scaling&) = default;
};

}  // namespace esft
