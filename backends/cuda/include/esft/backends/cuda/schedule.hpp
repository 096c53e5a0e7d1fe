// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which tile of a grouped matrix product a block computes, from the offsets of the experts' rows, which may live on the device.

#include <esft/core/config.hpp>
#include <esft/core/shape.hpp>

#include <cstdint>

namespace esft::detail::cuda {

/// Rows [first, end) of one expert; empty where there are fewer tiles than blocks.
struct row_tile {
  std::int32_t expert = -1;
  std::int32_t first = 0;
  std::int32_t end = 0;
};

ESFT_HOST_DEVICE constexpr std::int32_t tiles_of(std::int32_t rows, std::int32_t tile_rows) noexcept {
  return (rows + tile_rows - 1) / tile_rows;
}
/// No routing of `rows` rows needs more tiles: a grid of this size is known without reading offsets.
constexpr index most_tiles(index rows, index experts, index tile_rows) noexcept {
  return rows == 0 ? 0 : (rows + tile_rows - 1) / tile_rows + (experts < rows ? experts : rows) - 1;
}
/// The tile with this number, tiles of an expert side by side. @shape first_tile [experts + 1]: tiles before each expert
ESFT_HOST_DEVICE constexpr row_tile find_tile(const std::int32_t* offsets, const std::int32_t* first_tile, std::int32_t experts,
                                              std::int32_t tile_rows, std::int32_t tile) noexcept {
  if (tile < 0 || tile >= first_tile[experts]) return {};
  std::int32_t low = 0;  // the last expert whose first tile is at most `tile`
  std::int32_t high = experts;
  while (high - low > 1) {
    const std::int32_t middle = low + (high - low) / 2;
    (first_tile[middle] <= tile ? low : high) = middle;
  }
  const std::int32_t first = offsets[low] + (tile - first_tile[low]) * tile_rows;
  const std::int32_t end = offsets[low + 1];
  return {low, first, end - first < tile_rows ? end : first + tile_rows};
}

}  // namespace esft::detail::cuda
