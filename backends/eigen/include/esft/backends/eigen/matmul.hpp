// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Grouped matrix products y = x w^T, dx = dy w, dw += dy^T x of row-major operands: one list of tiles over all groups, largest first,
/// one launch per op. products.hpp chooses faster kernels where the layout has some.

#include <esft/backends/eigen/machine.hpp>
#include <esft/backends/eigen/packing.hpp>
#include <esft/backends/eigen/rows.hpp>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace esft::detail::eigen {

/// One task: rows and columns of one group.
struct tile {
  row_group rows;
  index column_begin = 0;
  index column_end = 0;
  double cost = 0;
  bool tall = false;  ///< many rows for few columns
};

inline constexpr double tile_operations = 24e6;  // about 0.15 ms of one core: long beside a wake-up, short beside a loop
inline constexpr index panel_budget = 262144;    // floats of an operand block that should stay in a 2 MiB second-level cache

constexpr index round_up(index value, index step) noexcept { return (value + step - 1) / step * step; }
/// `total` in equal parts of at most `most`, each a multiple of `step`.
constexpr index even_part(index total, index most, index step) noexcept {
  const index parts = std::max<index>(1, (total + most - 1) / most);
  return std::max(step, round_up((total + parts - 1) / parts, step));
}

/// How groups are cut into tiles.
struct cutting {
  index columns, depth;
  index most_rows, row_step;         ///< rows of a tile
  index least_columns, column_step;  ///< columns of a tile: as many as make it about `tile_operations`
};

/// Appends the tiles of every group.
inline void cut(const std::vector<row_group>& groups, const cutting& by, std::vector<tile>& tiles) {
  for (const row_group& group : groups) {
    const index rows = group.end - group.begin;
    if (rows == 0 || by.columns == 0) continue;
    const index row_part = even_part(rows, by.most_rows, by.row_step);
    const double column_cost = 2.0 * static_cast<double>(std::min(rows, row_part)) * static_cast<double>(std::max<index>(1, by.depth));
    const index wanted = std::max(by.least_columns, static_cast<index>(std::min(tile_operations / column_cost, 1e9)));
    const index column_part = even_part(by.columns, wanted, by.column_step);
    for (index r = group.begin; r < group.end; r += row_part) {
      const index r_end = std::min(group.end, r + row_part);
      for (index c = 0; c < by.columns; c += column_part) {
        const index c_end = std::min(by.columns, c + column_part);
        tiles.push_back({{r, r_end, group.matrix}, c, c_end, static_cast<double>((r_end - r) * (c_end - c))});
      }
    }
  }
}

inline void largest_first(std::vector<tile>& tiles) {
  std::stable_sort(tiles.begin(), tiles.end(), [](const tile& a, const tile& b) { return a.cost > b.cost; });
}

inline double operations(const std::vector<tile>& tiles, index depth) {
  double sum = 0;
  for (const tile& part : tiles) sum += part.cost;
  return 2 * sum * static_cast<double>(depth);
}

/// A block as floats with its row stride: in place where it already is, else widened into `where`.
template <class T>
std::pair<const float*, index> as_floats(machine& m, int slot, buffer where, const T* from, index from_stride, index rows, index columns) {
  if constexpr (std::is_same_v<T, float>) {
    return {from, from_stride};
  } else {
    float* to = m.of(slot)(where, rows * columns);
    call<copy_block>(m.set, from, from_stride, rows, columns, to, columns);
    return {to, columns};
  }
}

/// A matrix [depth, columns] seen as panels of `width` columns, either in place or copied together.
struct panels {
  const float* data;
  index width;         ///< columns of a panel: 48, or 32 where 48 would leave a last panel of 16, for which loads are the limit
  index row_stride;    ///< between rows of a panel
  index panel_stride;  ///< between panels
};

/// Whether a matrix is worth copying into panels before `rows` rows of products read it: always for bf16, and for long rows, whose
/// lines would fall onto few sets of the first-level cache and each onto a page of its own.
template <class T>
constexpr bool worth_copying(index stride, index rows) noexcept {
  return !std::is_same_v<T, float> || (stride >= 512 && rows >= 8);
}

template <class T>
panels panels_of(machine& m, int slot, bool copied, const T* from, index stride, index depth, index columns) {
  const index rest = columns % block_columns;
  const index width = rest > 0 && rest <= 16 && columns > block_columns ? 32 : block_columns;
  if constexpr (std::is_same_v<T, float>) {
    if (!copied) return {from, width, stride, width};
  }
  const index panel_stride = depth * width + 16;  // not a multiple of 4096 bytes: panels must not share cache sets
  float* to = m.of(slot)(buffer::right, (columns + width - 1) / width * panel_stride);
  call<eigen::copy_panels>(m.set, from, stride, depth, columns, width, to, panel_stride);
  return {to, width, width, panel_stride};
}

