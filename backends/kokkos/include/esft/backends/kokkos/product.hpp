// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The one kernel behind every matrix product: a team per tile of a list over (group, rows, columns), operands copied to the team's memory,
/// sums in registers. Sums are added in the order of their depth, so results do not depend on who computes what.

#include <esft/backend/backend.hpp>
#include <esft/backends/kokkos/context.hpp>
#include <esft/backends/kokkos/tiles.hpp>

namespace esft::detail::kokkos {

/// Which of an operand's dimensions has neighbouring elements in memory.
enum class along : bool {
  depth,  ///< element (i, k) lies at i * stride + k
  outer   ///< element (i, k) lies at k * stride + i
};

template <class U, along Contiguous>
struct operand {
  const U* data;
  index stride;
  [[nodiscard]] KOKKOS_INLINE_FUNCTION const U& at(index i, index k) const {
    return Contiguous == along::depth ? data[i * stride + k] : data[k * stride + i];
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION operand from(index i, index k) const { return {&at(i, k), stride}; }
};

/// Sums of one thread: a block of the tile.
template <class S, class A>
struct alignas(64) sums_block {
  A sum[S::block_rows * S::block_columns];
};

/// Adds `depth` terms to the first `Rows` rows of a block. `left` has element (i, k) at i * LeftRow + k * LeftDepth.
template <class S, int Rows, int LeftRow, int LeftDepth, class A>
ESFT_KOKKOS_FLATTEN void add_terms(const A* KOKKOS_RESTRICT left, const A* KOKKOS_RESTRICT right, int depth, A* KOKKOS_RESTRICT sums) {
  using vec = typename lanes<A>::type;
  constexpr int width = lanes<A>::count;
  constexpr int vectors = S::block_columns / width;
  vec sum[static_cast<std::size_t>(Rows)][static_cast<std::size_t>(vectors)];
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < vectors; ++j) load_lanes(sum[i][j], sums + i * S::block_columns + j * width);
  }
  for (int k = 0; k < depth; ++k) {
    vec by[static_cast<std::size_t>(vectors)];
    for (int j = 0; j < vectors; ++j) load_lanes(by[j], right + k * S::depth_stride + j * width);
    for (int i = 0; i < Rows; ++i) {
      const A value = left[i * LeftRow + k * LeftDepth];
      for (int j = 0; j < vectors; ++j) sum[i][j] += value * by[j];
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < vectors; ++j) store_lanes(sums + i * S::block_columns + j * width, sum[i][j]);
  }
}

/// What a launch multiplies. Group g: C[g] (+)= A B[g] for the rows of the group, or, for weight gradients, C[g] += A^T B over its rows.
template <class UA, along AlongA, class UB, along AlongB, class Out>
struct product {
  operand<UA, AlongA> left;
  operand<UB, AlongB> right;
  Out* out;
  index out_stride;
  index columns;
  index depth;  ///< with offsets: all rows that exist, beyond which an expert has none
  index right_of_a_group;  ///< elements from one group's B to the next
  index out_of_a_group;    ///< likewise of C; 0 where groups share the rows of C
  bool accumulate;
  const row_tile* tiles;      ///< null: one group of `rows` rows
  const std::int32_t* count;  ///< of tiles
  index rows;
  index rows_of_each_tile;
  const std::int32_t* offsets;  ///< of the rows that are the depth, for weight gradients of groups; null elsewhere
  const std::int32_t* selected;
};

template <class Execution, class UA, along AlongA, class UB, along AlongB, class Out>
struct product_tile {
  using A = accumulate_t<Out>;
  using S = tile_shape<Execution, A>;
  static constexpr bool cores = S::cores;
  // On a core rows stay as they come, on a device they are turned so that threads side by side read words side by side.
  static constexpr bool left_by_rows = cores && AlongA == along::depth;
  static constexpr int left_row = left_by_rows ? S::depth : 1;
  static constexpr int left_depth = left_by_rows ? 1 : S::rows;
  product<UA, AlongA, UB, AlongB, Out> p;
  index column_tiles;

