// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Grouped products of floats with weights in panels of sixteen rows (`matrix_layout{16, 1}`): read where they lie by every product.

#include <esft/backends/eigen/machine.hpp>
#include <esft/backends/eigen/panel_kernel.hpp>
#include <esft/backends/eigen/rows.hpp>

#include <algorithm>
#include <vector>

namespace esft::detail::eigen {

/// Depth of the blocks of the right operand: three panels of it take 24 KiB, half of the first-level cache.
inline constexpr index panel_depth = 128;
/// Floats of packed rows that stay in a 2 MiB second-level cache beside the weights that stream by.
inline constexpr index panel_rows_budget = 262144;
/// About 0.3 ms of one core.
inline constexpr double panel_task_operations = 45e6;

/// One task: some rows of a group with some panels of its matrix.
struct panel_task {
  row_group rows;
  index packed = 0;  ///< where the packed rows of this task begin, in floats
  index begin = 0;   ///< panels, or whatever the op cuts
  index end = 0;
  double cost = 0;
  bool alone = false;  ///< no other task reads these rows
};

constexpr index divide_up(index value, index by) noexcept { return (value + by - 1) / by; }

/// How many panels to take next when `remaining` are left: three, but two and two of four.
constexpr index next_panels(index remaining) noexcept { return remaining == 4 ? 2 : std::min(panel_vectors, remaining); }

/// The tasks of an op and how much they read.
class panel_tasks {
 public:
  /// Cuts the rows of a group into equal parts of at most `most_rows` and these into ranges of its `units`, `panel_vectors` at a time.
  /// `per_unit` are the operations of one row with one unit, `packed_width` the floats that a packed row takes.
  void add(const row_group& group, index most_rows, index units, double per_unit, index packed_width = 0) {
    if (group.rows() <= 0 || units <= 0) return;
    const index row_part = divide_up(divide_up(group.rows(), divide_up(group.rows(), most_rows)), panel_width) * panel_width;
    const double cost = static_cast<double>(std::min(row_part, group.rows())) * per_unit * static_cast<double>(units);
    const index parts = std::max<index>(1, static_cast<index>(cost / panel_task_operations));
    const index part = divide_up(divide_up(units, parts), panel_vectors) * panel_vectors;
    for (index r = group.begin; r < group.end; r += row_part) {
      const row_group rows{r, std::min(group.end, r + row_part), group.matrix};
      for (index u = 0; u < units; u += part) {
        const index end = std::min(units, u + part);
        tasks_.push_back({rows, packed_, u, end, static_cast<double>(rows.rows() * (end - u)) * per_unit, part >= units});
        operations_ += tasks_.back().cost;
      }
      if (part < units) packed_ += divide_up(rows.rows(), panel_width) * panel_width * packed_width;
    }
  }
  /// Those of many rows first, so that no thread is left with a long one at the end.
  void largest_first() {
    std::stable_sort(tasks_.begin(), tasks_.end(), [](const panel_task& a, const panel_task& b) { return a.cost > b.cost; });
  }
  [[nodiscard]] index size() const noexcept { return static_cast<index>(tasks_.size()); }
  [[nodiscard]] double operations() const noexcept { return operations_; }
  [[nodiscard]] index packed() const noexcept { return packed_; }
  const panel_task& operator[](index i) const { return tasks_[static_cast<std::size_t>(i)]; }

