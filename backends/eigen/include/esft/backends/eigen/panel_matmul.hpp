// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Grouped products by the float kernel on panels, with weights in `kernel_layout`. Floats, in panels of sixteen rows, are read where they
/// lie by every product; bf16, in tiles, becomes panels block by block on the way: for CPUs without instructions for it.

#include <esft/backends/eigen/machine.hpp>
#include <esft/backends/eigen/panel_kernel.hpp>
#include <esft/backends/eigen/panel_weight.hpp>
#include <esft/backends/eigen/rows.hpp>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace esft::detail::eigen {

/// Floats of packed rows that stay in a 2 MiB second-level cache beside the weights that stream by.
inline constexpr index panel_rows_budget = 262144;
/// The longest task: about 0.3 ms of one core, or less, where there is little work, so that each thread gets several.
inline double longest_panel_task(double operations, int threads) {
  constexpr double longest = 45e6;
  return threads == 1 ? longest : std::clamp(operations / (4.0 * threads), longest / 10, longest);
}

/// One task: some rows of a group with some panels of its matrix.
struct panel_task {
  row_group rows;
  index packed = 0;  ///< where the packed rows of this task begin, in floats
  index begin = 0;   ///< panels, or whatever the op cuts
  index end = 0;
  double cost = 0;
  bool alone = false;  ///< no other task reads these rows
};

