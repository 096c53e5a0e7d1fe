// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// dw += dy^T x on bf16 tiles, summed in floats into a gradient that has the order of its weight.

#include <esft/backends/eigen/bf16_tasks.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Blocks of 32 rows that are summed before their sums go back to memory.
inline constexpr index weight_gradient_steps = 16;

/// Rows of one group with the places of their packed columns, and the blocks of dw to compute.
struct gradient_task {
  row_group rows;
  index left = 0;   ///< packed dy: strip of 32 columns by strip, in each the blocks of 32 rows
  index right = 0;  ///< packed x, likewise
  index row_begin = 0, row_end = 0, column_begin = 0, column_end = 0;  ///< in blocks
  double seconds = 0;
};

/// 32 rows to pack on both sides.
struct gradient_panel {
  index first = 0, count = 0;
  index left = 0, left_stride = 0, right = 0, right_stride = 0;
};

struct gradient_tasks {
  std::vector<gradient_task> tasks;
  std::vector<gradient_panel> panels;
  index left_size = 0;
  index right_size = 0;
  double operations = 0;
};

/// Cuts the gradients of groups into tasks. @param height, width extents of a gradient in blocks of 32
inline gradient_tasks cut_gradients(const std::vector<row_group>& groups, index height, index width, index parts, int threads) {
  constexpr double flops = 1.2e12;
  constexpr double bytes = 12e9;
  gradient_tasks result;
  double total = 0;
  const auto seconds_of = [&](index blocks) {  // of one block of dw
    return std::max(static_cast<double>(65536 * blocks * parts) / flops, 8.0 * block_size / bytes);
  };
  const auto blocks_of = [](const row_group& group) { return (group.rows() + block_side - 1) / block_side; };
  for (const row_group& group : groups) {
    if (group.rows() > 0) total += seconds_of(blocks_of(group)) * static_cast<double>(height * width);
  }
  const double longest = std::clamp(total / (16.0 * threads), 1e-4, 1e-3);
  for (const row_group& group : groups) {
    const index blocks = blocks_of(group);
    if (blocks <= 0 || height == 0 || width == 0) continue;
    const index left_stride = blocks * block_size * parts;
    const index right_stride = blocks * block_size;
    for (index b = 0; b < blocks; ++b) {
      const index first = group.begin + b * block_side;
      result.panels.push_back({first, std::min(block_side, group.end - first), result.left_size + b * block_size * parts, left_stride,
                               result.right_size + b * block_size, right_stride});
    }
    // a task's columns of x stay in the second-level cache, and where the rows are summed in turns, its part of dw too
    const index held = std::max<index>(1, 384 / std::min(blocks, weight_gradient_steps));
    const index wide = equal_part(width, std::min<index>(held, 64));
    index tall = std::max<index>(1, static_cast<index>(longest / seconds_of(blocks) / static_cast<double>(wide)));
    if (blocks > weight_gradient_steps) tall = std::min(tall, std::max<index>(1, 128 / wide));
    tall = equal_part(height, tall);
    for (index r = 0; r < height; r += tall) {
      for (index c = 0; c < width; c += wide) {
        const index r_end = std::min(height, r + tall);
        const index c_end = std::min(width, c + wide);
        result.tasks.push_back({group, result.left_size, result.right_size, r, r_end, c, c_end,
                                seconds_of(blocks) * static_cast<double>((r_end - r) * (c_end - c))});
      }
    }
    result.left_size += left_stride * height;
    result.right_size += right_stride * width;
    result.operations += static_cast<double>(65536 * blocks * parts) * static_cast<double>(height * width);
  }
  std::stable_sort(result.tasks.begin(), result.tasks.end(),
                   [](const gradient_task& a, const gradient_task& b) { return a.seconds > b.seconds; });
  return result;
}

/// The blocks of one task, rows in turns of `weight_gradient_steps` blocks.
template <class Engine, index Parts>
void weight_gradient_blocks(const gradient_task& t, const bf16* left, const bf16* right, float* dw, index width) {
  const index blocks = (t.rows.rows() + block_side - 1) / block_side;
  for (index b = 0; b < blocks; b += weight_gradient_steps) {
    const index deep = std::min(weight_gradient_steps, blocks - b);
    const index streams = (64 + deep - 1) / deep;  // a block of dw has 64 lines of 64 bytes
    for (index r = t.row_begin; r < t.row_end; ++r) {
      const bf16* const a = left + (r * blocks + b) * block_size * Parts;
      for (index c = t.column_begin; c < t.column_end; ++c) {
        float* const cell = dw + (r * width + c) * block_size;
        // the next part of each of several blocks, so that each block is fetched part by part, and many of them at a time
        const char* const later = reinterpret_cast<const char*>(cell + 2 * block_size);
        look_ahead ahead{later + (streams - 1) * deep * 64, 4 * block_size - deep * 64, streams, 1};
        const bf16* const x = right + (c * blocks + b) * block_size;
        Engine::template product<2, 2>(a, block_size * Parts, x, block_size, deep, cell, false, ahead);
        if constexpr (Parts == 2) {
          Engine::template product<2, 2>(a + block_size, block_size * Parts, x, block_size, deep, cell, false, look_ahead{});
        }
      }
    }
  }
}

/// dw[matrix] += the sum over the rows of the group of dy[r]^T x[r]. A dy of floats travels as two bf16 parts, 16 bits of its mantissa.
/// @shape dy [*, height], x [*, columns], dw [*, height, columns] in blocks of 32 x 32 @pre height % 32 == 0 && columns % 32 == 0
template <class Engine, class Y>
void tiled_weight_gradient(machine& m, row_source<Y> dy, row_source<bf16> x, float* dw, const std::vector<row_group>& groups, index height,
                           index columns) {
  constexpr index parts = parts_of<Y>;
  const index width = columns / block_side;
  const gradient_tasks cut = cut_gradients(groups, height / block_side, width, parts, m.pool.threads());
  host_tensor<bf16, 1> left = packed_buffer(cut.left_size);
  host_tensor<bf16, 1> right = packed_buffer(cut.right_size);
  const writing way = way_of(left.data(), cut.left_size + cut.right_size, false);
  m.run(static_cast<index>(cut.panels.size()), 8.0 * static_cast<double>(cut.left_size + cut.right_size), [&](index i, int) {
    const gradient_panel& panel = cut.panels[static_cast<std::size_t>(i)];
    pack_columns_as_rows<Y>({dy, panel.first, panel.count}, height, left.data() + panel.left, panel.left_stride, way);
    pack_columns_as_columns({x, panel.first, panel.count}, columns, right.data() + panel.right, panel.right_stride, way);
    finish(way);
  });
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int) {
    const gradient_task& t = cut.tasks[static_cast<std::size_t>(i)];
    const typename Engine::session open;
    weight_gradient_blocks<Engine, parts>(t, left.data() + t.left, right.data() + t.right, dw + t.rows.matrix * height * columns, width);
  });
}

#endif

}  // namespace esft::detail::eigen