 private:
  std::vector<panel_task> tasks_;
  double operations_ = 0;
  index packed_ = 0;
};

/// Tasks of a product whose rows are packed, `depth` floats each, and meet `units` panels.
inline panel_tasks row_tasks(const std::vector<row_group>& groups, index units, index depth, index panels_per_unit = 1) {
  panel_tasks tasks;
  const index most_rows = std::max<index>(panel_width, panel_rows_budget / std::max<index>(1, depth));
  for (const row_group& group : groups) {
    tasks.add(group, most_rows, units, 2.0 * static_cast<double>(panel_width * panels_per_unit * std::max<index>(1, depth)), depth);
  }
  tasks.largest_first();
  return tasks;
}

/// Rows as panels. Those that several tasks read are packed once for all, before; a task that is alone packs its own, into its cache.
class packed_rows {
 public:
  packed_rows(machine& m, row_source<float> x, const panel_tasks& tasks, index depth) : machine_(&m), x_(x), depth_(depth) {
    struct panel {
      index row, rows, at;
    };
    std::vector<panel> all;
    for (index i = 0; i < tasks.size(); ++i) {
      const panel_task& t = tasks[i];
      if (t.begin != 0 || t.alone) continue;
      for (index r = t.rows.begin; r < t.rows.end; r += panel_width) {
        all.push_back({r, std::min(panel_width, t.rows.end - r), t.packed + (r - t.rows.begin) * depth});
      }
    }
    float* packed = m.of(0)(buffer::more, tasks.packed());
    m.rows(static_cast<index>(all.size()), static_cast<double>(panel_width * depth), [&](index begin, index end, int) {
      for (index i = begin; i < end; ++i) {
        const panel& p = all[static_cast<std::size_t>(i)];
        rows_to_panel(m.set, x, p.row, p.rows, depth, packed + p.at);
      }
    });
    packed_ = packed;
  }
  /// The rows of a task. @shape [rows / 16, depth, 16]
  const float* of(const panel_task& t, int slot) const {
    if (!t.alone) return packed_ + t.packed;
    float* own = machine_->of(slot)(buffer::left, divide_up(t.rows.rows(), panel_width) * panel_width * depth_);
    for (index r = t.rows.begin; r < t.rows.end; r += panel_width) {
      rows_to_panel(machine_->set, x_, r, std::min(panel_width, t.rows.end - r), depth_, own + (r - t.rows.begin) * depth_);
    }
    return own;
  }

 private:
  machine* machine_;
  row_source<float> x_;
  index depth_;
  const float* packed_ = nullptr;
};

/// Where a block of a result gathers over the depth: in place, or aside where only a part of a panel's columns exists, and, for tiles of
/// sixteen rows (all sets but AVX-512), where these would fall onto one or two sets of a first-level cache. The same bits either way.
class result_block {
 public:
  /// With `accumulate` the sums begin with what is there. `whole`: all the columns of the panels exist.
  result_block(machine& m, int slot, float* out, index out_stride, index rows, index columns, bool whole, bool accumulate)
      : machine_(&m), out_(out), out_stride_(out_stride), rows_(rows), columns_(columns) {
    constexpr index crowding = 512;  // floats: half of what the sets of a 32 KiB cache of eight ways cover once
    if (whole && (m.set >= isa::avx512 || out_stride % crowding != 0)) return;
    aside_ = m.of(slot)(buffer::result, rows * panel_vectors * panel_width);
    if (accumulate && !whole) std::fill_n(aside_, rows * stride, 0.0F);
    if (accumulate) call<copy_block>(m.set, static_cast<const float*>(out), out_stride, rows, columns, aside_, stride);
  }
  /// Row `row` on.
  [[nodiscard]] panel_result from(index row) const noexcept {
    if (aside_ == nullptr) return {out_ + row * out_stride_, out_stride_, panel_width};
    return {aside_ + row * stride, stride, panel_width};
  }
  void finish() const {
    if (aside_ == nullptr) return;
    call<write_block>(machine_->set, static_cast<const float*>(aside_), stride, rows_, columns_, out_, out_stride_, false);
  }

