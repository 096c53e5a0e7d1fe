// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Which elements of a matrix a lane of a warp holds in a tensor-core product, and where tiles lie in shared memory. Needs no GPU.
/// @source PTX ISA 8.x, "Matrix fragments for mma.m16n8k16" and "ldmatrix"

#include <esft/core/config.hpp>

#include <cstdint>

namespace esft::detail::cuda {

/// A place in a matrix.
struct element {
  int row;
  int column;
};

/// a [16, 16] of c += a b, element i of 8: two neighbours in a row fill one register.
ESFT_HOST_DEVICE constexpr element a_element(int lane, int i) noexcept {
  return {lane / 4 + 8 * (i / 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i / 4)};
}
/// b [16, 8], element i of 4: two neighbours in a column fill one register.
ESFT_HOST_DEVICE constexpr element b_element(int lane, int i) noexcept { return {lane % 4 * 2 + i % 2 + 8 * (i / 2), lane / 4}; }
/// c [16, 8], element i of 4.
ESFT_HOST_DEVICE constexpr element c_element(int lane, int i) noexcept { return {lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2}; }

/// Element i of 2 that a lane gets of one 8 x 8 matrix which ldmatrix loads.
ESFT_HOST_DEVICE constexpr element loaded_element(int lane, int i, bool transposed) noexcept {
  const element e{lane / 4, lane % 4 * 2 + i};
  return transposed ? element{e.column, e.row} : e;
}

/// Where the four 8 x 8 matrices lie that one ldmatrix loads: as the registers of an operand want them.
enum class quarters : std::uint8_t {
  down_first,   ///< (0,0) (8,0) (0,8) (8,8): a stored by rows, or two times b stored by rows and loaded transposed
  across_first  ///< (0,0) (0,8) (8,0) (8,8): two times b stored by columns, or a stored by columns and loaded transposed
};
/// The row, and the first of eight columns, whose address this lane gives.
ESFT_HOST_DEVICE constexpr element lane_row(int lane, quarters order) noexcept {
  const int down = order == quarters::down_first ? lane / 8 % 2 : lane / 16;
  const int across = order == quarters::down_first ? lane / 16 : lane / 8 % 2;
  return {lane % 8 + 8 * down, 8 * across};
}

inline constexpr int chunk_elements = 8;  ///< bf16 numbers in 16 bytes, the unit of copies and of ldmatrix

/// Rows of shared memory hold `columns` bf16 numbers, a multiple of 64. The 16-byte chunks of a row change places with the row's number, so
/// that eight rows of a column of chunks meet different banks. Returns the first element of the chunk.
ESFT_HOST_DEVICE constexpr int chunk_place(int row, int chunk, int columns) noexcept {
  return row * columns + (chunk ^ (row % 8)) * chunk_elements;
}

}  // namespace esft::detail::cuda