/// Rounds and stores a block of sums, unless they already lie in place.
template <class Y>
void store_block(isa set, const float* sums, index stride, index rows, index columns, Y* to, index to_stride, bool accumulate) {
  if constexpr (!std::is_same_v<Y, float>) call<write_block>(set, sums, stride, rows, columns, to, to_stride, accumulate);
}

/// Few rows: x is packed across rows once, and the weight's rows are read where they lie, each once per tile.
template <class X, class W, class Y>
void forward_few_rows(machine& m, int slot, const tile& t, const X* x, const W* w, Y* y, index columns, index depth,
                      bool accumulate) {
  const W* const matrix = w + t.rows.matrix * columns * depth;
  const index rows = t.rows.end - t.rows.begin;
  float* packed = m.of(slot)(buffer::right, round_up(rows, 16) * depth);
  for (index r = 0; r < rows; r += block_columns) {
    const index count = std::min(block_columns, rows - r);
    pack_transposed(m.set, x + (t.rows.begin + r) * depth, count, depth, depth, packed + r * depth, round_up(count, 16));
  }
  alignas(64) float sums[block_rows * block_columns];
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
}

/// Many rows: 48 rows of the weight are packed at a time, and the rows of x are read where they lie.
template <class X, class W, class Y>
void forward_many_rows(machine& m, int slot, const tile& t, const X* x, const W* w, Y* y, index columns, index depth,
                       bool accumulate) {
  const W* const matrix = w + t.rows.matrix * columns * depth;
  const index rows = t.rows.end - t.rows.begin;
  const auto [left, left_stride] = as_floats(m, slot, buffer::left, x + t.rows.begin * depth, depth, rows, depth);
  for (index n = t.column_begin; n < t.column_end;) {
    const index width = next_width(t.column_end - n);
    const index stride = round_up(width, 16);
    float* panel = m.of(slot)(buffer::right, depth * block_columns);
    pack_transposed(m.set, matrix + n * depth, width, depth, depth, panel, stride);
    Y* out = y + t.rows.begin * columns + n;
    if constexpr (std::is_same_v<Y, float>) {
      block_product<order::rows>(m.set, rows, width, depth, left, left_stride, panel, stride, out, columns, accumulate);
    } else {
      float* sums = m.of(slot)(buffer::result, rows * block_columns);
      block_product<order::rows>(m.set, rows, width, depth, left, left_stride, panel, stride, sums, block_columns, false);
      call<write_block>(m.set, static_cast<const float*>(sums), block_columns, rows, width, out, columns, accumulate);
    }
    n += width;
  }
}

/// y[r] = x[r] w[matrix]^T. @shape x[*, depth], w[*, columns, depth], y[*, columns]
template <class X, class W, class Y>
void plain_forward(machine& m, const X* x, const W* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                     bool accumulate) {
  constexpr index many = 384;
  const index few = std::clamp<index>(panel_budget / std::max<index>(1, depth) / block_columns * block_columns, block_columns, 192);
  std::vector<row_group> tall;
  std::vector<row_group> flat;
  for (const row_group& group : groups) {
    const index rows = group.end - group.begin;
    const bool is_tall = columns * ((rows + many - 1) / many) <= rows && depth <= 1024;  // less to pack on the side of the weight
    (is_tall ? tall : flat).push_back(group);
  }
  std::vector<tile> tiles;
  cut(flat, {columns, depth, few, 16, 64, block_rows}, tiles);
  const std::size_t flat_tiles = tiles.size();
  cut(tall, {columns, depth, many, block_rows, 96, block_columns}, tiles);
  for (std::size_t i = flat_tiles; i < tiles.size(); ++i) tiles[i].tall = true;
  largest_first(tiles);
  m.run(static_cast<index>(tiles.size()), operations(tiles, depth), [&](index task, int slot) {
    const tile& t = tiles[static_cast<std::size_t>(task)];
    if (t.tall) {
      forward_many_rows(m, slot, t, x, w, y, columns, depth, accumulate);
    } else {
      forward_few_rows(m, slot, t, x, w, y, columns, depth, accumulate);
    }
  });
}