 private:
  static constexpr index stride = panel_vectors * panel_width;
  machine* machine_;
  float* out_;
  index out_stride_, rows_, columns_;
  float* aside_ = nullptr;
};

/// y[rows][16 begin .. 16 end) for packed rows. The weight is read block by block, each of them once, the next one prefetched.
inline void panel_forward_block(machine& m, int slot, const float* packed, const row_group& rows, const float* matrix, index begin,
                                index end, index depth, float* y, index y_stride, bool accumulate) {
  const index tiles = divide_up(rows.rows(), rows_of_tile(m.set));
  for (index p = begin; p < end;) {
    const index vectors = next_panels(end - p);
    const float* panels = matrix + p * depth * panel_width;
    const result_block sums(m, slot, y + rows.begin * y_stride + p * panel_width, y_stride, rows.rows(), vectors * panel_width, true,
                              accumulate);
    for (index k = 0; k == 0 || k < depth; k += panel_depth) {
      const index deep = std::min(panel_depth, depth - k);
      const float* right = panels + k * panel_width;
      lookahead ahead{k + deep < depth ? right + deep * panel_width : panels + vectors * depth * panel_width, depth * panel_width,
                      divide_up(std::min(panel_depth, depth) * panel_width, tiles)};
      multiply_panels(m.set, rows.rows(), vectors, deep, packed + k * panel_width, depth * panel_width, right, depth * panel_width,
                      sums.from(0), accumulate || k > 0, ahead);
    }
    sums.finish();
    p += vectors;
  }
}

/// The same for a small weight that stays in the cache and rows that are not packed yet: strip by strip, the next one fetched meanwhile.
inline void panel_forward_strips(machine& m, int slot, row_source<float> x, const row_group& rows, const float* matrix, index columns,
                                 index depth, float* y, bool accumulate) {
  constexpr index strip = panel_vectors * panel_width;
  const index tiles = strip / rows_of_tile(m.set);
  float* packed = m.of(slot)(buffer::left, strip * depth);
  const index share = divide_up(strip * std::max(depth, columns), tiles * divide_up(columns, strip));
  for (index r = rows.begin; r < rows.end; r += strip) {
    const index count = std::min(strip, rows.end - r);
    for (index i = 0; i < count; i += panel_width)
      rows_to_panel(m.set, x, r + i, std::min(panel_width, count - i), depth, packed + i * depth);
    lookahead ahead;
    if (r + strip < rows.end) ahead = {x.gathered() ? nullptr : x[r + strip], y + (r + strip) * columns, nullptr, share};
    for (index p = 0; p < columns / panel_width;) {
      const index vectors = next_panels(columns / panel_width - p);
      multiply_panels(m.set, count, vectors, depth, packed, depth * panel_width, matrix + p * depth * panel_width, depth * panel_width,
                      {y + r * columns + p * panel_width, columns, panel_width}, accumulate, ahead);
      for (const float*& stream : ahead.from) {
        if (stream != nullptr) stream += tiles * share;
      }
      p += vectors;
    }
  }
}

/// Whether a weight is one of those.
constexpr bool small_matrix(index columns, index depth) noexcept { return depth <= 2 * panel_depth && columns * depth <= 65536; }

/// y[r] = x[r] w[matrix]^T. @shape x[*, depth], w[*, columns / 16, depth, 16], y[*, columns] @pre columns % 16 == 0
inline void panel_forward(machine& m, row_source<float> x, const float* w, float* y, const std::vector<row_group>& groups, index columns,
                          index depth, bool accumulate) {
  const panel_tasks tasks = row_tasks(groups, columns / panel_width, depth);
  const packed_rows packed(m, x, tasks, depth);
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const float* matrix = w + t.rows.matrix * columns * depth;
    if (t.alone && small_matrix(columns, depth)) {
      return panel_forward_strips(m, slot, x, t.rows, matrix, columns, depth, y, accumulate);
    }
    panel_forward_block(m, slot, packed.of(t, slot), t.rows, matrix, t.begin, t.end, depth, y, columns, accumulate);
  });
}

/// h[r] = silu(gate) up for columns [begin, end) of rows of gate_up, as `swiglu_rows` computes it.
template <class vec>
struct swiglu_columns {
  ESFT_EIGEN_INLINE static void run(const float* gate_up, float* h, index first, index last, index begin, index end, index inner) {
    for (index r = first; r < last; ++r) {
      for (index i = begin; i < end; i += lanes_of<vec>) {
        vec a;
        vec b;
        vec s;
        load(a, gate_up + r * 2 * inner + i, end - i);
        load(b, gate_up + r * 2 * inner + inner + i, end - i);
        sigmoid(s, a);
        store(h + r * inner + i, a * s * b, end - i);
      }
    }
  }
};