/// The tasks of an op and how much they read.
class panel_tasks {
 public:
  /// `longest` in operations, see `longest_panel_task`.
  explicit panel_tasks(double longest) : longest_(longest) {}
  /// Cuts the rows of a group into equal parts of at most `most_rows` and these into ranges of its `units`, `step` at a time.
  /// `per_unit` are the operations of one row with one unit, `packed_width` the floats that a packed row takes.
  void add(const row_group& group, index most_rows, index units, index step, double per_unit, index packed_width = 0) {
    if (group.rows() <= 0 || units <= 0) return;
    const index row_part = divide_up(divide_up(group.rows(), divide_up(group.rows(), most_rows)), panel_width) * panel_width;
    const double cost = static_cast<double>(std::min(row_part, group.rows())) * per_unit * static_cast<double>(units);
    const index parts = std::max<index>(1, static_cast<index>(cost / longest_));
    const index part = divide_up(divide_up(units, parts), step) * step;
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
  double longest_;
  std::vector<panel_task> tasks_;
  double operations_ = 0;
  index packed_ = 0;
};

inline index count_rows(const std::vector<row_group>& groups) noexcept {
  index rows = 0;
  for (const row_group& group : groups) rows += group.rows();
  return rows;
}

/// Whether a weight stays in the cache, whatever streams by.
constexpr bool small_matrix(index columns, index depth) noexcept { return depth <= 2 * panel_depth && columns * depth <= 65536; }

/// Tasks of a product whose rows are packed, `depth` floats each, and meet `units` panels. Threads share the rows that meet a small weight.
template <class W>
panel_tasks row_tasks(const std::vector<row_group>& groups, index units, index depth, int threads, index panels_per_unit = 1) {
  const double per_unit = 2.0 * static_cast<double>(panel_width * panels_per_unit * std::max<index>(1, depth));
  const double per_row = per_unit * static_cast<double>(std::max<index>(1, units));
  const double longest = longest_panel_task(per_row * static_cast<double>(count_rows(groups)), threads);
  index most_rows = std::max<index>(panel_width, panel_rows_budget / std::max<index>(1, depth));
  index step = panels_at_once<W>;
  if (small_matrix(units * panels_per_unit * panel_width, depth)) {
    constexpr index fewest = 2 * panel_vectors * panel_width;
    most_rows = std::clamp(static_cast<index>(longest / per_row), fewest, most_rows);
    step = std::max<index>(1, units);
  }
  panel_tasks tasks(longest);
  for (const row_group& group : groups) tasks.add(group, most_rows, units, step, per_unit, depth);
  tasks.largest_first();
  return tasks;
}

/// Rows as panels. Those that several tasks read are packed once for all, before; a task that is alone packs its own, into its cache.
template <class T>
class packed_rows {
 public:
  packed_rows(machine& m, row_source<T> x, const panel_tasks& tasks, index depth) : machine_(&m), x_(x), depth_(depth) {
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
    m.rows(static_cast<index>(all.size()), moving * static_cast<double>(panel_width * depth), [&](index begin, index end, int) {
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
  row_source<T> x_;
  index depth_;
  const float* packed_ = nullptr;
};

/// Where a block of a result gathers over the depth. Floats do so in place, or aside where only a part of a panel's columns exists, and,
/// for tiles of sixteen rows (all sets but AVX-512), where these would fall onto one or two sets of a first-level cache: the same bits
/// either way. bf16 gathers aside, and is added and rounded once.
template <class Y>
class result_block {
 public:
  /// `whole`: all the columns of the panels exist.
  result_block(machine& m, int slot, Y* out, index out_stride, index rows, index columns, bool whole, bool accumulate)
      : machine_(&m), out_(out), out_stride_(out_stride), rows_(rows), columns_(columns), accumulate_(accumulate) {
    if constexpr (in_place) {
      constexpr index crowding = 512;  // floats: half of what the sets of a 32 KiB cache of eight ways cover once
      if (whole && (m.set >= isa::avx512 || out_stride % crowding != 0)) return;
    }
    aside_ = m.of(slot)(buffer::result, rows * stride);
    if constexpr (in_place) {
      if (accumulate && !whole) std::fill_n(aside_, rows * stride, 0.0F);
      if (accumulate) call<copy_block>(m.set, static_cast<const float*>(out), out_stride, rows, columns, aside_, stride);
    }
  }
  /// Whether sums begin with what is there.
  [[nodiscard]] bool begun() const noexcept { return in_place && accumulate_; }
  /// Row `row` on.
  [[nodiscard]] panel_result from(index row) const noexcept {
    if constexpr (in_place) {
      if (aside_ == nullptr) return {out_ + row * out_stride_, out_stride_, panel_width};
    }
    return {aside_ + row * stride, stride, panel_width};
  }
  void finish() const {
    if (aside_ == nullptr) return;
    const bool adding = !in_place && accumulate_;
    call<write_block>(machine_->set, static_cast<const float*>(aside_), stride, rows_, columns_, out_, out_stride_, adding);
  }

 private:
  static constexpr bool in_place = std::is_same_v<Y, float>;
  static constexpr index stride = panel_vectors * panel_width;
  machine* machine_;
  Y* out_;
  index out_stride_, rows_, columns_;
  bool accumulate_;
  float* aside_ = nullptr;
};

/// Where to fetch, for `lookahead`: never read as floats.
inline const float* address(const void* data) noexcept { return static_cast<const float*>(data); }

/// y[rows][16 begin .. 16 end) for packed rows. The weight is read block by block, each of them once, the next one prefetched.
template <class W, class Y>
void panel_forward_block(machine& m, int slot, const float* packed, const row_group& rows, const W* matrix, index begin, index end,
                         index depth, Y* y, index y_stride, bool accumulate) {
  const index tiles = divide_up(rows.rows(), rows_of_tile(m.set));
  // a panel of floats is one stream; a strip of bf16 is contiguous, and two half as long
  const index stream = std::min(panel_depth, depth) * panel_width * index{sizeof(W)} / index{sizeof(float)};
  const index apart = std::is_same_v<W, float> ? depth * panel_width : stream;
  for (index p = begin; p < end;) {
    const index vectors = next_panels<W>(end - p);
    const W* const panels = matrix + p * depth * panel_width;
    const result_block<Y> sums(m, slot, y + rows.begin * y_stride + p * panel_width, y_stride, rows.rows(), vectors * panel_width, true,
                               accumulate);
    for (index k = 0; k == 0 || k < depth; k += panel_depth) {
      const index deep = std::min(panel_depth, depth - k);
      const weight_panels right = panels_of_rows(m, slot, matrix, depth, p, vectors, k, deep);
      const W* const next = k + deep < depth ? panels + (k + deep) * strip_rows<W> : panels + vectors * depth * panel_width;
      multiply_panels(m.set, rows.rows(), vectors, deep, packed + k * panel_width, depth * panel_width, right.data, right.stride,
                      sums.from(0), sums.begun() || k > 0, {address(next), apart, divide_up(stream, tiles)});
    }
    sums.finish();
    p += vectors;
  }
}

/// The same for a small weight that stays in the cache, as panels, and rows that are not packed yet: strip by strip, the next one fetched
/// meanwhile.
template <class X, class Y>
void panel_forward_strips(machine& m, int slot, row_source<X> x, const row_group& rows, weight_panels matrix, index columns, index depth,
                          Y* y, bool accumulate) {
  constexpr index strip = panel_vectors * panel_width;
  const index tiles = strip / rows_of_tile(m.set);
  float* packed = m.of(slot)(buffer::left, strip * depth);
  constexpr index per_float = index{sizeof(float)} / index{sizeof(X)};
  const index share = divide_up(strip * std::max(depth, columns), per_float * tiles * divide_up(columns, strip));
  for (index r = rows.begin; r < rows.end; r += strip) {
    const index count = std::min(strip, rows.end - r);
    for (index i = 0; i < count; i += panel_width)
      rows_to_panel(m.set, x, r + i, std::min(panel_width, count - i), depth, packed + i * depth);
    lookahead ahead;
    if (r + strip < rows.end) ahead = {x.gathered() ? nullptr : address(x[r + strip]), address(y + (r + strip) * columns), nullptr, share};
    for (index p = 0; p < columns / panel_width;) {
      const index vectors = next_panels<float>(columns / panel_width - p);
      const result_block<Y> sums(m, slot, y + r * columns + p * panel_width, columns, count, vectors * panel_width, true, accumulate);
      multiply_panels(m.set, count, vectors, depth, packed, depth * panel_width, matrix.data + p * matrix.stride, matrix.stride,
                      sums.from(0), sums.begun(), ahead);
      sums.finish();
      for (const float*& stream : ahead.from) {
        if (stream != nullptr) stream += tiles * share;
      }
      p += vectors;
    }
  }
}

/// y[r] = x[r] w[matrix]^T, or +=. @shape x[*, depth], w[*, columns, depth], y[*, columns] @pre columns % 16 == 0
template <class X, class W, class Y>
void panel_forward(machine& m, row_source<X> x, const W* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                   bool accumulate) {
  const panel_tasks tasks = row_tasks<W>(groups, columns / panel_width, depth, m.pool.threads());
  const packed_rows<X> packed(m, x, tasks, depth);
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const W* const matrix = w + t.rows.matrix * columns * depth;
    if (t.alone && small_matrix(columns, depth)) {
      const weight_panels whole = panels_of_rows(m, slot, matrix, depth, 0, columns / panel_width, 0, depth);
      return panel_forward_strips(m, slot, x, t.rows, whole, columns, depth, y, accumulate);
    }
    panel_forward_block(m, slot, packed.of(t, slot), t.rows, matrix, t.begin, t.end, depth, y, columns, accumulate);
  });
}

/// h[r] = silu(gate) up for columns [begin, end) of rows of gate_up, as `swiglu_rows` computes it.
template <class vec>
struct swiglu_columns {
  template <class T>
  ESFT_EIGEN_INLINE static void run(const T* gate_up, T* h, index first, index last, index begin, index end, index inner) {
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
/// @shape x[*, depth], w[*, 2 inner, depth], gate_up[*, 2 inner], h[*, inner] @pre inner % 16 == 0, for bf16 % 32
template <class T>
void panel_swiglu_forward(machine& m, row_source<T> x, const T* w, T* gate_up, T* h, const std::vector<row_group>& groups, index inner,
                          index depth) {
  const panel_tasks tasks = row_tasks<T>(groups, inner / panel_width, depth, m.pool.threads(), 2);
  const packed_rows<T> packed(m, x, tasks, depth);
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const T* const matrix = w + t.rows.matrix * 2 * inner * depth;
    const index up = inner / panel_width;
    if (t.alone && small_matrix(2 * inner, depth)) {
      const weight_panels whole = panels_of_rows(m, slot, matrix, depth, 0, 2 * up, 0, depth);
      panel_forward_strips(m, slot, x, t.rows, whole, 2 * inner, depth, gate_up, false);
      return call<swiglu_columns>(m.set, static_cast<const T*>(gate_up), h, t.rows.begin, t.rows.end, index{0}, inner, inner);
    }
    const float* left = packed.of(t, slot);
    panel_forward_block(m, slot, left, t.rows, matrix, t.begin, t.end, depth, gate_up, 2 * inner, false);
    panel_forward_block(m, slot, left, t.rows, matrix, up + t.begin, up + t.end, depth, gate_up, 2 * inner, false);
    call<swiglu_columns>(m.set, static_cast<const T*>(gate_up), h, t.rows.begin, t.rows.end, t.begin * panel_width, t.end * panel_width,
                         inner);
  });
}

/// dx[rows][16 begin .. 16 end) for packed rows of dy. Each block of the weight becomes panels once per task; while the rows meet one, the
/// next is fetched.
template <class W, class X>
void panel_input_gradient_block(machine& m, int slot, const float* packed, const row_group& rows, const W* matrix, index begin, index end,
                                index columns, index depth, X* dx, bool accumulate) {
  const index row_panels = divide_up(rows.rows(), panel_width);
  const index apart = columns * panel_width;  // from strip to strip of the weight, in floats
  for (index p = begin; p < end;) {
    const bool whole = (p + 1) * panel_width <= columns;  // else the last columns, fewer than a panel
    const index vectors = whole ? next_panels<W>(std::min(end, columns / panel_width) - p) : 1;
    const index wide = std::min(vectors * panel_width, columns - p * panel_width);
    const result_block<X> sums(m, slot, dx + rows.begin * columns + p * panel_width, columns, rows.rows(), wide, whole, accumulate);
    for (index n = 0; n == 0 || n < depth; n += panel_depth) {
      const index deep = std::min(panel_depth, depth - n);
      const weight_panels right = panels_of_columns(m, slot, matrix, columns, p, wide, n, deep);
      const bool last = n + deep >= depth;
      const W* const next = matrix + (last ? 0 : n + deep) * columns + (last ? p + vectors : p) * panel_width * strip_rows<W>;
      // the next block lies in strips, and a call fetches three of them: so the rows are shared among as many calls as that takes
      const index calls = std::clamp<index>(divide_up(deep / strip_rows<W>, panel_vectors), 1, row_panels);
      for (index call = 0; call < calls; ++call) {
        const index row = call * row_panels / calls * panel_width;
        const index count = std::min((call + 1) * row_panels / calls * panel_width, rows.rows()) - row;
        multiply_panels(m.set, count, vectors, deep, packed + row * depth + n * panel_width, depth * panel_width, right.data, right.stride,
                        sums.from(row), sums.begun() || n > 0,
                        {address(next) + call * panel_vectors * apart, apart,
                         divide_up(wide * panel_width, divide_up(count, rows_of_tile(m.set)))});
      }
    }
    sums.finish();
    p += vectors;
  }
}

/// dx[r] = dy[r] w[matrix], or +=. @shape dy[*, depth], w[*, depth, columns], dx[*, columns] @pre depth % 16 == 0
template <class Y, class W, class X>
void panel_input_gradient(machine& m, row_source<Y> dy, const W* w, X* dx, const std::vector<row_group>& groups, index columns, index depth,
                          bool accumulate) {
  const panel_tasks tasks = row_tasks<W>(groups, divide_up(columns, panel_width), depth, m.pool.threads());
  const packed_rows<Y> packed(m, dy, tasks, depth);
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const W* const matrix = w + t.rows.matrix * columns * depth;
    if (t.alone && small_matrix(columns, depth) && columns % panel_width == 0) {
      const weight_panels whole = panels_of_columns(m, slot, matrix, columns, 0, columns, 0, depth);
      return panel_forward_strips(m, slot, dy, t.rows, whole, columns, depth, dx, accumulate);
    }
    panel_input_gradient_block(m, slot, packed.of(t, slot), t.rows, matrix, t.begin, t.end, columns, depth, dx, accumulate);
  });
}

