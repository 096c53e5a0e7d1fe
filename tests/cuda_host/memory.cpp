// SPDX-License-Identifier: Apache-2.0
// What a backend shares with its tensors: memory that ran out, memory of abandoned recordings, offsets that are remembered; and the shared
// memory of a block.
#include <esft/backends/cuda/context.hpp>
#include <esft/backends/cuda/kernels/attention_backward.hpp>
#include <esft/backends/cuda/kernels/elementwise.hpp>
#include <esft/backends/cuda/kernels/grouped.hpp>
#include <esft/backends/cuda/kernels/tensor_attention.hpp>
#include <esft/backends/cuda/kernels/tensor_attention_backward.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace esft::detail::cuda {
namespace {

TEST(cuda_memory, where_there_is_no_room_idle_memory_is_given_back_first) {
  context shared({});
  shared.device.room = shared.device.taken + 100;
  shared.release(shared.allocate(60));
  const std::int64_t before = shared.synchronisations;
  void* again = shared.allocate(60);  // the pool still holds as much
  EXPECT_EQ(shared.synchronisations, before + 1);
  EXPECT_THROW(static_cast<void>(shared.allocate(60)), device_error);
  shared.release(again);
  EXPECT_NO_THROW(shared.release(shared.allocate(60)));
}

TEST(cuda_memory, a_tensor_of_an_abandoned_recording_is_not_given_back_to_the_pool) {
  context shared({});
  const std::size_t before = shared.device.taken;
  shared.begin_recording();
  void* inside = shared.allocate(8);
  void* kept = shared.allocate(8);
  void* longer = shared.allocate(8);
  shared.release(inside);
  EXPECT_THROW(static_cast<void>(shared.end_recording()), contract_violation);
  EXPECT_EQ(shared.device.dead_returned, 0);
  shared.release(kept);
  EXPECT_EQ(shared.device.dead_returned, 1);
  EXPECT_EQ(shared.device.taken, before + 2 * 8);  // a device would not count them at all

  shared.begin_recording();  // nor is it a tensor that this one gives back
  shared.release(longer);
  EXPECT_NO_THROW(static_cast<void>(shared.end_recording()));
  EXPECT_EQ(shared.device.dead_returned, 2);
}

TEST(cuda_memory, what_was_made_before_a_recording_is_not_given_back_in_it) {
  context shared({});
  const std::size_t before = shared.device.taken;
  void* earlier = shared.allocate(8);
  shared.begin_recording();
  shared.release(shared.allocate(8));
  shared.release(earlier);
  EXPECT_EQ(shared.device.taken, before + 8);  // a device that records would not take it
  EXPECT_THROW(static_cast<void>(shared.end_recording()), contract_violation);
  EXPECT_EQ(shared.device.taken, before);
  EXPECT_EQ(shared.device.dead_returned, 0);
}

TEST(cuda_memory, offsets_are_forgotten_with_the_memory_that_holds_them_wherever_they_lie_in_it) {
  context shared({});
  const std::vector<std::int32_t> numbers{0, 0, 0, 0, 1, 3};
  const std::size_t bytes = numbers.size() * sizeof(std::int32_t);
  auto* data = static_cast<std::int32_t*>(shared.allocate(bytes));
  auto* other = static_cast<std::int32_t*>(shared.allocate(bytes));
  for (auto* to : {data, other}) shared.upload(to, numbers.data(), bytes);
  EXPECT_EQ(shared.host_offsets({data + 3, {3}}), (std::vector<std::int32_t>{0, 1, 3}));
  EXPECT_EQ(shared.host_offsets({other + 3, {3}}).back(), 3);
  EXPECT_EQ(shared.remembered_offsets(), 2U);
  shared.release(data);
  EXPECT_EQ(shared.remembered_offsets(), 1U);
  shared.release(other);
  EXPECT_EQ(shared.remembered_offsets(), 0U);
}

// Beside it a block has what its kernel declares: ranges of keys, and sums and pulls of rows.
TEST(cuda_shared_memory, attention_and_grouped_products_of_any_width_fit_the_smallest_device) {
  constexpr std::size_t word = sizeof(std::int32_t);
  for (index width = 1; width <= 256; ++width) {
    const attention_extents x{1, 1, 1, 1, width, 1};
    EXPECT_LE(x.shared_bytes(1, 2) + 2 * block_rows * word, least_shared_bytes) << "attention, width " << width;
    EXPECT_LE(x.shared_bytes(2, 2) + 2 * tile_columns * word, least_shared_bytes) << "its backward, width " << width;
  }
  const auto fits = [](std::size_t forward, std::size_t backward) {
    EXPECT_LE(forward + 2 * tensor_block * word, least_shared_bytes);
    EXPECT_LE(backward + 4 * 2 * backward_rows * word, least_shared_bytes);
  };
  fits(tensor_attention_bytes<64>(), tensor_backward_bytes<64>());
  fits(tensor_attention_bytes<128>(), tensor_backward_bytes<128>());
  fits(tensor_attention_bytes<256>(), tensor_backward_bytes<256>());
  EXPECT_LE(product_bytes, least_shared_bytes);
}

TEST(cuda_shared_memory, more_than_the_device_has_is_refused_with_the_way_out) {
  context shared({});
  shared.device.shared_room = std::size_t{48} * 1024;
  auto* x = static_cast<float*>(shared.allocate(2 * sizeof(float)));
  const auto add = [&](std::size_t bytes) { shared.launch(grid(1, warp_size, bytes), add_kernel<float>, x, x + 1, index{1}); };
  try {
    add(shared.device.shared_room + 1);
    ADD_FAILURE() << "launched";
  } catch (const device_error& failure) {
    const std::string text = failure.what();
    for (const char* part : {"memory.cpp:", "49153 bytes", "has 49152", "compute capability 8.0", "eigen_backend", "--backend eigen"}) {
      EXPECT_NE(text.find(part), text.npos) << text;
    }
  }
  EXPECT_NO_THROW(add(shared.device.shared_room));
  shared.release(x);
}

}  // namespace
}  // namespace esft::detail::cuda
