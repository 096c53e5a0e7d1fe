// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// y = x w^T on bf16 tiles, and the same with SwiGLU behind it: the weight is the left operand as it lies in memory, read once.

#include <esft/backends/eigen/bf16_tasks.hpp>
#include <esft/backends/eigen/swiglu.hpp>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Steps of the reduction for which a block of the weight stays in the first-level cache while all rows of the task meet it.
inline constexpr index forward_steps = 16;

/// One strip of 32 results for all rows of a task. `next` is the strip of the weight that will be read after it.
template <class Engine, class Y>
void forward_strip(const bf16* strip, const bf16* next, const bf16* packed, index rows, index depth, float* sums, Y* y, index stride,
                   bool accumulate) {
  const index steps = depth / block_side;
  const index panels = (rows + block_side - 1) / block_side;
  for (index k = 0; k == 0 || k < steps; k += forward_steps) {
    const index deep = std::min(forward_steps, steps - k);
    const bool last = k + deep >= steps;
    const bf16* const left = strip + k * block_size;
    const bf16* const following = last ? next : left + deep * block_size;
    for (index p = 0; p < panels; ++p) {
      const index count = std::min(block_side, rows - p * block_side);
      const index right_step = count > 16 ? block_size : tile_size;
      const bf16* const right = packed + p * block_side * depth + k * right_step;
      float* const cell = sums + p * block_size;
      const look_ahead ahead = share_of(following, block_size, p, panels);
      if (count > 16) {
        Engine::template product<2, 2>(left, block_size, right, right_step, deep, cell, k == 0, ahead);
      } else {
        Engine::template product<2, 1>(left, block_size, right, right_step, deep, cell, k == 0, ahead);
      }
      if (last) write_columns(cell, count, y + p * block_side * stride, stride, accumulate);
    }
  }
}

/// Packs the rows that several tasks share. @return the buffer, empty where no rows are shared
inline host_tensor<bf16, 1> pack_shared_columns(machine& m, const row_source<bf16>& x, const strip_tasks& cut, index depth) {
  host_tensor<bf16, 1> buffer = packed_buffer(cut.packed_size);
  m.run(static_cast<index>(cut.panels.size()), 8.0 * static_cast<double>(cut.packed_size), [&](index i, int) {
    const row_panel& panel = cut.panels[static_cast<std::size_t>(i)];
    pack_rows_as_columns({x, panel.first, panel.count}, panel.count, depth, buffer.data() + panel.packed);
  });
  return buffer;
}

/// The packed rows of a task: shared ones, or its own.
inline const bf16* packed_columns(machine& m, int slot, const row_source<bf16>& x, const strip_task& t, const bf16* shared, index depth) {
  if (t.packed >= 0) return shared + t.packed;
  bf16* const own = thread_buffer(m, slot, buffer::right, padded_rows(t.rows.rows()) * depth);
  for (index r = t.rows.begin; r < t.rows.end; r += block_side) {
    const index count = std::min(block_side, t.rows.end - r);
    pack_rows_as_columns({x, r, count}, count, depth, own + (r - t.rows.begin) * depth);
  }
  return own;
}

/// y[r] = x[r] w[matrix]^T, or +=. @shape x [*, depth], w [*, columns, depth] in blocks of 32 x 32, y [*, columns]
/// @pre columns % 32 == 0 && depth % 32 == 0; y does not overlap x
template <class Engine, class Y>
void tiled_forward(machine& m, row_source<bf16> x, const bf16* w, Y* y, const std::vector<row_group>& groups, index columns, index depth,
                   bool accumulate) {
  const index strip_size = block_side * depth;
  const strip_tasks cut = cut_strips(groups, columns / block_side, depth, 1, m.pool.threads());
  const host_tensor<bf16, 1> shared = pack_shared_columns(m, x, cut, depth);
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const strip_task& t = cut.tasks[static_cast<std::size_t>(i)];
    const index rows = t.rows.rows();
    const bf16* const packed = packed_columns(m, slot, x, t, shared.data(), depth);
    float* const sums = m.of(slot)(buffer::result, round_to(rows, block_side) * block_side);
    const bf16* const matrix = w + t.rows.matrix * columns * depth;
    const typename Engine::session open;
    for (index s = t.strip_begin; s < t.strip_end; ++s) {
      const bf16* const next = s + 1 < t.strip_end ? matrix + (s + 1) * strip_size : nullptr;
      forward_strip<Engine>(matrix + s * strip_size, next, packed, rows, depth, sums, y + t.rows.begin * columns + s * block_side, columns,
                            accumulate);
    }
  });
}

/// h = silu(gate) * up for 32 columns, from rows that were rounded and stored: the very steps of `swiglu_rows`.
struct swiglu_strip {
  ESFT_EIGEN_INLINE static void run(const bf16* gate, index rows, index width, bf16* h) {
    for (index r = 0; r < rows; ++r, gate += 2 * width, h += width) {
      for (index i = 0; i < block_side; i += lanes) {
        vec a;
        vec b;
        vec s;
        load(a, gate + i);
        load(b, gate + width + i);
        sigmoid(s, a);
        store(h + i, a * s * b);
      }
    }
  }
};

/// gate_up[r] = x[r] w[matrix]^T and h[r] = silu(gate) * up, the same bits as the two ops one after the other.
/// @shape x [*, depth], w [*, 2 inner, depth] in blocks of 32 x 32, gate rows first; gate_up [*, 2 inner], h [*, inner]
/// @pre inner % 32 == 0 && depth % 32 == 0
template <class Engine>
void tiled_swiglu_forward(machine& m, row_source<bf16> x, const bf16* w, bf16* gate_up, bf16* h, const std::vector<row_group>& groups,
                          index inner, index depth) {
  const index strips = inner / block_side;
  const index strip_size = block_side * depth;
  const strip_tasks cut = cut_strips(groups, strips, depth, 1, m.pool.threads(), 2);
  const host_tensor<bf16, 1> shared = pack_shared_columns(m, x, cut, depth);
  m.run(static_cast<index>(cut.tasks.size()), cut.operations, [&](index i, int slot) {
    const strip_task& t = cut.tasks[static_cast<std::size_t>(i)];
    const index rows = t.rows.rows();
    const bf16* const packed = packed_columns(m, slot, x, t, shared.data(), depth);
    float* const sums = m.of(slot)(buffer::result, round_to(rows, block_side) * block_side);
    const bf16* const matrix = w + t.rows.matrix * 2 * inner * depth;
    const typename Engine::session open;
    for (index s = t.strip_begin; s < t.strip_end; ++s) {
      const bf16* const gate = matrix + s * strip_size;
      const bf16* const up = matrix + (strips + s) * strip_size;
      bf16* const out = gate_up + t.rows.begin * 2 * inner + s * block_side;
      forward_strip<Engine>(gate, up, packed, rows, depth, sums, out, 2 * inner, false);
      forward_strip<Engine>(up, s + 1 < t.strip_end ? gate + strip_size : nullptr, packed, rows, depth, sums, out + inner, 2 * inner,
                            false);
      call<swiglu_strip>(m.set, static_cast<const bf16*>(out), rows, inner, h + t.rows.begin * inner + s * block_side);
    }
  });
}

#endif

}  // namespace esft::detail::eigen
