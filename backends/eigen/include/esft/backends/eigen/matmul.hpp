// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Grouped matrix products y = x w^T, dx = dy w, dw += dy^T x: one list of tiles over all groups, largest first, one launch per op.

#include <esft/backends/eigen/machine.hpp>
#include <esft/backends/eigen/packing.hpp>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace esft::detail::eigen {

/// Rows [begin, end) of the left operand that meet matrix number `matrix` of the stacked right operand (or of the result).
struct row_group {
  index begin = 0;
  index end = 0;
  index matrix = 0;
};

/// One task: rows and columns of one group.
struct tile {
  row_group rows;
  index column_begin = 0;
  index column_end = 0;
  double cost = 0;
};

inline constexpr double tile_operations = 24e6;  // about 0.15 ms of one core: long beside a wake-up, short beside a loop
inline constexpr index panel_budget = 262144;    // floats of an operand block that should stay in a 2 MiB second-level cache

constexpr index round_up(index value, index step) noexcept { return (value + step - 1) / step * step; }
/// `total` in equal parts of at most `most`, each a multiple of `step`.
constexpr index even_part(index total, index most, index step) noexcept {
  const index parts = std::max<index>(1, (total + most - 1) / most);
  return std::max(step, round_up((total + parts - 1) / parts, step));
}

/// Cuts every group into tiles: at most `most_rows` rows, and so many of the `columns` that a tile is about `tile_operations`.
inline std::vector<tile> cut(const std::vector<row_group>& groups, index columns, index depth, index most_rows, index row_step,
                             index column_step, index least_columns) {
  std::vector<tile> tiles;
  for (const row_group& group : groups) {
    const index rows = group.end - group.begin;
    if (rows == 0 || columns == 0) continue;
    const index row_part = even_part(rows, most_rows, row_step);
    const double column_cost = 2.0 * static_cast<double>(std::min(rows, row_part)) * static_cast<double>(std::max<index>(1, depth));
    const index wanted = std::max(least_columns, static_cast<index>(std::min(tile_operations / column_cost, 1e9)));
    const index column_part = even_part(columns, wanted, column_step);
    for (index r = group.begin; r < group.end; r += row_part) {
      const index r_end = std::min(group.end, r + row_part);
      for (index c = 0; c < columns; c += column_part) {
        const index c_end = std::min(columns, c + column_part);
        tiles.push_back({{r, r_end, group.matrix}, c, c_end, static_cast<double>((r_end - r) * (c_end - c))});
      }
    }
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const tile& a, const tile& b) { return a.cost > b.cost; });
  return tiles;
}

inline double operations(const std::vector<tile>& tiles, index depth) {
  double sum = 0;
  for (const tile& part : tiles) sum += part.cost;
  return 2 * sum * static_cast<double>(depth);
}

/// The block as floats with its row stride: in place where it already is, else widened into `buffer`.
template <class T>
std::pair<const float*, index> as_floats(machine& m, int slot, buffer where, const T* from, index from_stride, index rows, index columns) {
  if constexpr (std::is_same_v<T, float>) {
    static_cast<void>(m), static_cast<void>(slot), static_cast<void>(where), static_cast<void>(rows), static_cast<void>(columns);
    return {from, from_stride};
  } else {
    float* to = m.of(slot)(where, rows * columns);
    call<copy_block>(m.set, from, from_stride, rows, columns, to, columns);
    return {to, columns};
  }
}

/// Whether 48 columns of a matrix are worth copying together before `rows` rows of products read them: always for bf16, and for
/// long rows, whose lines would fall onto few sets of the first-level cache and each onto a page of its own.
template <class T>
constexpr bool copy_panel(index stride, index rows) noexcept {
  return !std::is_same_v<T, float> || (stride >= 512 && rows >= 24);
}

/// y[r] = x[r] w[matrix]^T. @shape x[*, depth], w[*, columns, depth], y[*, columns]
template <class X, class W, class Y>
void product_forward(machine& m, const X* x, const W* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                     bool accumulate) {
  const index most_rows = std::clamp<index>(panel_budget / std::max<index>(1, depth) / block_columns * block_columns, block_columns, 192);
  const std::vector<tile> tiles = cut(groups, columns, depth, most_rows, 16, block_rows, 64);
  m.run(static_cast<index>(tiles.size()), operations(tiles, depth), [&](index task, int slot) {
    const tile& t = tiles[static_cast<std::size_t>(task)];
    const index rows = t.rows.end - t.rows.begin;
    float* packed = m.of(slot)(buffer::right, round_up(rows, 16) * depth);
    for (index r = 0; r < rows; r += block_columns) {
      const index count = std::min(block_columns, rows - r);
      pack_transposed(m.set, x + (t.rows.begin + r) * depth, count, depth, depth, packed + r * depth, round_up(count, 16));
    }
    alignas(64) float sums[block_rows * block_columns];
    const W* matrix = w + t.rows.matrix * columns * depth;
    for (index n = t.column_begin; n < t.column_end; n += block_rows) {
      const index height = std::min(block_rows, t.column_end - n);
      const auto [left, left_stride] = as_floats(m, slot, buffer::left, matrix + n * depth, depth, height, depth);
      for (index r = 0; r < rows; r += block_columns) {
        const index count = std::min(block_columns, rows - r);
        const index width = round_up(count, 16);
        block_product<order::rows>(m.set, height, width, depth, left, left_stride, packed + r * depth, width, sums, block_columns, false);
        scatter_transposed(m.set, sums, height, count, y + (t.rows.begin + r) * columns + n, columns, accumulate);
      }
    }
  });
}