/// The columns of two operands of a group as panels, with the rows of the group as depth.
struct panel_columns {
  row_group rows;
  index at = 0;        ///< where they begin among those packed for all
  bool alone = false;  ///< packed by the only task of the group
};

/// Calls `body(task, rows, matrix, left, right)` for parts of the product left^T right of every group: the columns
/// [task.rows.begin, task.rows.end) of the left operand with the panels [task.begin, task.end) of the right one, cut `step` at a time.
/// @shape left [left_width / 16, rows, 16] with zeros beyond the last column, right likewise
template <class Left, class Right, class Body>
void for_column_panels(machine& m, row_source<Left> left, index left_width, row_source<Right> right, index right_width, index step,
                       const std::vector<row_group>& groups, Body&& body) {
  struct piece {
    index group, row;
  };
  std::vector<panel_columns> all;
  std::vector<piece> pieces;
  const double per_row = 2.0 * static_cast<double>(left_width) * static_cast<double>(right_width);
  panel_tasks tasks(longest_panel_task(per_row * static_cast<double>(count_rows(groups)), m.pool.threads()));
  index used = 0;
  const index left_padded = divide_up(left_width, panel_width) * panel_width;
  const index width = left_padded + divide_up(right_width, panel_width) * panel_width;
  for (const row_group& group : groups) {
    const index rows = group.rows();
    if (rows <= 0) continue;
    const index number = static_cast<index>(all.size());
    const index kept = std::max<index>(4 * panel_width, panel_rows_budget / rows);  // columns of the left that stay in the cache
    const index before = tasks.size();
    tasks.add({0, left_width, number}, kept, divide_up(right_width, panel_width), step, 2.0 * static_cast<double>(rows * panel_width));
    all.push_back({group, used, tasks.size() == before + 1});
    if (all.back().alone) continue;
    used += rows * width;
    for (index r = 0; r < rows; r += panel_width) pieces.push_back({number, r});
  }
  tasks.largest_first();
  // left first, then right; sixteen rows at a time
  const auto pack = [&](const row_group& rows, index row, float* to) {
    const index count = std::min(panel_width, rows.rows() - row);
    const index panel = rows.rows() * panel_width;
    call<columns_to_panels>(m.set, left, rows.begin + row, count, left_width, to + row * panel_width, panel);
    call<columns_to_panels>(m.set, right, rows.begin + row, count, right_width, to + rows.rows() * left_padded + row * panel_width, panel);
  };
  float* shared = m.of(0)(buffer::more, used);
  m.rows(static_cast<index>(pieces.size()), moving * static_cast<double>(panel_width * width), [&](index begin, index end, int) {
    for (index i = begin; i < end; ++i) {
      const piece& p = pieces[static_cast<std::size_t>(i)];
      const panel_columns& o = all[static_cast<std::size_t>(p.group)];
      pack(o.rows, p.row, shared + o.at);
    }
  });
  m.run(tasks.size(), tasks.operations(), [&](index task, int slot) {
    const panel_task& t = tasks[task];
    const panel_columns& o = all[static_cast<std::size_t>(t.rows.matrix)];
    const index rows = o.rows.rows();
    const float* panels = shared + o.at;
    if (o.alone) {
      float* own = m.of(slot)(buffer::left, rows * width);
      for (index r = 0; r < rows; r += panel_width) pack(o.rows, r, own);
      panels = own;
    }
    body(t, rows, o.rows.matrix, panels, panels + rows * left_padded);
  });
}

