// SPDX-License-Identifier: Apache-2.0
#include <esft/backends/eigen/task_pool.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>

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

TEST(task_pool, threads_that_the_system_does_not_give_are_an_error_that_says_so) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "SKIP: a sanitizer needs the address space that this test takes away";
#endif
  const auto refused = [] {
    const rlimit little{std::size_t{1} << 30U, std::size_t{1} << 30U};  // of address space: stacks of a hundred threads
    if (::setrlimit(RLIMIT_AS, &little) != 0) std::exit(2);
    try {
      const task_pool pool(10000);
    } catch (const esft::device_error& problem) {
      std::exit(std::string(problem.what()).find("of 10000 threads; ask for fewer") != std::string::npos ? 0 : 3);
    }
    std::exit(4);
  };
  EXPECT_EXIT(refused(), testing::ExitedWithCode(0), "");
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

/// Milliseconds that a clock of the system shows.
double milliseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

// Processor time, not the time that passes: what else runs on this machine does not count.
TEST(task_pool, idle_threads_use_next_to_no_processor_time) {
  task_pool pool(8);
  std::atomic<int> done = 0;
  pool.run(1000, [&](esft::index, int) { ++done; });
  const double before = milliseconds(CLOCK_PROCESS_CPUTIME_ID);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(milliseconds(CLOCK_PROCESS_CPUTIME_ID) - before, 50);  // one thread that does not sleep takes 300
}

TEST(task_pool, a_thread_waits_awake_for_thirty_microseconds) {
  const auto never = [] { return false; };
  constexpr int waits = 100;
  const double start = milliseconds(CLOCK_MONOTONIC);
  double least = std::numeric_limits<double>::max();  // of some attempts: a machine may count time to a thread that it took from it
  for (int attempt = 0; attempt < 20; ++attempt) {
    const double before = milliseconds(CLOCK_THREAD_CPUTIME_ID);
    for (int i = 0; i < waits; ++i) esft::detail::eigen::await(never);
    least = std::min(least, milliseconds(CLOCK_THREAD_CPUTIME_ID) - before);
  }
  EXPECT_GE(milliseconds(CLOCK_MONOTONIC) - start, 20 * waits * 0.03);
  EXPECT_LT(least, waits * 0.05);  // 30 microseconds each, and what it takes to look at the clock
  int asked = 0;
  esft::detail::eigen::await([&] { return ++asked == 5; });
  EXPECT_EQ(asked, 5);
}

}  // namespace task_pool_tests