/// dx[r] = dy[r] w[matrix]. @shape dy[*, depth], w[*, depth, columns], dx[*, columns]
template <class Y, class W, class X>
void product_input_gradient(machine& m, const Y* dy, const W* w, X* dx, const std::vector<row_group>& groups, index columns, index depth,
                            bool accumulate) {
  const index most_rows = std::clamp<index>(panel_budget / std::max<index>(1, depth) / block_rows * block_rows, 96, 384);
  const std::vector<tile> tiles = cut(groups, columns, depth, most_rows, block_rows, block_columns, 96);
  m.run(static_cast<index>(tiles.size()), operations(tiles, depth), [&](index task, int slot) {
    const tile& t = tiles[static_cast<std::size_t>(task)];
    const index rows = t.rows.end - t.rows.begin;
    const auto [left, left_stride] = as_floats(m, slot, buffer::left, dy + t.rows.begin * depth, depth, rows, depth);
    const W* matrix = w + t.rows.matrix * depth * columns;
    for (index j = t.column_begin; j < t.column_end; j += block_columns) {
      const index width = std::min(block_columns, t.column_end - j);
      const float* right = nullptr;
      index right_stride = columns;
      if constexpr (std::is_same_v<W, float>) right = matrix + j;
      if (copy_panel<W>(columns, rows)) {
        float* panel = m.of(slot)(buffer::right, depth * block_columns);
        call<copy_block>(m.set, matrix + j, columns, depth, width, panel, block_columns);
        right = panel;
        right_stride = block_columns;
      }
      X* out = dx + t.rows.begin * columns + j;
      if constexpr (std::is_same_v<X, float>) {
        block_product<order::rows>(m.set, rows, width, depth, left, left_stride, right, right_stride, out, columns, accumulate);
      } else {
        float* sums = m.of(slot)(buffer::result, rows * block_columns);
        block_product<order::rows>(m.set, rows, width, depth, left, left_stride, right, right_stride, sums, block_columns, false);
        call<write_block>(m.set, static_cast<const float*>(sums), block_columns, rows, width, out, columns, accumulate);
      }
    }
  });
}

/// dw[matrix] += the sum over the rows of the group of dy[r]^T x[r]. @shape dy[*, height], x[*, columns], dw[*, height, columns]
/// The rows are summed in blocks of 512, in order, whatever the tiles are.
template <class Y, class X>
void product_weight_gradient(machine& m, const Y* dy, const X* x, float* dw, const std::vector<row_group>& groups, index height,
                             index columns) {
  constexpr index row_block = 512;
  struct part {
    row_group rows;
    index height_begin, height_end, column_begin, column_end;
    double cost;
  };
  std::vector<part> parts;
  double total = 0;
  for (const row_group& group : groups) {
    const index rows = group.end - group.begin;
    if (rows == 0 || height == 0 || columns == 0) continue;
    const double cell_cost = 2.0 * static_cast<double>(rows);
    const auto fitting = [&](index other, index least) {
      return std::max(least, static_cast<index>(tile_operations / (cell_cost * static_cast<double>(other))));
    };
    const index height_part = even_part(height, fitting(columns, 96), block_rows);
    const index column_part = even_part(columns, fitting(std::min(height, height_part), 96), block_columns);
    for (index h = 0; h < height; h += height_part) {
      const index h_end = std::min(height, h + height_part);
      for (index c = 0; c < columns; c += column_part) {
        const index c_end = std::min(columns, c + column_part);
        parts.push_back({group, h, h_end, c, c_end, cell_cost * static_cast<double>((h_end - h) * (c_end - c))});
        total += parts.back().cost;
      }
    }
  }
  std::stable_sort(parts.begin(), parts.end(), [](const part& a, const part& b) { return a.cost > b.cost; });
  m.run(static_cast<index>(parts.size()), total, [&](index task, int slot) {
    const part& t = parts[static_cast<std::size_t>(task)];
    const index wide = t.height_end - t.height_begin;
    for (index r = t.rows.begin; r < t.rows.end; r += row_block) {
      const index depth = std::min(row_block, t.rows.end - r);
      const auto [left, left_stride] = as_floats(m, slot, buffer::left, dy + r * height + t.height_begin, height, depth, wide);
      for (index j = t.column_begin; j < t.column_end; j += block_columns) {
        const index width = std::min(block_columns, t.column_end - j);
        const float* right = nullptr;
        index right_stride = columns;
        if constexpr (std::is_same_v<X, float>) right = x + r * columns + j;
        if (copy_panel<X>(columns, wide)) {
          float* panel = m.of(slot)(buffer::right, row_block * block_columns);
          call<copy_block>(m.set, x + r * columns + j, columns, depth, width, panel, block_columns);
          right = panel;
          right_stride = block_columns;
        }
        float* out = dw + (t.rows.matrix * height + t.height_begin) * columns + j;
        block_product<order::columns>(m.set, wide, width, depth, left, left_stride, right, right_stride, out, columns, true);
      }
    }
  });
}

}  // namespace esft::detail::eigen
