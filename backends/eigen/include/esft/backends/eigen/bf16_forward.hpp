// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// y = x w^T on bf16 tiles, and the same with SwiGLU behind it: the weight is the left operand as it lies in memory, read once.

#include <esft/backends/eigen/bf16_tasks.hpp>
#include <esft/backends/eigen/swiglu.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// The sums of a strip of 32 rows of the weight with panel `p` of a task's rows. `next` is the strip that will be read after it, `number`
/// the strip's among the blocks of `added`.
/// @return floats from one row of sums to the next
template <class Engine>
index multiply_panel(const bf16* strip, const bf16* next, const bf16* packed, const panel_cut& panels, index p, index depth,
                     const added_step& added, index number, float* sums) {
  const bf16* const right = packed + panels.begin(p) * depth;
  look_ahead ahead = share_of(next, depth, p, panels.count());
  const auto multiply = [&]<int Right>(std::integral_constant<int, Right>) {
    Engine::template product<2, Right>(strip, block_size, right, Right * tile_size, depth / block_side, sums, true, ahead);
    if (added.blocks != nullptr) {
      Engine::template product<2, Right>(added.blocks + number * block_size, block_size, added.rows + panels.begin(p) * block_side,
                                         Right * tile_size, 1, sums, false, look_ahead{});
    }
    return sum_stride(Right);
  };
  if (panels.rows(p) > 32) return multiply(std::integral_constant<int, 3>{});
  if (panels.rows(p) > 16) return multiply(std::integral_constant<int, 2>{});
  return multiply(std::integral_constant<int, 1>{});
}

/// Packs the rows that several tasks share. @return the buffer, empty where no rows are shared
inline host_tensor<bf16, 1> pack_shared_columns(machine& m, const row_source<bf16>& x, const strip_tasks& cut, index depth) {
  host_tensor<bf16, 1> buffer = packed_buffer(cut.packed_size);
  const writing way = way_of(buffer.data(), cut.packed_size, false);
  m.run(static_cast<index>(cut.panels.size()), 8.0 * static_cast<double>(cut.packed_size), [&](index i, int) {
    const row_panel& panel = cut.panels[static_cast<std::size_t>(i)];
    pack_rows_as_columns({x, panel.first, panel.count}, panel.count, depth, buffer.data() + panel.packed, way);
    finish(way);
  });
  return buffer;
}

/// The packed rows of a task: shared ones, or its own.
inline const bf16* packed_columns(machine& m, int slot, const row_source<bf16>& x, const strip_task& t, const bf16* shared, index depth) {
  if (t.packed >= 0) return shared + t.packed;
  bf16* const own = thread_buffer(m, slot, buffer::right, padded_rows(t.rows.rows()) * depth);
  const panel_cut panels(t.rows.rows());
  for (index p = 0; p < panels.count(); ++p) {
    const index count = panels.rows(p);
    pack_rows_as_columns({x, t.rows.begin + panels.begin(p), count}, count, depth, own + panels.begin(p) * depth, writing::store);
  }
  return own;
}

/// Strips [begin, end) of 32 columns of y for some rows, whose packed form and whose matrix are given. @shape y [rows, columns]
template <class Engine, class Y>
void forward_strips(index rows, index begin, index end, const bf16* packed, const bf16* matrix, const added_step& added, Y* y,
                    index columns, index depth, writing way) {
  const panel_cut panels(rows);
  const index strip_size = block_side * depth;
  alignas(64) float sums[block_side * panel_side];
  for (index s = begin; s < end; ++s) {
    const bf16* const strip = matrix + s * strip_size;
    const bf16* const next = s + 1 < end ? strip + strip_size : nullptr;
    for (index p = 0; p < panels.count(); ++p) {
      const index stride = multiply_panel<Engine>(strip, next, packed, panels, p, depth, added, s, sums);
      write_columns(sums, stride, panels.rows(p), y + panels.begin(p) * columns + s * block_side, columns, way);
    }
  }
}

/// y[r] = x[r] w[matrix]^T, or +=. @shape x [*, depth], w [*, columns, depth] in blocks of 32 x 32, y [*, columns]
/// @pre columns % 32 == 0 && depth % 32 == 0; y does not overlap x
template <class Engine, class Y>
void tiled_forward(machine& m, row_source<bf16> x, const bf16* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                   bool accumulate) {
  const strip_tasks cut = cut_strips(groups, columns / block_side, depth, 1, m.pool.threads());
  const host_tensor<bf16, 1> shared = pack_shared_columns(m, x, cut, depth);
  const writing way = way_of(y, cut.rows * columns, accumulate);
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const strip_task& t = cut.tasks[static_cast<std::size_t>(i)];
    const bf16* const packed = packed_columns(m, slot, x, t, shared.data(), depth);
    const typename Engine::session open;
    forward_strips<Engine>(t.rows.rows(), t.strip_begin, t.strip_end, packed, w + t.rows.matrix * columns * depth, {},
                           y + t.rows.begin * columns, columns, depth, way);
    finish(way);
  });
}

