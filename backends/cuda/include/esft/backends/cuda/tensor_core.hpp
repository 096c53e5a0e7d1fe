// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The words for tensor cores: bf16 products of one warp, loads of their operands, copies to shared memory that run beside arithmetic.
/// All lanes of a warp call them together. They exist since sm_80.

#include <esft/backends/cuda/device.hpp>
#include <esft/backends/cuda/fragments.hpp>
#include <esft/core/dtype.hpp>

#include <cstdint>

namespace esft::detail::cuda {

/// Two bf16 numbers in one register; the first in the lower half.
ESFT_DEVICE std::uint32_t pack_pair(float first, float second) {
#if defined(__CUDA_ARCH__)
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
  return pair;
#else
  return static_cast<std::uint32_t>(bf16(first).bits) | static_cast<std::uint32_t>(bf16(second).bits) << 16U;
#endif
}

struct operand_a {
  std::uint32_t pair[4];
};
struct operand_b {
  std::uint32_t pair[2];
};
struct sums_c {
  float value[4];
};

#if defined(__CUDACC__)

ESFT_DEVICE unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }
/// c [16, 8] += a [16, 16] b [16, 8], products of bf16 summed in float.
ESFT_DEVICE void multiply_add(sums_c& c, const operand_a& a, const operand_b& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c.value[0]), "+f"(c.value[1]), "+f"(c.value[2]), "+f"(c.value[3])
      : "r"(a.pair[0]), "r"(a.pair[1]), "r"(a.pair[2]), "r"(a.pair[3]), "r"(b.pair[0]), "r"(b.pair[1]));
}
/// Four 8 x 8 matrices, a register each; every lane gives the address of one row of one of them.
template <bool Transposed>
ESFT_DEVICE void load_matrices(const bf16* row, std::uint32_t (&to)[4]) {
  if constexpr (Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row)));
  }
}
/// Begins to copy 16 bytes to shared memory, or zeros where they are not wanted; `from` must be an address that exists all the same.
ESFT_DEVICE void copy_16_bytes(void* to, const void* from, bool wanted) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(wanted ? 16 : 0) : "memory");
}
ESFT_DEVICE void copy_4_bytes(void* to, const void* from, bool wanted) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from), "r"(wanted ? 4 : 0) : "memory");
}
/// Copies begun since the last call are one group.
ESFT_DEVICE void end_copy_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for this thread's copies, except for its latest `Pending` groups. Other threads see them after a barrier.
template <int Pending>
ESFT_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

#else

inline void multiply_add(sums_c& c, const operand_a& a, const operand_b& b) {
  struct operands {
    operand_a a;
    operand_b b;
  };
  const auto half = [](std::uint32_t pair, int i) {
    return static_cast<float>(bf16::from_bits(static_cast<std::uint16_t>(pair >> static_cast<unsigned>(16 * i))));
  };
  const auto all = emulator::offer(operands{a, b});
  float left[16][16];
  float right[16][8];
  for (int lane = 0; lane < warp_size; ++lane) {
    const bool of_my_rows = lane / 4 == lane_index() / 4;
    const bool of_my_columns = lane / 4 / 2 == lane_index() % 4;  // the others would only cost time
    if (!of_my_rows && !of_my_columns) continue;
    const auto& o = all(lane);
    for (int i = 0; i < 8 && of_my_rows; ++i) left[a_element(lane, i).row][a_element(lane, i).column] = half(o.a.pair[i / 2], i % 2);
    for (int i = 0; i < 4 && of_my_columns; ++i) right[b_element(lane, i).row][b_element(lane, i).column] = half(o.b.pair[i / 2], i % 2);
  }
  for (int i = 0; i < 4; ++i) {
    const element at = c_element(lane_index(), i);
    for (int l = 0; l < 16; ++l) c.value[i] += left[at.row][l] * right[l][at.column];
  }
}
template <bool Transposed>
void load_matrices(const bf16* row, std::uint32_t (&to)[4]) {
  const auto rows = emulator::offer(row);
  for (int matrix = 0; matrix < 4; ++matrix) {
    to[matrix] = 0;
    for (int i = 0; i < 2; ++i) {
      const element at = loaded_element(lane_index(), i, Transposed);
      to[matrix] |= static_cast<std::uint32_t>(rows(8 * matrix + at.row)[at.column].bits) << static_cast<unsigned>(16 * i);
    }
  }
}
inline void copy_16_bytes(void* to, const void* from, bool wanted) { emulator::machine::instance().begin_copy(to, from, 16, wanted); }
inline void copy_4_bytes(void* to, const void* from, bool wanted) { emulator::machine::instance().begin_copy(to, from, 4, wanted); }
inline void end_copy_group() { emulator::machine::instance().end_copy_group(); }
template <int Pending>
void wait_for_copies() {
  emulator::machine::instance().finish_copies(Pending);
}