  template <class Team>
  KOKKOS_FUNCTION void operator()(const Team& team) const {
    const index at = team.league_rank() / column_tiles;
    const index column = team.league_rank() % column_tiles * S::columns;
    const int columns = static_cast<int>(smaller(index{S::columns}, p.columns - column));
    row_tile tile{};
    if (p.tiles != nullptr) {
      if (at >= *p.count) return;
      tile = p.tiles[at];
    } else {
      const index tiles_of_a_group = divide_up(p.rows, p.rows_of_each_tile);
      tile.group = static_cast<std::int32_t>(at / tiles_of_a_group);
      tile.first = at % tiles_of_a_group * p.rows_of_each_tile;
      tile.count = static_cast<std::int32_t>(smaller(p.rows_of_each_tile, p.rows - tile.first));
    }
    index begin = 0;
    index depth = p.depth;
    if (p.offsets != nullptr) {
      const index e = p.selected[tile.group];
      begin = smaller(larger(index{p.offsets[e]}, index{0}), p.depth);
      depth = smaller(index{p.offsets[e + 1]}, p.depth) - begin;
    }
    const operand<UB, AlongB> right{p.right.data + tile.group * p.right_of_a_group, p.right.stride};

    auto* const memory = static_cast<char*>(
        team.team_scratch(scratch_level<Execution>()).get_shmem_aligned(static_cast<std::ptrdiff_t>(S::left_bytes + S::right_bytes), 64));
    auto* const a = reinterpret_cast<A*>(memory);
    auto* const b = reinterpret_cast<A*>(memory + S::left_bytes);
    const int row_blocks = static_cast<int>(divide_up(tile.count, S::block_rows));
    const int column_blocks = static_cast<int>(divide_up(columns, S::block_columns));

    sums_block<S, A> sums[S::blocks_of_a_thread];
    for (int block = 0; block < S::blocks_of_a_thread; ++block) {
      for (A& sum : sums[block].sum) sum = A{};
    }
    for (index k = 0; k < depth; k += S::depth) {
      const int terms = static_cast<int>(smaller(index{S::depth}, depth - k));
      copy_left(team, p.left.from(tile.first, begin + k), tile.count, terms, a);
      copy_right(team, right.from(column, begin + k), columns, terms, b);
      team.team_barrier();
      if constexpr (cores) {
        for (int j = 0; j < column_blocks; ++j) {
          for (int i = 0; i < row_blocks; ++i) {
            const int some = smaller(S::block_rows, tile.count - i * S::block_rows);
            add_rows(some, a + i * S::block_rows * left_row, b + j * S::block_stride, terms, sums[j * S::row_blocks + i].sum);
          }
        }
      } else {
        for (int mine = 0; mine < S::blocks_of_a_thread; ++mine) {
          const int block = mine * S::threads + static_cast<int>(team.team_rank());
          add_terms<S, S::block_rows, left_row, left_depth>(a + block % S::row_blocks * S::block_rows * left_row,
                                                            b + block / S::row_blocks * S::block_stride, terms, sums[mine].sum);
        }
      }
      team.team_barrier();
    }

    Out* const out = p.out + tile.group * p.out_of_a_group + tile.first * p.out_stride + column;
    for (int mine = 0; mine < S::blocks_of_a_thread; ++mine) {
      const int block = cores ? mine : mine * S::threads + static_cast<int>(team.team_rank());
      const int first_row = block % S::row_blocks * S::block_rows;
      const int first_column = block / S::row_blocks * S::block_columns;
      store(sums[mine].sum, out + first_row * p.out_stride + first_column, tile.count - first_row, columns - first_column);
    }
  }

 private:
  /// On a core a block of fewer rows has a kernel of its own: experts with few rows are common.
  ESFT_KOKKOS_FLATTEN static void add_rows(int rows, const A* left, const A* right, int depth, A* sums) {
    constexpr int third = S::block_rows / 3;
    if (rows > 2 * third) {
      add_terms<S, S::block_rows, left_row, left_depth>(left, right, depth, sums);
    } else if (rows > third) {
      add_terms<S, 2 * third, left_row, left_depth>(left, right, depth, sums);
    } else {
      add_terms<S, third, left_row, left_depth>(left, right, depth, sums);
    }
  }