/// dw[matrix] += the sum over the rows of the group of dy[r]^T x[r].
/// @shape dy[*, height], x[*, columns], dw[*, height / 16, columns, 16] @pre height % 16 == 0
inline void panel_weight_gradient(machine& m, row_source<float> dy, row_source<float> x, float* dw, const std::vector<row_group>& groups,
                                  index height, index columns) {
  const index fetched = rows_of_tile(m.set) * panel_width;
  const auto add = [&](const panel_task& t, index rows, index number, const float* left, const float* right) {
    float* const matrix = dw + number * height * columns;
    for (index p = t.begin; p < t.end;) {
      const index vectors = next_panels<float>(t.end - p);
      float* out = matrix + p * panel_width * columns + t.rows.begin * panel_width;
      for (index r = 0; r < rows; r += panel_depth) {
        const index deep = std::min(panel_depth, rows - r);
        multiply_panels(m.set, t.rows.rows(), vectors, deep, left + t.rows.begin * rows + r * panel_width, rows * panel_width,
                        right + (p * rows + r) * panel_width, rows * panel_width, {out, panel_width, columns * panel_width}, true,
                        {out + 2 * fetched, columns * panel_width, fetched});
      }
      p += vectors;
    }
  };
  for_column_panels(m, x, columns, dy, height, panels_at_once<float>, groups, add);
}

/// The same from rows of bf16, into tiles: half of one at a time. @shape dw[*, height / 32, columns / 32][32, 32]
template <class Y>
void panel_weight_gradient(machine& m, row_source<Y> dy, row_source<bf16> x, float* dw, const std::vector<row_group>& groups, index height,
                           index columns) {
  constexpr index side = kernel_layout<bf16>.tile_rows;
  constexpr index vectors = side / panel_width;
  const auto add = [&](const panel_task& t, index rows, index number, const float* left, const float* right) {
    float* const matrix = dw + number * height * columns;
    for (index p = t.begin; p < t.end; p += vectors) {
      for (index r = 0; r < rows; r += panel_depth) {
        for (index n = t.rows.begin; n < t.rows.end; n += panel_width) {
          float* const out = matrix + n / side * side * columns + p * panel_width * side + n % side * side;
          multiply_panels(m.set, panel_width, vectors, std::min(panel_depth, rows - r), left + n * rows + r * panel_width, 0,
                          right + (p * rows + r) * panel_width, rows * panel_width, {out, side, panel_width}, true);
        }
      }
    }
  };
  for_column_panels(m, dy, height, x, columns, vectors, groups, add);
}

}  // namespace esft::detail::eigen