#endif

/// What a lane adds to the start of a tile of rows of `Columns` numbers, for its rows of the four matrices that one load takes.
template <int Columns>
ESFT_DEVICE int lane_offset(quarters order) {
  const element at = lane_row(lane_index(), order);
  return chunk_place(at.row, at.column / chunk_elements, Columns);
}
/// The lane's row of the four matrices at (row, column): the chunks' exchange of places leaves multiples of 16 columns one `xor` apart, so
/// that one number serves a whole tile. @pre row is a multiple of 8, column of 16
template <int Columns>
ESFT_DEVICE const bf16* lane_address(const bf16* tile, int offset, int row, int column) {
  return tile + row * Columns + (offset ^ column);
}

/// a [16, 16] from rows of shared memory that hold `Columns` numbers. @pre of all loads: row and column are multiples of 16
template <int Columns>
ESFT_DEVICE operand_a load_a(const bf16* tile, int row, int column) {
  operand_a a;
  load_matrices<false>(lane_address<Columns>(tile, lane_offset<Columns>(quarters::down_first), row, column), a.pair);
  return a;
}
/// a [16, 16] whose transpose lies in shared memory: a[m][k] at (row + k, column + m).
template <int Columns>
ESFT_DEVICE operand_a load_a_transposed(const bf16* tile, int row, int column) {
  operand_a a;
  load_matrices<true>(lane_address<Columns>(tile, lane_offset<Columns>(quarters::across_first), row, column), a.pair);
  return a;
}
/// Two neighbours b [16, 8] whose transposes lie in shared memory: b[k][n] at (row + n, column + k), as keys of queries do.
template <int Columns>
ESFT_DEVICE void load_b_transposed(const bf16* tile, int row, int column, operand_b (&b)[2]) {
  std::uint32_t pair[4];
  load_matrices<false>(lane_address<Columns>(tile, lane_offset<Columns>(quarters::across_first), row, column), pair);
  b[0] = {{pair[0], pair[1]}};
  b[1] = {{pair[2], pair[3]}};
}
/// Two neighbours b [16, 8] as they lie in shared memory: b[k][n] at (row + k, column + n).
template <int Columns>
ESFT_DEVICE void load_b(const bf16* tile, int row, int column, operand_b (&b)[2]) {
  std::uint32_t pair[4];
  load_matrices<true>(lane_address<Columns>(tile, lane_offset<Columns>(quarters::down_first), row, column), pair);
  b[0] = {{pair[0], pair[1]}};
  b[1] = {{pair[2], pair[3]}};
}
/// Two neighbouring results c [16, 8] as the operand a [16, 16] of the next product.
ESFT_DEVICE operand_a as_operand(const sums_c& left, const sums_c& right) {
  return {{pack_pair(left.value[0], left.value[1]), pack_pair(left.value[2], left.value[3]), pack_pair(right.value[0], right.value[1]),
           pack_pair(right.value[2], right.value[3])}};
}

}  // namespace esft::detail::cuda
