// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// How a product is cut: the shape of a team's tile for each kind of execution space, and the list of tiles over groups of rows.

#include <esft/backends/kokkos/lanes.hpp>

namespace esft::detail::kokkos {

/// A team makes a tile of at most `rows` x `columns` outputs, `depth` terms at a time, which it copies to its own memory first; a thread
/// keeps blocks of block_rows x block_columns sums in registers. All sizes follow from the execution space.
template <class Execution, class A>
struct tile_shape {
  static constexpr bool cores = on_cores<Execution>;
  static constexpr int block_rows = cores ? register_rows : 4;
  static constexpr int block_columns = cores ? 2 * lanes<A>::count : 4;
  static constexpr int rows = cores ? 192 : 64;
  static constexpr int columns = cores ? 4 * block_columns : 64;
  static constexpr int depth = cores ? 256 : 16;
  static constexpr int row_blocks = rows / block_rows;
  static constexpr int column_blocks = columns / block_columns;
  static constexpr int threads = cores || device_paths ? 1 : row_blocks * column_blocks;
  static constexpr int blocks_of_a_thread = row_blocks * column_blocks / threads;

  // Where a team keeps an operand: on a core each block's columns lie together, and rows as they come; on a device columns of the whole
  // tile, so that neighbouring threads read neighbouring words.
  static constexpr int block_stride = cores ? depth * block_columns : block_columns;
  static constexpr int depth_stride = cores ? block_columns : columns;

  static constexpr std::size_t left_bytes = sizeof(A) * static_cast<std::size_t>(rows * depth);
  static constexpr std::size_t right_bytes = sizeof(A) * static_cast<std::size_t>(columns * depth);
  static constexpr std::size_t bytes = left_bytes + right_bytes + 256;
};

/// Rows of one group (an expert, a trained gradient) that one row of tiles makes.
struct row_tile {
  std::int32_t group;
  std::int32_t count;
  index first;
};

/// Rows of each tile when `rows` are cut evenly into as few tiles as possible, whole blocks but for the last.
KOKKOS_INLINE_FUNCTION constexpr index rows_of_a_tile(index rows, index most, index block) {
  const index tiles = divide_up(rows, most);
  return tiles == 0 ? 0 : divide_up(divide_up(rows, tiles), block) * block;
}

/// Writes the tiles of all groups: group e has rows [offsets[e], offsets[e + 1]). Run as a scan over the groups.
struct list_tiles {
  const std::int32_t* offsets;
  row_tile* tiles;
  std::int32_t* count;  ///< of tiles
  index groups;
  index rows;  ///< that exist: offsets beyond them make no tile
  index most;
  index block;
  index room;  ///< of the list: offsets that do not ascend may ask for more
  using value_type = index;

  KOKKOS_FUNCTION void operator()(index e, index& before, bool last_pass) const {
    const index begin = smaller(larger(static_cast<index>(offsets[e]), index{0}), rows);
    const index end = smaller(static_cast<index>(offsets[e + 1]), rows);
    const index each = rows_of_a_tile(end - begin, most, block);
    index at = before;
    for (index first = begin; first < end; first += each, ++at) {
      if (last_pass && at < room) tiles[at] = {static_cast<std::int32_t>(e), static_cast<std::int32_t>(smaller(each, end - first)), first};
    }
    before = at;
    if (last_pass && e + 1 == groups) *count = static_cast<std::int32_t>(smaller(at, room));
  }
};

}  // namespace esft::detail::kokkos
