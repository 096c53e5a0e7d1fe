// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// dx = dy w on bf16 tiles: the weight of the forward pass, in the same order, becomes the right operand block by block.

#include <esft/backends/eigen/bf16_tasks.hpp>

#include <type_traits>

namespace esft::detail::eigen {

#if ESFT_EIGEN_X86

/// Turns a strip of 32 columns of a weight while the strip before it is multiplied: a few pairs of rows with every step of that product.
/// Four blocks are read side by side, since they lie in different pages (see `look_ahead`), and the next four are fetched meanwhile.
class strip_turner {
 public:
  /// Nothing to turn.
  strip_turner() = default;
  /// Strip `strip` of w [depth, columns] to `turned`, block after block as right tiles (`turn_pair`), within `product_steps` steps.
  strip_turner(const bf16* matrix, index strip, index depth, index columns, index product_steps, bf16* turned) noexcept
      : from_(matrix + strip * block_size), to_(turned), row_of_blocks_(block_side * columns), blocks_(depth / block_side) {
    places_ = std::min(blocks_, most_places);
    pairs_ = std::max<index>(1, (16 * blocks_ + product_steps - 1) / std::max<index>(1, product_steps));
  }
  ESFT_EIGEN_AVX512_BF16 ESFT_EIGEN_INLINE void step() noexcept {
    if (blocks_ == 0) return;
    for (index i = 0; i < pairs_; ++i) {
      const bf16* const rows = from_ + place_ * row_of_blocks_;
      if (blocks_ > places_) {
        const auto* const next = reinterpret_cast<const char*>(rows + most_places * row_of_blocks_);
        _mm_prefetch(next, _MM_HINT_T0);
        _mm_prefetch(next + 64, _MM_HINT_T0);
      }
      turn_pair(rows, to_ + place_ * block_size);
      if (++place_ == places_ && next_rows()) return;
    }
  }
  /// Turns what is left.
  ESFT_EIGEN_AVX512_BF16 void finish() noexcept {
    while (blocks_ > 0) step();
  }

 private:
  static constexpr index most_places = 4;

  /// @return whether all is done
  ESFT_EIGEN_INLINE bool next_rows() noexcept {
    place_ = 0;
    from_ += 2 * block_side;
    to_ += block_side;
    if (++pair_ < 16) return false;
    pair_ = 0;
    from_ += most_places * row_of_blocks_ - block_size;
    to_ += most_places * block_size - tile_size;
    blocks_ -= places_;
    places_ = std::min(blocks_, most_places);
    return blocks_ == 0;
  }

  const bf16* from_ = nullptr;
  bf16* to_ = nullptr;
  index row_of_blocks_ = 0;  ///< elements
  index blocks_ = 0;         ///< of the strip, still to be turned
  index places_ = 0;         ///< blocks that are turned in turns
  index pairs_ = 1;          ///< of rows, with every step
  index place_ = 0;
  index pair_ = 0;
};

/// Up to 48 rows of sums = rows of dy x a turned strip, part after part.
template <class Engine, int Left, index Parts>
void add_parts(const bf16* left, const bf16* right, index steps, float* sums, strip_turner& turner) {
  constexpr index part = Left * tile_size;
  Engine::template product<Left, 2>(left, Parts * part, right, block_size, steps, sums, true, turner);
  if constexpr (Parts == 2) Engine::template product<Left, 2>(left + part, Parts * part, right, block_size, steps, sums, false, turner);
}

/// 32 columns of dx for up to 48 rows, from one turned strip of the weight. `number` is the strip's among the blocks of `added`.
/// @param first of the panel's rows among those of `added` @shape panel: see `pack_rows_as_rows`
template <class Engine, index Parts>
void input_gradient_panel(const bf16* panel, const bf16* turned, index count, index depth, const added_step& added, index number,
                          index first, bf16* dx, index columns, writing way, strip_turner& next) {
  alignas(64) float sums[panel_side * block_side];
  const auto multiply = [&]<int Left>(std::integral_constant<int, Left>) {
    add_parts<Engine, Left, Parts>(panel, turned, depth / block_side, sums, next);
    if (added.blocks != nullptr) {
      Engine::template product<Left, 2>(added.rows + first * block_side, Left * tile_size, added.blocks + number * block_size, block_size,
                                        1, sums, false, look_ahead{});
    }
  };
  if (count > 32) {
    multiply(std::integral_constant<int, 3>{});
  } else if (count > 16) {
    multiply(std::integral_constant<int, 2>{});
  } else {
    multiply(std::integral_constant<int, 1>{});
  }
  write_rows(sums, count, dx, columns, way);
}

/// Strips [begin, end) of 32 columns of dx for some rows, whose packed form and whose matrix are given.
/// @shape turned: room for two strips of the weight; dx [rows, columns]
template <class Engine, index Parts>
void input_gradient_strips(index rows, index begin, index end, const bf16* packed, const bf16* matrix, const added_step& added,
                           bf16* turned, bf16* dx, index columns, index depth, writing way) {
  const panel_cut panels(rows);
  bf16* turned_next = turned + depth * block_side;
  const index product_steps = panels.count() * (depth / block_side) * Parts;
  strip_turner(matrix, begin, depth, columns, 1, turned).finish();
  for (index s = begin; s < end; ++s) {
    strip_turner next;
    if (s + 1 < end) next = strip_turner(matrix, s + 1, depth, columns, product_steps, turned_next);
    for (index p = 0; p < panels.count(); ++p) {
      input_gradient_panel<Engine, Parts>(packed + panels.begin(p) * depth * Parts, turned, panels.rows(p), depth, added, s,
                                          panels.begin(p), dx + panels.begin(p) * columns + s * block_side, columns, way, next);
    }
    next.finish();
    std::swap(turned, turned_next);
  }
}

/// Packs rows of dy as left tiles, panel after panel. @shape packed [padded rows, depth parts]
template <class Y>
void pack_gradient_rows(const row_source<Y>& dy, index first, index rows, index depth, bf16* packed) {
  const panel_cut panels(rows);
  for (index p = 0; p < panels.count(); ++p) {
    const index r = panels.begin(p);
    pack_rows_as_rows<Y>({dy, first + r, panels.rows(p)}, panels.rows(p), depth, packed + r * depth * parts_of<Y>, writing::store);
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
      pack_gradient_rows(dy, t.rows.begin, rows, depth, own);
      packed = own;
    }
    bf16* const turned = thread_buffer(m, slot, buffer::right, 2 * depth * block_side);
    const typename Engine::session open;
    input_gradient_strips<Engine, parts>(rows, t.strip_begin, t.strip_end, packed, w + t.rows.matrix * columns * depth, {}, turned,
                                         dx + t.rows.begin * columns, columns, depth, way);
    finish(way);
  });
}

#endif

}  // namespace esft::detail::eigen
