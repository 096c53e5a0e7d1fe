// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// dx = dy w on bf16 tiles: the weight of the forward pass, in the same order, becomes the right operand block by block.

#include <esft/backends/eigen/bf16_tasks.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Steps of the reduction for which a turned block of the weight stays in the first-level cache while all rows of the task meet it.
inline constexpr index gradient_steps = 8;

/// Up to 32 rows of sums += rows of dy x a turned block, part after part.
template <class Engine, int Left, index Parts>
void add_parts(const bf16* left, const bf16* right, index steps, float* sums, bool first, look_ahead ahead) {
  constexpr index part = Left * tile_size;
  Engine::template product<Left, 2>(left, Parts * part, right, block_size, steps, sums, first, ahead);
  if constexpr (Parts == 2) Engine::template product<Left, 2>(left + part, Parts * part, right, block_size, steps, sums, false, {});
}

/// Columns [32 strip, 32 strip + 32) of dx for all rows of a task. @shape packed: panels of up to 32 rows, see `pack_rows_as_rows`
template <class Engine, index Parts>
void input_gradient_strip(const bf16* matrix, index strip, bool more, const bf16* packed, index rows, index columns, index depth,
                          bf16* turned, float* sums, bf16* dx, bool accumulate) {
  const index steps = depth / block_side;
  const index panels = (rows + block_side - 1) / block_side;
  const index row_of_blocks = block_side * columns;  // elements
  for (index k = 0; k == 0 || k < steps; k += gradient_steps) {
    const index deep = std::min(gradient_steps, steps - k);
    const bool last = k + deep >= steps;
    const bf16* const block = matrix + k * row_of_blocks + strip * block_size;
    const bf16* const following = !last ? block + deep * row_of_blocks : more ? matrix + (strip + 1) * block_size : nullptr;
    for (index i = 0; i < deep; ++i) turn_block(block + i * row_of_blocks, turned + i * block_size);
    for (index p = 0; p < panels; ++p) {
      const index count = std::min(block_side, rows - p * block_side);
      const bf16* const panel = packed + p * block_side * depth * Parts;
      float* const cell = sums + p * block_size;
      const look_ahead ahead = share_of(following, row_of_blocks, p, panels);
      if (count > 16) {
        add_parts<Engine, 2, Parts>(panel + k * block_size * Parts, turned, deep, cell, k == 0, ahead);
      } else {
        add_parts<Engine, 1, Parts>(panel + k * tile_size * Parts, turned, deep, cell, k == 0, ahead);
      }
      if (last) write_rows(cell, count, dx + p * block_side * columns, columns, accumulate);
    }
  }
}

/// dx[r] = dy[r] w[matrix], or +=. A dy of floats travels as two bf16 parts, 16 bits of its mantissa.
/// @shape dy [*, depth], w [*, depth, columns] in blocks of 32 x 32, dx [*, columns]
/// @pre columns % 32 == 0 && depth % 32 == 0; dx does not overlap dy
template <class Engine, class Y>
void tiled_input_gradient(machine& m, row_source<Y> dy, const bf16* w, bf16* dx, const std::vector<row_group>& groups, index columns,
                          index depth, bool accumulate) {
  constexpr index parts = parts_of<Y>;
  const strip_tasks cut = cut_strips(groups, columns / block_side, depth, parts, m.pool.threads());
  host_tensor<bf16, 1> shared = packed_buffer(cut.packed_size);
  m.run(static_cast<index>(cut.panels.size()), 8.0 * static_cast<double>(cut.packed_size), [&](index i, int) {
    const row_panel& panel = cut.panels[static_cast<std::size_t>(i)];
    pack_rows_as_rows<Y>({dy, panel.first, panel.count}, panel.count, depth, shared.data() + panel.packed);
  });
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const strip_task& t = cut.tasks[static_cast<std::size_t>(i)];
    const index rows = t.rows.rows();
    const bf16* packed = shared.data() + t.packed;
    if (t.packed < 0) {
      bf16* const own = thread_buffer(m, slot, buffer::left, padded_rows(rows) * depth * parts);
      for (index r = 0; r < rows; r += block_side) {
        const index count = std::min(block_side, rows - r);
        pack_rows_as_rows<Y>({dy, t.rows.begin + r, count}, count, depth, own + r * depth * parts);
      }
      packed = own;
    }
    float* const sums = m.of(slot)(buffer::result, round_to(rows, block_side) * block_side);
    bf16* const turned = thread_buffer(m, slot, buffer::right, gradient_steps * block_size);
    const bf16* const matrix = w + t.rows.matrix * columns * depth;
    const typename Engine::session open;
    for (index s = t.strip_begin; s < t.strip_end; ++s) {
      input_gradient_strip<Engine, parts>(matrix, s, s + 1 < t.strip_end, packed, rows, columns, depth, turned, sums,
                                          dx + t.rows.begin * columns + s * block_side, accumulate);
    }
  });
}

#endif

}  // namespace esft::detail::eigen
