// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// What the kernels of attention on tensor cores share: tiles of rows in shared memory, and how many of a tile's keys queries see.

#include <esft/backends/cuda/kernels/attention.hpp>
#include <esft/backends/cuda/tensor_core.hpp>

namespace esft::detail::cuda {

inline constexpr int tensor_warps = 4;
inline constexpr int tensor_rows = 16;                          ///< rows that a warp owns
inline constexpr int tensor_block = tensor_warps * tensor_rows;  ///< rows that a block owns
inline constexpr int tensor_threads = tensor_warps * warp_size;
inline constexpr float log2_e = 1.44269504088896341F;
inline constexpr float ln_2 = 0.69314718055994531F;

/// Tiles that pass by: two, one arriving while the other is used, where shared memory has room.
constexpr int tile_stages(int columns) noexcept { return columns <= 128 ? 2 : 1; }
/// Whether a warp keeps its own rows in registers.
constexpr bool rows_in_registers(int columns) noexcept { return columns <= 128; }

/// Begins to copy rows [first, first + Rows) of one head; zeros beyond the last row and the head's width. @pre width is a multiple of 8
template <int Rows, int Columns>
ESFT_DEVICE void begin_rows(const bf16* from, index rows, index heads, index head, index width, index first, bf16* tile) {
  constexpr int chunks = Columns / chunk_elements;
  ESFT_UNROLL_BY_4
  for (int i = thread_index(); i < Rows * chunks; i += tensor_threads) {
    const int row = i / chunks;
    const int chunk = i % chunks;
    const bool wanted = first + row < rows && chunk * chunk_elements < width;
    copy_16_bytes(tile + chunk_place(row, chunk, Columns),
                  wanted ? from + ((first + row) * heads + head) * width + chunk * chunk_elements : from, wanted);
  }
}

/// How many of the keys of a tile the queries of a group see.
enum class cover : std::uint8_t { none, some, all };

/// Of keys [first, last) by `count` queries; the same for every lane. @pre the whole warp calls
ESFT_DEVICE cover cover_of(const std::int32_t* begin, const std::int32_t* end, int count, index first, index last) {
  bool meets = false;
  bool whole = true;
  for (int i = lane_index(); i < count; i += warp_size) {
    meets = meets || (begin[i] < end[i] && begin[i] < last && end[i] > first);
    whole = whole && begin[i] <= first && end[i] >= last;
  }
  if (warp_ballot(meets) == 0) return cover::none;
  return warp_ballot(!whole) == 0 ? cover::all : cover::some;
}

/// Key ranges of the queries of one block in shared memory, and the keys from the first to the last that any of them sees.
struct seen_keys {
  index low;
  index high;
};
ESFT_DEVICE seen_keys load_ranges(const std::int32_t* key_begin, const std::int32_t* key_end, index queries, index first_query,
                                  std::int32_t* begin, std::int32_t* end) {
  for (int i = thread_index(); i < tensor_block; i += tensor_threads) {
    const index t = first_query + i;
    begin[i] = t < queries ? key_begin[t] : 0;
    end[i] = t < queries ? key_end[t] : 0;
  }
  sync_block();
  std::int32_t low = std::numeric_limits<std::int32_t>::max();
  std::int32_t high = 0;
  for (int i = lane_index(); i < tensor_block; i += warp_size) {
    if (begin[i] >= end[i]) continue;
    low = begin[i] < low ? begin[i] : low;
    high = end[i] > high ? end[i] : high;
  }
  return {-warp_max(-low), warp_max(high)};
}
/// The first tile of keys from s on that any query of the block sees; `high` where there is none.
ESFT_DEVICE index next_keys(const std::int32_t* begin, const std::int32_t* end, index s, index high, int keys) {
  while (s < high && cover_of(begin, end, tensor_block, s, s + keys) == cover::none) s += keys;
  return s < high ? s : high;
}
/// @pre 16-byte aligned
ESFT_DEVICE void clear_chunk(bf16* to) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
#else
  for (int i = 0; i < chunk_elements; ++i) to[i] = bf16::from_bits(0);
#endif
}
/// Rows of keys that no query of the block sees become zeros: they may hold anything, as unwritten cache rows do, and 0 x NaN is NaN.
template <int Keys, int Columns>
ESFT_DEVICE void hide_unseen_rows(const std::int32_t* begin, const std::int32_t* end, index first, bf16* tile) {
  static_assert(Keys <= tensor_threads);
  if (thread_index() >= Keys) return;
  const index s = first + thread_index();
  bool seen = false;
  for (int i = 0; i < tensor_block; ++i) seen = seen || (s >= begin[i] && s < end[i]);
  if (seen) return;
  for (int f = 0; f < Columns; f += chunk_elements) clear_chunk(tile + thread_index() * Columns + f);
}

