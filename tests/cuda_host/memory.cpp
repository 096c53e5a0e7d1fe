// SPDX-License-Identifier: Apache-2.0
// What a backend shares with its tensors: memory that ran out, memory of abandoned recordings, offsets that are remembered.
#include <esft/backends/cuda/context.hpp>

#include <cstdint>
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

}  // namespace
}  // namespace esft::detail::cuda