/// h = silu(gate) * up for `rows` rows of 32, from rounded values: the very steps of `swiglu_rows`.
template <class vec>
struct swiglu_block {
  ESFT_EIGEN_INLINE static void run(const bf16* gate, const bf16* up, index rows, bf16* h) {
    for (index i = 0; i < rows * block_side; i += lanes_of<vec>) {
      vec a;
      vec b;
      vec s;
      load(a, gate + i);
      load(b, up + i);
      sigmoid(s, a);
      store(h + i, a * s * b);
    }
  }
};

/// Strips [begin, end) of 32 columns of gate, of up and of h for some rows, whose packed form and whose matrix are given.
/// `keep(product, first, count, strip)` takes h of rows [first, first + count). @shape gate_up [rows, 2 inner], product [48, 32]
template <class Engine, class Keep>
void swiglu_strips(machine& m, index rows, index begin, index end, const bf16* packed, const bf16* matrix, const added_step& added,
                   bf16* gate_up, index inner, index depth, writing way, Keep&& keep) {
  const panel_cut panels(rows);
  const index strip_size = block_side * depth;
  alignas(64) float sums[block_side * panel_side];
  alignas(64) bf16 gate[panel_side * block_side];
  alignas(64) bf16 up[panel_side * block_side];
  alignas(64) bf16 product[panel_side * block_side];
  for (index s = begin; s < end; ++s) {
    const bf16* const gate_strip = matrix + s * strip_size;
    const bf16* const up_strip = gate_strip + inner * depth;
    const bool more = s + 1 < end;
    for (index p = 0; p < panels.count(); ++p) {
      const index count = panels.rows(p);
      index stride = multiply_panel<Engine>(gate_strip, more ? gate_strip + strip_size : nullptr, packed, panels, p, depth, added, s, sums);
      write_columns(sums, stride, count, gate, block_side, writing::store);
      stride = multiply_panel<Engine>(up_strip, more ? up_strip + strip_size : nullptr, packed, panels, p, depth, added,
                                      s + inner / block_side, sums);
      write_columns(sums, stride, count, up, block_side, writing::store);
      call<swiglu_block>(m.set, static_cast<const bf16*>(gate), static_cast<const bf16*>(up), count, static_cast<bf16*>(product));
      bf16* const out = gate_up + panels.begin(p) * 2 * inner + s * block_side;
      write_block_rows(gate, count, out, 2 * inner, way);
      write_block_rows(up, count, out + inner, 2 * inner, way);
      keep(static_cast<const bf16*>(product), panels.begin(p), count, s);
    }
  }
}

/// gate_up[r] = x[r] w[matrix]^T and h[r] = silu(gate) * up, the same bits as the two ops one after the other.
/// @shape x [*, depth], w [*, 2 inner, depth] in blocks of 32 x 32, gate rows first; gate_up [*, 2 inner], h [*, inner]
/// @pre inner % 32 == 0 && depth % 32 == 0
template <class Engine>
void tiled_swiglu_forward(machine& m, row_source<bf16> x, const bf16* w, bf16* gate_up, bf16* h, const std::vector<row_group>& groups,
                          index inner, index depth) {
  const strip_tasks cut = cut_strips(groups, inner / block_side, depth, 1, m.pool.threads(), 2);
  const host_tensor<bf16, 1> shared = pack_shared_columns(m, x, cut, depth);
  const writing way = way_of(gate_up, cut.rows * 2 * inner, false);
  const writing h_way = way_of(h, cut.rows * inner, false);
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const strip_task& t = cut.tasks[static_cast<std::size_t>(i)];
    const bf16* const packed = packed_columns(m, slot, x, t, shared.data(), depth);
    bf16* const rows_of_h = h + t.rows.begin * inner;
    const typename Engine::session open;
    swiglu_strips<Engine>(m, t.rows.rows(), t.strip_begin, t.strip_end, packed, w + t.rows.matrix * 2 * inner * depth, {},
                          gate_up + t.rows.begin * 2 * inner, inner, depth, way,
                          [&](const bf16* product, index first, index count, index strip) {
                            write_block_rows(product, count, rows_of_h + first * inner + strip * block_side, inner, h_way);
                          });
    finish(way);
    finish(h_way);
  });
}

#endif

}  // namespace esft::detail::eigen
