// SPDX-License-Identifier: Apache-2.0
#include <esft/backends/eigen/task_pool.hpp>

#include <atomic>
#include <stdexcept>
#include <vector>

#include <gtest/gtest.h>

namespace task_pool_tests {

using esft::detail::eigen::for_blocks;
using esft::detail::eigen::task_pool;

TEST(task_pool, runs_every_task_once_for_any_number_of_threads) {
  for (const int threads : {1, 2, 3, 8}) {
    task_pool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const esft::index count : {0, 1, 2, 3, 100, 1000}) {
      std::vector<int> hits(static_cast<std::size_t>(count));
      pool.run(count, [&](esft::index task, int) { ++hits[static_cast<std::size_t>(task)]; });
      EXPECT_EQ(std::count(hits.begin(), hits.end(), 1), count);
    }
  }
}

TEST(task_pool, never_gives_one_slot_to_two_tasks_at_once) {
  task_pool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<bool> overlapped = false;
  for (int repeat = 0; repeat < 50; ++repeat) {
    pool.run(64, [&](esft::index, int slot) {
      if (inside[static_cast<std::size_t>(slot)].fetch_add(1) != 0) overlapped = true;
      std::atomic<int> work = 0;
      for (int i = 0; i < 200; ++i) work.fetch_add(i);
      inside[static_cast<std::size_t>(slot)].fetch_sub(1);
    });
  }
  EXPECT_FALSE(overlapped);
}

TEST(task_pool, sees_what_the_caller_wrote_and_the_caller_sees_the_results) {
  task_pool pool(3);
  std::vector<int> data(257);
  for (int round = 1; round <= 200; ++round) {  // many short loops: workers are woken late, in time, and not at all
    const int written = round;
    pool.run(257, [&](esft::index task, int) { data[static_cast<std::size_t>(task)] += written; });
  }
  for (const int value : data) EXPECT_EQ(value, 200 * 201 / 2);
}

TEST(task_pool, throws_the_exception_of_a_task_and_works_afterwards) {
  task_pool pool(4);
  for (int repeat = 0; repeat < 20; ++repeat) {
    EXPECT_THROW(pool.run(100,
                          [](esft::index task, int) {
                            if (task == 37) throw std::runtime_error("37");
                          }),
                 std::runtime_error);
    std::atomic<int> done = 0;
    EXPECT_NO_THROW(pool.run(100, [&](esft::index, int) { ++done; }));
    EXPECT_EQ(done, 100);
  }
}

TEST(task_pool, blocks_depend_on_the_count_alone) {
  for (const int threads : {1, 4}) {
    task_pool pool(threads);
    std::vector<esft::index> begin_of(100, -1);
    for_blocks(pool, 100, 30, [&](esft::index begin, esft::index end, int) {
      for (esft::index i = begin; i < end; ++i) begin_of[static_cast<std::size_t>(i)] = begin;
    });
    EXPECT_EQ(begin_of[0], 0);
    EXPECT_EQ(begin_of[59], 30);
    EXPECT_EQ(begin_of[99], 90);
  }
}

}  // namespace task_pool_tests