/// Queries that see none of the keys [first, first + tensor_block) become zeros, and so do their gradients, for the same reason.
template <int Rows, int Columns>
ESFT_DEVICE void hide_blind_rows(const std::int32_t* begin, const std::int32_t* end, index first, bf16* q_tile, bf16* d_tile) {
  static_assert(tensor_threads % Rows == 0);
  constexpr int share = tensor_threads / Rows;
  const int row = thread_index() / share;
  if (begin[row] < end[row] && begin[row] < first + tensor_block && end[row] > first) return;
  for (int f = thread_index() % share * chunk_elements; f < Columns; f += share * chunk_elements) {
    clear_chunk(q_tile + row * Columns + f);
    clear_chunk(d_tile + row * Columns + f);
  }
}

/// Two neighbours of a row of results. @pre `to` is 4-byte aligned
ESFT_DEVICE void store_pair(bf16* to, float first, float second) {
#if defined(__CUDA_ARCH__)
  *reinterpret_cast<std::uint32_t*>(to) = pack_pair(first, second);
#else
  to[0] = bf16(first);
  to[1] = bf16(second);
#endif
}
/// 2^x within two ulp; what would be denormal is 0.
ESFT_DEVICE float exp_2(float x) {
#if defined(__CUDA_ARCH__)
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return ::exp2f(x);
#endif
}

/// One step of 16 columns of the products below.
template <int Rows, int Columns>
ESFT_DEVICE void multiply_step(const operand_a& a, const bf16* tile, int column, sums_c (&c)[static_cast<std::size_t>(Rows / 8)]) {
  ESFT_UNROLL
  for (int n = 0; n < Rows / 16; ++n) {
    operand_b b[2];
    load_b_transposed<Columns>(tile, 16 * n, column, b);
    multiply_add(c[2 * n], a, b[0]);
    multiply_add(c[2 * n + 1], a, b[1]);
  }
}
/// Products of a warp's 16 rows with `Rows` rows that lie in `tile`: c[i][j] = <a_i, tile_j>.
template <int Rows, int Columns, class Operand>
ESFT_DEVICE void multiply_by_rows(const Operand& a_of, const bf16* tile, sums_c (&c)[static_cast<std::size_t>(Rows / 8)]) {
  if constexpr (rows_in_registers(Columns)) {
    ESFT_UNROLL
    for (int k = 0; k < Columns / 16; ++k) multiply_step<Rows, Columns>(a_of(k), tile, 16 * k, c);
  } else {
    ESFT_UNROLL_BY_2  // more operands in flight than there are registers would not be faster
    for (int k = 0; k < Columns / 16; ++k) multiply_step<Rows, Columns>(a_of(k), tile, 16 * k, c);
  }
}
/// Weighted sums of `Rows` rows that lie in `tile`, of their columns from `first` on: c[i] += sum_j w[i][j] tile_j.
template <int Rows, int Columns, int Wanted>
ESFT_DEVICE void add_weighted(const sums_c (&w)[static_cast<std::size_t>(Rows / 8)], const bf16* tile, int first,
                              sums_c (&c)[static_cast<std::size_t>(Wanted / 8)]) {
  ESFT_UNROLL
  for (int k = 0; k < Rows / 16; ++k) {
    const operand_a a = as_operand(w[2 * k], w[2 * k + 1]);
    ESFT_UNROLL
    for (int n = 0; n < Wanted / 16; ++n) {
      operand_b b[2];
      load_b<Columns>(tile, 16 * k, first + 16 * n, b);
      multiply_add(c[2 * n], a, b[0]);
      multiply_add(c[2 * n + 1], a, b[1]);
    }
  }
}

/// A warp's own 16 rows as operands: from registers where they fit, else from shared memory each time.
template <int Columns, bool InRegisters>
struct own_rows {
  const bf16* tile = nullptr;
  int first = 0;
  ESFT_DEVICE void load(const bf16* from, int row) {
    tile = from;
    first = row;
  }
  ESFT_DEVICE operand_a operator()(int k) const { return load_a<Columns>(tile, first, 16 * k); }
};
template <int Columns>
struct own_rows<Columns, true> {
  operand_a kept[static_cast<std::size_t>(Columns / 16)];
  ESFT_DEVICE void load(const bf16* from, int row) {
    ESFT_UNROLL
    for (int k = 0; k < Columns / 16; ++k) kept[k] = load_a<Columns>(from, row, 16 * k);
  }
  ESFT_DEVICE operand_a operator()(int k) const { return kept[k]; }
};

}  // namespace esft::detail::cuda