  /// What is beyond the operand becomes zero, up to whole blocks.
  template <class Team>
  KOKKOS_INLINE_FUNCTION static void copy_left(const Team& team, operand<UA, AlongA> from, int rows, int terms, A* KOKKOS_RESTRICT to) {
    if constexpr (left_by_rows) {
      const int whole = static_cast<int>(divide_up(rows, S::block_rows)) * S::block_rows;
      for (int i = 0; i < whole; ++i) {
        A* const row = to + i * S::depth;
        if (i < rows) {
          const UA* const source = from.data + i * from.stride;
          for (int k = 0; k < terms; ++k) row[k] = static_cast<A>(source[k]);
        } else {
          for (int k = 0; k < terms; ++k) row[k] = A{};
        }
      }
    } else if constexpr (cores) {
      const int whole = static_cast<int>(divide_up(rows, S::block_rows)) * S::block_rows;
      for (int k = 0; k < terms; ++k) {
        A* const line = to + k * S::rows;
        const UA* const source = from.data + k * from.stride;
        for (int i = 0; i < rows; ++i) line[i] = static_cast<A>(source[i]);
        for (int i = rows; i < whole; ++i) line[i] = A{};
      }
    } else {
      Kokkos::parallel_for(Kokkos::TeamVectorRange(team, S::rows * S::depth), [=](int at) {
        const int i = AlongA == along::depth ? at / S::depth : at % S::rows;
        const int k = AlongA == along::depth ? at % S::depth : at / S::rows;
        to[k * S::rows + i] = i < rows && k < terms ? static_cast<A>(from.at(i, k)) : A{};
      });
    }
  }
  template <class Team>
  KOKKOS_INLINE_FUNCTION static void copy_right(const Team& team, operand<UB, AlongB> from, int columns, int terms, A* KOKKOS_RESTRICT to) {
    if constexpr (cores) {
      for (int first = 0; first < columns; first += S::block_columns) {
        const int some = smaller(S::block_columns, columns - first);
        A* const block = to + first / S::block_columns * S::block_stride;
        if constexpr (AlongB == along::outer) {
          for (int k = 0; k < terms; ++k) {
            const UB* const source = from.data + k * from.stride + first;
            A* const line = block + k * S::block_columns;
            if (some == S::block_columns) {
              for (int j = 0; j < S::block_columns; ++j) line[j] = static_cast<A>(source[j]);
            } else {
              for (int j = 0; j < S::block_columns; ++j) line[j] = j < some ? static_cast<A>(source[j]) : A{};
            }
          }
        } else {
          turn(from.data + first * from.stride, from.stride, some, terms, block);
        }
      }
    } else {
      Kokkos::parallel_for(Kokkos::TeamVectorRange(team, S::columns * S::depth), [=](int at) {
        const int j = AlongB == along::depth ? at / S::depth : at % S::columns;
        const int k = AlongB == along::depth ? at % S::depth : at / S::columns;
        to[k * S::columns + j] = j < columns && k < terms ? static_cast<A>(from.at(j, k)) : A{};
      });
    }
  }
  /// block[k, j] = source[j, k]
  KOKKOS_INLINE_FUNCTION static void turn(const UB* source, index stride, int columns, int terms, A* KOKKOS_RESTRICT block) {
    for (int k = 0; k < terms; ++k) {
      for (int j = 0; j < S::block_columns; ++j)
        block[k * S::block_columns + j] = j < columns ? static_cast<A>(source[j * stride + k]) : A{};
    }
  }

  KOKKOS_INLINE_FUNCTION void store(const A* sums, Out* out, index rows, index columns) const {
    const int some_rows = static_cast<int>(smaller(index{S::block_rows}, rows));
    const int some = static_cast<int>(smaller(index{S::block_columns}, columns));
    for (int i = 0; i < some_rows; ++i) {
      const A* const from = sums + i * S::block_columns;
      Out* const to = out + i * p.out_stride;
      if (p.accumulate) {
        for (int j = 0; j < some; ++j) to[j] = static_cast<Out>(static_cast<A>(to[j]) + from[j]);
      } else {
        for (int j = 0; j < some; ++j) to[j] = static_cast<Out>(from[j]);
      }
    }
  }
};

/// Launches a product over `row_tiles` rows of tiles at most.
template <class Execution, class UA, along AlongA, class UB, along AlongB, class Out>
void launch_product(context<Execution>& shared, const char* label, const product<UA, AlongA, UB, AlongB, Out>& p, index row_tiles) {
  using S = tile_shape<Execution, accumulate_t<Out>>;
  // Tiles differ in size, so whoever is free takes the next.
  using policy = Kokkos::TeamPolicy<Execution, Kokkos::Schedule<Kokkos::Dynamic>>;
  const index column_tiles = divide_up(p.columns, S::columns);
  if (row_tiles == 0 || column_tiles == 0) return;
  policy launch(shared.execution, static_cast<int>(row_tiles * column_tiles), S::threads, 1);
  launch.set_scratch_size(scratch_level<Execution>(), Kokkos::PerTeam(scratch_size{S::bytes}));
  if constexpr (S::cores) launch.set_chunk_size(1);
  Kokkos::parallel_for(label, launch, product_tile<Execution, UA, AlongA, UB, AlongB, Out>{p, column_tiles});
}

/// The tiles of groups of rows, made where the offsets lie. Returns how many there are at most.
template <class Execution>
index make_tiles(context<Execution>& shared, const std::int32_t* offsets, index groups, index rows, index most, index block,
                 const row_tile*& tiles, const std::int32_t*& count) {
  const index bound = groups + rows / most + 1;
  auto* const memory = shared.template scratch<char>(purpose::tiles, bound * static_cast<index>(sizeof(row_tile)) + 64);
  auto* const number = reinterpret_cast<std::int32_t*>(memory);
  auto* const list = reinterpret_cast<row_tile*>(memory + 64);
  tiles = list;
  count = number;
  if (groups == 0 || rows == 0) return 0;
  Kokkos::parallel_scan("esft list tiles", Kokkos::RangePolicy<Execution, Kokkos::IndexType<index>>(shared.execution, 0, groups),
                        list_tiles{offsets, list, number, groups, rows, most, block, bound});
  if constexpr (runs_at_once<Execution> && on_cores<Execution>) return *number;
  return bound;
}

}  // namespace esft::detail::kokkos