/// gate_up[r] = x[r] w[matrix]^T and h[r] = silu(gate) up while they are in the cache.
/// @shape x[*, depth], w[*, 2 inner / 16, depth, 16], gate_up[*, 2 inner], h[*, inner] @pre inner % 16 == 0
inline void panel_swiglu_forward(machine& m, row_source<float> x, const float* w, float* gate_up, float* h,
                                 const std::vector<row_group>& groups, index inner, index depth) {
  const panel_tasks tasks = row_tasks(groups, inner / panel_width, depth, 2);
  const packed_rows packed(m, x, tasks, depth);
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const float* matrix = w + t.rows.matrix * 2 * inner * depth;
    const index up = inner / panel_width;
    if (t.alone && small_matrix(2 * inner, depth)) {
      panel_forward_strips(m, slot, x, t.rows, matrix, 2 * inner, depth, gate_up, false);
      return call<swiglu_columns>(m.set, static_cast<const float*>(gate_up), h, t.rows.begin, t.rows.end, index{0}, inner, inner);
    }
    const float* left = packed.of(t, slot);
    panel_forward_block(m, slot, left, t.rows, matrix, t.begin, t.end, depth, gate_up, 2 * inner, false);
    panel_forward_block(m, slot, left, t.rows, matrix, up + t.begin, up + t.end, depth, gate_up, 2 * inner, false);
    call<swiglu_columns>(m.set, static_cast<const float*>(gate_up), h, t.rows.begin, t.rows.end, t.begin * panel_width, t.end * panel_width,
                         inner);
  });
}

/// dx[rows][16 begin .. 16 end) for packed rows of dy. Blocks of the weight are turned on the way, each of them once per task; while the
/// rows meet one, the next is fetched.
inline void panel_input_gradient_block(machine& m, int slot, const float* packed, const row_group& rows, const float* matrix, index begin,
                                       index end, index columns, index depth, float* dx, bool accumulate) {
  const index step = rows_of_tile(m.set);
  const index tiles = divide_up(rows.rows(), step);
  const index chunk = columns * panel_width;  // from panel to panel of the weight
  float* turned = m.of(slot)(buffer::right, panel_vectors * panel_depth * panel_width);
  for (index p = begin; p < end;) {
    const bool whole = (p + 1) * panel_width <= columns;  // else the last columns, fewer than a panel
    const index vectors = whole ? next_panels(std::min(end, columns / panel_width) - p) : 1;
    const index wide = std::min(vectors * panel_width, columns - p * panel_width);
    const result_block sums(m, slot, dx + rows.begin * columns + p * panel_width, columns, rows.rows(), wide, whole, accumulate);
    for (index n = 0; n == 0 || n < depth; n += panel_depth) {
      const index deep = std::min(panel_depth, depth - n);
      const float* block = matrix + n * columns + p * panel_width * panel_width;
      turn_panels(m.set, block, chunk, deep, wide, turned);
      const float* next = n + deep < depth ? block + deep * columns : matrix + (p + vectors) * panel_width * panel_width;
      const index chunks = deep / panel_width;
      for (index tile = 0; tile < tiles; ++tile) {
        const index row = tile * step;
        // the tile's share of the next block: some of its chunks, or a part of one
        const index first = tile * chunks / tiles;
        const index per_tile = divide_up(wide * panel_width, divide_up(tiles, std::max<index>(1, chunks)));
        const index part = tile - divide_up(first * tiles, std::max<index>(1, chunks));
        multiply_panels(m.set, std::min(step, rows.rows() - row), vectors, deep,
                        packed + row / panel_width * panel_width * depth + n * panel_width + row % panel_width, 0, turned,
                        deep * panel_width, sums.from(row), accumulate || n > 0,
                        {next + first * chunk + part * per_tile, chunk, per_tile});
      }
    }
    sums.finish();
    p += vectors;
  }
}

/// dx[r] = dy[r] w[matrix]. @shape dy[*, depth], w[*, depth / 16, columns, 16], dx[*, columns] @pre depth % 16 == 0
inline void panel_input_gradient(machine& m, row_source<float> dy, const float* w, float* dx, const std::vector<row_group>& groups,
                                 index columns, index depth, bool accumulate) {
  const panel_tasks tasks = row_tasks(groups, divide_up(columns, panel_width), depth);
  const packed_rows packed(m, dy, tasks, depth);
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const float* matrix = w + t.rows.matrix * columns * depth;
    if (t.alone && small_matrix(columns, depth) && columns % panel_width == 0) {
      float* turned = m.of(slot)(buffer::right, columns * depth);
      turn_panels(m.set, matrix, columns * panel_width, depth, columns, turned);
      return panel_forward_strips(m, slot, dy, t.rows, turned, columns, depth, dx, accumulate);
    }
    panel_input_gradient_block(m, slot, packed.of(t, slot), t.rows, matrix, t.begin, t.end, columns, depth, dx, accumulate);
  });
}

