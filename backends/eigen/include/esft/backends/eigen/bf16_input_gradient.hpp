// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// dx = dy w on bf16 tiles: the weight of the forward pass, in the same order, becomes the right operand block by block.

#include <esft/backends/eigen/bf16_tasks.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Up to 48 rows of sums = rows of dy x a turned strip, part after part.
template <class Engine, int Left, index Parts>
void add_parts(const bf16* left, const bf16* right, index steps, float* sums) {
  constexpr index part = Left * tile_size;
  Engine::template product<Left, 2>(left, Parts * part, right, block_size, steps, sums, true, {});
  if constexpr (Parts == 2) Engine::template product<Left, 2>(left + part, Parts * part, right, block_size, steps, sums, false, {});
}

/// Strips of 32 columns whose blocks of the weight are turned together: two blocks that are neighbours in memory fill a page, and
/// finding a page of a large matrix costs as much as reading it.
inline constexpr index strips_together = 2;

/// Columns [32 begin, 32 end) of dx for all rows of a task, at most `strips_together` strips of them. Fetching the weight ahead while tiles
/// are multiplied was slower: both want the few buffers for lines on their way.
/// @shape packed: panels of up to 48 rows, see `pack_rows_as_rows`
template <class Engine, index Parts>
void input_gradient_strips(const bf16* matrix, index begin, index end, const bf16* packed, index rows, index columns, index depth,
                           bf16* turned, bf16* dx, writing way) {
  alignas(64) float sums[panel_side * block_side];
  const index steps = depth / block_side;
  const panel_cut panels(rows);
  const index row_of_blocks = block_side * columns;  // elements
  const index strips = end - begin;
  constexpr index together = 4;
  for (index i = 0; i < steps; i += together) {
    for (index s = 0; s < strips; ++s) {
      const bf16* const blocks = matrix + i * row_of_blocks + (begin + s) * block_size;
      bf16* const to = turned + (s * steps + i) * block_size;
      if (steps - i >= together) {
        turn_blocks<together>(blocks, row_of_blocks, to);
      } else {
        for (index rest = 0; rest < steps - i; ++rest) turn_blocks<1>(blocks + rest * row_of_blocks, 0, to + rest * block_size);
      }
    }
  }
  for (index s = 0; s < strips; ++s) {
    for (index p = 0; p < panels.count(); ++p) {
      const index count = panels.rows(p);
      const bf16* const panel = packed + panels.begin(p) * depth * Parts;
      if (count > 32) {
        add_parts<Engine, 3, Parts>(panel, turned + s * steps * block_size, steps, sums);
      } else if (count > 16) {
        add_parts<Engine, 2, Parts>(panel, turned + s * steps * block_size, steps, sums);
      } else {
        add_parts<Engine, 1, Parts>(panel, turned + s * steps * block_size, steps, sums);
      }
      write_rows(sums, count, dx + panels.begin(p) * columns + (begin + s) * block_side, columns, way);
    }
  }
}

/// Elements of packed dy that stay in the second-level cache beside two turned strips: the more rows, the rarer is turning.
inline constexpr index kept_gradient = 736 * 1024;

/// dx[r] = dy[r] w[matrix], or +=. A dy of floats travels as two bf16 parts, 16 bits of its mantissa.
/// @shape dy [*, depth], w [*, depth, columns] in blocks of 32 x 32, dx [*, columns]
/// @pre columns % 32 == 0 && depth % 32 == 0; dx does not overlap dy
template <class Engine, class Y>
void tiled_input_gradient(machine& m, row_source<Y> dy, const bf16* w, bf16* dx, const std::vector<row_group>& groups, index columns,
                          index depth, bool accumulate) {
  constexpr index parts = parts_of<Y>;
  const strip_tasks cut = cut_strips(groups, columns / block_side, depth, parts, m.pool.threads(), 1, kept_gradient);
  host_tensor<bf16, 1> shared = packed_buffer(cut.packed_size);
  const writing packing = way_of(shared.data(), cut.packed_size, false);
  const writing way = way_of(dx, cut.rows * columns, accumulate);
  m.run(static_cast<index>(cut.panels.size()), 8.0 * static_cast<double>(cut.packed_size), [&](index i, int) {
    const row_panel& panel = cut.panels[static_cast<std::size_t>(i)];
    pack_rows_as_rows<Y>({dy, panel.first, panel.count}, panel.count, depth, shared.data() + panel.packed, packing);
    finish(packing);
  });
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const strip_task& t = cut.tasks[static_cast<std::size_t>(i)];
    const index rows = t.rows.rows();
    const bf16* packed = shared.data() + t.packed;
    if (t.packed < 0) {
      bf16* const own = thread_buffer(m, slot, buffer::left, padded_rows(rows) * depth * parts);
      const panel_cut panels(rows);
      for (index p = 0; p < panels.count(); ++p) {
        const index r = panels.begin(p);
        pack_rows_as_rows<Y>({dy, t.rows.begin + r, panels.rows(p)}, panels.rows(p), depth, own + r * depth * parts, writing::store);
      }
      packed = own;
    }
    bf16* const turned = thread_buffer(m, slot, buffer::right, strips_together * depth * block_side);
    const bf16* const matrix = w + t.rows.matrix * columns * depth;
    const typename Engine::session open;
    for (index s = t.strip_begin; s < t.strip_end; s += strips_together) {
      const index end = std::min(t.strip_end, s + strips_together);
      input_gradient_strips<Engine, parts>(matrix, s, end, packed, rows, columns, depth, turned, dx + t.rows.begin * columns, way);
    }
    finish(way);
  });
}

#endif

}  // namespace esft::detail::eigen