/// dx[r] = dy[r] w[matrix]. @shape dy[*, depth], w[*, depth, columns], dx[*, columns]
/// The depth is summed in blocks of 256, in order, so that a block of the weight stays in the second-level cache.
template <class Y, class W, class X>
void plain_input_gradient(machine& m, const Y* dy, const W* w, X* dx, const std::vector<row_group>& groups, index columns,
                          index depth, bool accumulate) {
  constexpr index depth_block = 256;
  constexpr index column_block = 1024;
  std::vector<tile> tiles;
  cut(groups, {columns, depth, 384, block_rows, columns <= 1024 ? 96 : 1024, block_columns}, tiles);
  largest_first(tiles);
  m.run(static_cast<index>(tiles.size()), operations(tiles, depth), [&](index task, int slot) {
    const tile& t = tiles[static_cast<std::size_t>(task)];
    const index rows = t.rows.end - t.rows.begin;
    const auto [left, left_stride] = as_floats(m, slot, buffer::left, dy + t.rows.begin * depth, depth, rows, depth);
    const W* const matrix = w + t.rows.matrix * depth * columns;
    const bool copied = worth_copying<W>(columns, rows);
    for (index c = t.column_begin; c < t.column_end; c += column_block) {
      const index wide = std::min(column_block, t.column_end - c);
      X* const out = dx + t.rows.begin * columns + c;
      float* sums = nullptr;
      index sums_stride = wide;
      if constexpr (std::is_same_v<X, float>) {
        sums = out;
        sums_stride = columns;
      } else {
        sums = m.of(slot)(buffer::result, rows * wide);
      }
      const bool adding = std::is_same_v<X, float> && accumulate;
      for (index p = 0; p == 0 || p < depth; p += depth_block) {
        const index deep = std::min(depth_block, depth - p);
        const panels right = panels_of(m, slot, copied, matrix + p * columns + c, columns, deep, wide);
        for (index j = 0, panel = 0; j < wide; j += right.width, ++panel) {
          block_product<order::rows>(m.set, rows, std::min(right.width, wide - j), deep, left + p, left_stride,
                                     right.data + panel * right.panel_stride, right.row_stride, sums + j, sums_stride, adding || p > 0);
        }
      }
      store_block(m.set, static_cast<const float*>(sums), sums_stride, rows, wide, out, columns, accumulate);
    }
  });
}

/// One tile of dw. Where x was copied into panels, the rows of dw are walked eight at a time over all columns, so that dw streams by.
template <class Y, class X>
void weight_gradient_tile(machine& m, int slot, const Y* dy, const X* x, float* dw, index height, index columns,
                          const row_group& rows, index height_begin, index height_end, index column_begin, index column_end) {
  constexpr index row_block = 512;
  const index tall = height_end - height_begin;
  const index wide = column_end - column_begin;
  const bool copied = worth_copying<X>(columns, tall);
  for (index r = rows.begin; r < rows.end; r += row_block) {
    const index depth = std::min(row_block, rows.end - r);
    const auto [left, left_stride] = as_floats(m, slot, buffer::left, dy + r * height + height_begin, height, depth, tall);
    const panels right = panels_of(m, slot, copied, x + r * columns + column_begin, columns, depth, wide);
    const index step = copied ? block_rows : std::max<index>(1, tall);
    for (index h = 0; h < tall; h += step) {
      const index count = std::min(step, tall - h);
      float* const out = dw + (rows.matrix * height + height_begin + h) * columns + column_begin;
      for (index j = 0, panel = 0; j < wide; j += right.width, ++panel) {
        block_product<order::columns>(m.set, count, std::min(right.width, wide - j), depth, left + h, left_stride,
                                      right.data + panel * right.panel_stride, right.row_stride, out + j, columns, true);
      }
    }
  }
}

/// dw[matrix] += the sum over the rows of the group of dy[r]^T x[r]. @shape dy[*, height], x[*, columns], dw[*, height, columns]
/// The rows are summed in blocks of 512, in order, whatever the tiles are.
template <class Y, class X>
void plain_weight_gradient(machine& m, const Y* dy, const X* x, float* dw, const std::vector<row_group>& groups, index height,
                             index columns) {
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
    const index kept = std::max(block_columns, panel_budget / std::min<index>(rows, 512));  // columns of x whose panels stay in the cache
    const index height_part = even_part(height, fitting(std::min(columns, kept), 96), block_rows);
    const index column_part = even_part(columns, std::min(kept, fitting(std::min(height, height_part), 96)), block_columns);
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
    weight_gradient_tile(m, slot, dy, x, dw, height, columns, t.rows, t.height_begin, t.height_end, t.column_begin, t.column_end);
  });
}

}  // namespace esft::detail::eigen