/// The operands of one group of a weight gradient as panels of their columns, with the rows of the group as depth.
struct panel_columns {
  row_group rows;
  index at = 0;        ///< where they begin among those packed for all
  bool alone = false;  ///< packed by the only task of the group
};

/// dw[matrix] += the sum over the rows of the group of dy[r]^T x[r].
/// @shape dy[*, height], x[*, columns], dw[*, height / 16, columns, 16] @pre height % 16 == 0
inline void panel_weight_gradient(machine& m, row_source<float> dy, row_source<float> x, float* dw, const std::vector<row_group>& groups,
                                  index height, index columns) {
  struct piece {
    index group, row;
  };
  std::vector<panel_columns> all;
  std::vector<piece> pieces;
  panel_tasks tasks;
  index used = 0;
  const index wide = divide_up(columns, panel_width) * panel_width;
  for (const row_group& group : groups) {
    const index rows = group.rows();
    if (rows <= 0) continue;
    const index number = static_cast<index>(all.size());
    const index kept = std::max<index>(4 * panel_width, panel_rows_budget / rows);  // columns of x that stay in the cache
    const index before = tasks.size();
    tasks.add({0, columns, number}, kept, height / panel_width, 2.0 * static_cast<double>(rows * panel_width));
    all.push_back({group, used, tasks.size() == before + 1});
    if (all.back().alone) continue;
    used += rows * (wide + height);
    for (index r = 0; r < rows; r += panel_width) pieces.push_back({number, r});
  }
  tasks.largest_first();
  // x first, then dy; sixteen rows at a time
  const auto pack = [&](const row_group& rows, index row, float* to) {
    const index count = std::min(panel_width, rows.rows() - row);
    const index panel = rows.rows() * panel_width;
    call<columns_to_panels>(m.set, x, rows.begin + row, count, columns, to + row * panel_width, panel);
    call<columns_to_panels>(m.set, dy, rows.begin + row, count, height, to + rows.rows() * wide + row * panel_width, panel);
  };
  float* shared = m.of(0)(buffer::more, used);
  m.rows(static_cast<index>(pieces.size()), static_cast<double>(panel_width * (wide + height)), [&](index begin, index end, int) {
    for (index i = begin; i < end; ++i) {
      const piece& p = pieces[static_cast<std::size_t>(i)];
      const panel_columns& o = all[static_cast<std::size_t>(p.group)];
      pack(o.rows, p.row, shared + o.at);
    }
  });
  const index fetched = rows_of_tile(m.set) * panel_width;
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const panel_columns& o = all[static_cast<std::size_t>(t.rows.matrix)];
    const index rows = o.rows.rows();
    const float* left = shared + o.at;
    if (o.alone) {
      float* own = m.of(slot)(buffer::left, rows * (wide + height));
      for (index r = 0; r < rows; r += panel_width) pack(o.rows, r, own);
      left = own;
    }
    const float* right = left + rows * wide;
    float* matrix = dw + o.rows.matrix * height * columns;
    for (index p = t.begin; p < t.end;) {
      const index vectors = next_panels(t.end - p);
      float* out = matrix + p * panel_width * columns + t.rows.begin * panel_width;
      for (index r = 0; r < rows; r += panel_depth) {
        const index deep = std::min(panel_depth, rows - r);
        multiply_panels(m.set, t.rows.rows(), vectors, deep, left + t.rows.begin * rows + r * panel_width, rows * panel_width,
                        right + (p * rows + r) * panel_width, rows * panel_width, {out, panel_width, columns * panel_width}, true,
                        {out + 2 * fetched, columns * panel_width, fetched});
      }
      p += vectors;
    }
  });
}

}  // namespace esft::detail::eigen
