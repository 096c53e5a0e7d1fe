// SPDX-License-Identifier: Apache-2.0
// Tensor-core products: which element lies in which lane, where tiles lie in shared memory, and the emulator's products against plain ones.
#include <esft/backends/cuda/tensor_core.hpp>
#include <esft/core/rng.hpp>

#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace esft::detail::cuda {
namespace {

bool operator==(element a, element b) { return a.row == b.row && a.column == b.column; }

// Read off the figures of the PTX ISA, "Matrix Fragments for mma.m16n8k16", by hand: lane, element, row, column.
TEST(cuda_fragments, lie_where_the_instruction_set_says) {
  struct entry {
    int lane, i, row, column;
  };
  for (const auto& [lane, i, row, column] : std::vector<entry>{{0, 0, 0, 0}, {0, 1, 0, 1}, {0, 2, 8, 0}, {0, 3, 8, 1}, {0, 4, 0, 8},
                                                               {0, 5, 0, 9}, {0, 6, 8, 8}, {0, 7, 8, 9}, {3, 0, 0, 6}, {4, 0, 1, 0},
                                                               {31, 0, 7, 6}, {31, 3, 15, 7}, {31, 5, 7, 15}, {31, 7, 15, 15}}) {
    EXPECT_TRUE((a_element(lane, i) == element{row, column})) << "a, lane " << lane << " element " << i;
  }
  for (const auto& [lane, i, row, column] : std::vector<entry>{
           {0, 0, 0, 0}, {0, 1, 1, 0}, {0, 2, 8, 0}, {0, 3, 9, 0}, {1, 0, 2, 0}, {4, 0, 0, 1}, {31, 0, 6, 7}, {31, 3, 15, 7}}) {
    EXPECT_TRUE((b_element(lane, i) == element{row, column})) << "b, lane " << lane << " element " << i;
  }
  for (const auto& [lane, i, row, column] : std::vector<entry>{
           {0, 0, 0, 0}, {0, 1, 0, 1}, {0, 2, 8, 0}, {0, 3, 8, 1}, {1, 0, 0, 2}, {4, 0, 1, 0}, {31, 0, 7, 6}, {31, 3, 15, 7}}) {
    EXPECT_TRUE((c_element(lane, i) == element{row, column})) << "c, lane " << lane << " element " << i;
  }
}

TEST(cuda_fragments, hold_every_element_once) {
  std::set<int> a, b, c;
  for (int lane = 0; lane < warp_size; ++lane) {
    for (int i = 0; i < 8; ++i) a.insert(a_element(lane, i).row * 16 + a_element(lane, i).column);
    for (int i = 0; i < 4; ++i) b.insert(b_element(lane, i).row * 8 + b_element(lane, i).column);
    for (int i = 0; i < 4; ++i) c.insert(c_element(lane, i).row * 8 + c_element(lane, i).column);
  }
  EXPECT_EQ(a.size(), 256U);
  EXPECT_EQ(b.size(), 128U);
  EXPECT_EQ(c.size(), 128U);
}

TEST(cuda_tiles, have_a_place_for_every_chunk_and_eight_rows_meet_no_bank_twice) {
  for (const int columns : {64, 128, 256}) {
    std::set<int> places;
    for (int row = 0; row < 16; ++row) {
      for (int chunk = 0; chunk < columns / chunk_elements; ++chunk) places.insert(chunk_place(row, chunk, columns));
    }
    EXPECT_EQ(places.size(), static_cast<std::size_t>(16 * columns / chunk_elements));
    EXPECT_LT(*places.rbegin(), 16 * columns);
    for (int chunk = 0; chunk < columns / chunk_elements; ++chunk) {
      std::set<int> banks;  // of 16 bytes: eight make the 128 bytes that shared memory gives at a time
      for (int row = 0; row < 8; ++row) banks.insert(chunk_place(row, chunk, columns) / chunk_elements % 8);
      EXPECT_EQ(banks.size(), 8U);
    }
  }
}

/// Runs `body` as one warp with shared memory of this many bytes.
template <class Body>
void run_warp(std::size_t bytes, Body body) {
  emulator::machine::instance().run(1, warp_size, bytes, body);
}

constexpr int width = 64;

/// Rows of integers, exact in bf16 and in sums, put into a tile in pieces of 16 bytes.
struct stored_rows {
  std::vector<bf16> values;
  stored_rows(int rows, std::uint64_t seed) {
    const counter_rng rng(seed, rng_stream::test);
    for (int i = 0; i < rows * width; ++i) values.emplace_back(static_cast<float>(rng.below(static_cast<std::uint64_t>(i), 9)) - 4);
  }
  [[nodiscard]] float at(int row, int column) const { return values[static_cast<std::size_t>(row * width + column)]; }
  void put(bf16* tile) const {
    const int rows = static_cast<int>(values.size()) / width;
    for (int i = thread_index(); i < rows * width / chunk_elements; i += warp_size) {
      const int row = i / (width / chunk_elements);
      const int chunk = i % (width / chunk_elements);
      copy_16_bytes(tile + chunk_place(row, chunk, width), values.data() + i * chunk_elements, true);
    }
    end_copy_group();
    wait_for_copies<0>();
    sync_warp();
  }
};

// Operands come from shared memory by ldmatrix, whose layout is described apart from that of the product: both must agree.
TEST(cuda_tensor_core, products_of_loaded_operands_are_those_of_the_matrices) {
  const stored_rows left(32, 1);
  const stored_rows right(32, 2);
  for (const bool left_transposed : {false, true}) {
    for (const bool right_transposed : {false, true}) {
      std::vector<float> c(16 * 16, -1);
      run_warp(64 * width * sizeof(bf16), [&] {
        bf16* a_tile = reinterpret_cast<bf16*>(shared_floats());
        bf16* b_tile = a_tile + 32 * width;
        left.put(a_tile);
        right.put(b_tile);
        const operand_a a = left_transposed ? load_a_transposed<width>(a_tile, 16, 32) : load_a<width>(a_tile, 16, 32);
        operand_b b[2];
        if (right_transposed) {
          load_b_transposed<width>(b_tile, 16, 48, b);
        } else {
          load_b<width>(b_tile, 16, 48, b);
        }
        for (int n = 0; n < 2; ++n) {
          sums_c sums{};
          multiply_add(sums, a, b[n]);
          for (int i = 0; i < 4; ++i) {
            const element at = c_element(lane_index(), i);
            c[static_cast<std::size_t>(at.row * 16 + 8 * n + at.column)] = sums.value[i];
          }
        }
      });
      for (int m = 0; m < 16; ++m) {
        for (int n = 0; n < 16; ++n) {
          float wanted = 0;
          for (int k = 0; k < 16; ++k) {
            wanted += (left_transposed ? left.at(16 + k, 32 + m) : left.at(16 + m, 32 + k)) *
                      (right_transposed ? right.at(16 + n, 48 + k) : right.at(16 + k, 48 + n));
          }
          ASSERT_EQ(c[static_cast<std::size_t>(m * 16 + n)], wanted) << m << ", " << n << (left_transposed ? " left" : "")
                                                                     << (right_transposed ? " right" : "") << " transposed";
        }
      }
    }
  }
}

TEST(cuda_tensor_core, results_are_the_operands_of_the_next_product) {
  std::vector<float> seen(16 * 16);
  run_warp(0, [&] {
    sums_c tiles[2];
    for (int n = 0; n < 2; ++n) {
      for (int i = 0; i < 4; ++i) {
        const element at = c_element(lane_index(), i);
        tiles[n].value[i] = static_cast<float>(at.row * 16 + 8 * n + at.column);
      }
    }
    const operand_a a = as_operand(tiles[0], tiles[1]);
    for (int i = 0; i < 8; ++i) {
      const element at = a_element(lane_index(), i);
      const auto bits = static_cast<std::uint16_t>(a.pair[i / 2] >> static_cast<unsigned>(16 * (i % 2)));
      seen[static_cast<std::size_t>(at.row * 16 + at.column)] = bf16::from_bits(bits);
    }
  });
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], static_cast<float>(i));
}

