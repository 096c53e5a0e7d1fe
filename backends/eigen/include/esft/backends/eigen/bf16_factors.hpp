// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Low-rank factors inside grouped products on bf16 tiles: A is one more strip of the weight, B one more step of every strip's reduction.

#include <esft/backends/eigen/bf16_forward.hpp>
#include <esft/backends/eigen/bf16_input_gradient.hpp>
#include <esft/backends/eigen/layout.hpp>

#include <cstdint>
#include <vector>

namespace esft::detail::eigen {

/// Factors beside the matrices of a grouped product, see `grouped_factors`. @shape rank r, matrices [N, K]
struct product_factors {
  stacked<const bf16> a;          ///< [S, r, K]
  stacked<const bf16> b;          ///< [S, N, r]
  index rank = 0;                 ///< at most `block_side`
  index height = 0, width = 0;    ///< N and K
  float scale = 1;
  bf16* inner = nullptr;          ///< [R, r]
  std::vector<std::int32_t> part; ///< by number of the matrix: its pair, -1 for none

  [[nodiscard]] bool beside(index matrix) const noexcept { return part[static_cast<std::size_t>(matrix)] >= 0; }
  [[nodiscard]] const bf16* a_of(index matrix) const noexcept { return a.data + part[static_cast<std::size_t>(matrix)] * rank * width; }
  [[nodiscard]] const bf16* b_of(index matrix) const noexcept { return b.data + part[static_cast<std::size_t>(matrix)] * rank * height; }
};

#if ESFT_EIGEN_X86

/// 32 x 32 of which `rows` rows of `columns` elements are read, zeros elsewhere. @pre a row's elements lie together
ESFT_EIGEN_AVX512_BF16 inline void copy_factor_block(const bf16* matrix, matrix_layout layout, index matrix_columns, index row, index rows,
                                                     index column, index columns, bf16* to) {
  const auto present = static_cast<__mmask32>(columns >= 32 ? 0xffffffffU : (1U << static_cast<unsigned>(columns)) - 1U);
  for (index i = 0; i < block_side; ++i) {
    const __m512i line =
        i < rows ? _mm512_maskz_loadu_epi16(present, matrix + layout.offset(row + i, column, matrix_columns)) : _mm512_setzero_si512();
    _mm512_storeu_si512(to + i * block_side, line);
  }
}
/// The same as a block of two right tiles, whose reduction runs over the rows (`turn_pair`).
ESFT_EIGEN_AVX512_BF16 inline void turn_block(const bf16* matrix, matrix_layout layout, index matrix_columns, index row, index rows,
                                              index column, index columns, bf16* to) {
  alignas(64) bf16 plain[block_size];
  copy_factor_block(matrix, layout, matrix_columns, row, rows, column, columns, plain);
  for (index pair = 0; pair < 16; ++pair) turn_pair(plain + 2 * pair * block_side, to + pair * block_side);
}

/// x = scale * x for rows of 32, and their first `rank` elements to `inner`.
inline void keep_inner(const product_factors& f, index first, index count, bf16* rows) {
  for (index r = 0; r < count; ++r) {
    bf16* const row = rows + r * block_side;
    for (index k = 0; k < f.rank; ++k) {
      if (f.scale != 1.0F) row[k] = bf16(f.scale * static_cast<float>(row[k]));
      f.inner[(first + r) * f.rank + k] = row[k];
    }
  }
}
/// No factors beside this expert: nothing of its rows passes through any.
inline void no_inner(const product_factors& f, const row_group& rows) {
  std::fill_n(f.inner + rows.begin * f.rank, rows.rows() * f.rank, bf16{});
}

/// The step that factors add to the forward product of a task. Computes t = scale * x A^T for its rows on the way.
/// @shape packed as `packed_columns` left it
template <class Engine>
added_step forward_factors(machine& m, int slot, const product_factors* f, const row_group& t, const bf16* packed) {
  if (f == nullptr) return {};
  if (!f->beside(t.matrix)) return no_inner(*f, t), added_step{};
  bf16* const a = thread_buffer(m, slot, buffer::left, block_side * f->width);
  bf16* const b = thread_buffer(m, slot, buffer::result, block_side * f->height);
  bf16* const inner = thread_buffer(m, slot, buffer::scores, block_side * padded_rows(t.rows()));
  for (index k = 0; k < f->width; k += block_side) {
    copy_factor_block(f->a_of(t.matrix), f->a.layout, f->width, 0, f->rank, k, block_side, a + k * block_side);
  }
  for (index n = 0; n < f->height; n += block_side) {
    copy_factor_block(f->b_of(t.matrix), f->b.layout, f->rank, n, block_side, 0, f->rank, b + n * block_side);
  }
  alignas(64) float sums[block_side * panel_side];
  alignas(64) bf16 rows[panel_side * block_side];
  const panel_cut panels(t.rows());
  for (index p = 0; p < panels.count(); ++p) {
    const index stride = multiply_panel<Engine>(a, nullptr, packed, panels, p, f->width, {}, 0, sums);
    write_columns(sums, stride, panels.rows(p), rows, block_side, writing::store);
    keep_inner(*f, t.begin + panels.begin(p), panels.rows(p), rows);
    pack_rows_as_columns({{rows, block_side}, 0, panels.rows(p)}, panels.rows(p), block_side, inner + panels.begin(p) * block_side,
                         writing::store);
  }
  return {b, inner};
}

/// The step that factors add to the gradient of a task's rows. Computes dt = scale * dy B on the way.
/// @shape packed as `pack_gradient_rows` left it; turned: room for a turned strip
template <class Engine>
added_step gradient_factors(machine& m, int slot, const product_factors* f, const row_group& t, const bf16* packed, bf16* turned) {
  if (f == nullptr) return {};
  if (!f->beside(t.matrix)) return no_inner(*f, t), added_step{};
  bf16* const a = thread_buffer(m, slot, buffer::result, block_side * f->width);
  bf16* const inner = thread_buffer(m, slot, buffer::scores, block_side * padded_rows(t.rows()));
  for (index k = 0; k < f->width; k += block_side) {
    turn_block(f->a_of(t.matrix), f->a.layout, f->width, 0, f->rank, k, block_side, a + k * block_side);
  }
  for (index n = 0; n < f->height; n += block_side) {
    turn_block(f->b_of(t.matrix), f->b.layout, f->rank, n, block_side, 0, f->rank, turned + n * block_side);
  }
  alignas(64) bf16 rows[panel_side * block_side];
  const panel_cut panels(t.rows());
  strip_turner nothing;
  for (index p = 0; p < panels.count(); ++p) {
    const index count = panels.rows(p);
    input_gradient_panel<Engine, 1>(packed + panels.begin(p) * f->height, turned, count, f->height, {}, 0, 0, rows, block_side,
                                    writing::store, nothing);
    keep_inner(*f, t.begin + panels.begin(p), count, rows);
    pack_rows_as_rows<bf16>({{rows, block_side}, 0, count}, count, block_side, inner + panels.begin(p) * block_side, writing::store);
  }
  return {a, inner};
}

#endif

}  // namespace esft::detail::eigen