// The emulator's copies arrive when they are waited for: a kernel that forgets to wait reads NaN.
TEST(cuda_tensor_core, copies_arrive_with_their_group_and_unwanted_ones_bring_zeros) {
  const std::vector<float> from{1, 2, 3, 4, 5, 6, 7, 8};
  run_warp(64, [&] {
    if (thread_index() != 0) return;
    float* to = shared_floats();
    copy_16_bytes(to, from.data(), true);
    end_copy_group();
    copy_16_bytes(to + 4, from.data() + 4, false);
    copy_4_bytes(to + 8, from.data() + 7, true);
    end_copy_group();
    EXPECT_NE(to[0], to[0]);
    wait_for_copies<1>();
    EXPECT_EQ(to[3], 4);
    EXPECT_NE(to[4], to[4]);
    wait_for_copies<0>();
    EXPECT_EQ(to[7], 0);
    EXPECT_EQ(to[8], 8);
  });
}

// Or when they begin: a kernel that still reads the place which it fills again reads the new.
TEST(cuda_tensor_core, copies_may_arrive_when_they_begin) {
  const std::vector<float> from{1, 2, 3, 4};
  emulator::machine::instance().order.copies_at_once = true;
  run_warp(64, [&] {
    if (thread_index() != 0) return;
    copy_16_bytes(shared_floats(), from.data(), true);
    EXPECT_EQ(shared_floats()[3], 4);
    end_copy_group();
    wait_for_copies<0>();
  });
  emulator::machine::instance().order = {};
}

}  // namespace
}  // namespace esft::detail::cuda
