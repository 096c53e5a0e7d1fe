// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `task_pool`: threads that take numbered tasks from one atomic counter. What a task computes never depends on who runs it.

#include <esft/backends/eigen/isa.hpp>
#include <esft/core/error.hpp>
#include <esft/core/shape.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace esft::detail::eigen {

/// How long a thread waits awake: it covers the gap between two ops, and is too short to starve anyone.
inline constexpr std::chrono::microseconds awake{30};

/// Returns when `done()` holds, or after `awake`. By the clock, as a pause takes 40 cycles on some CPUs and 140 on others.
template <class Done>
void await(Done&& done) {
  constexpr int pauses = 16;  // from one look at the clock to the next: about a microsecond
  for (const auto end = std::chrono::steady_clock::now() + awake; std::chrono::steady_clock::now() < end;) {
    for (int i = 0; i < pauses; ++i) {
      if (done()) return;
#if ESFT_EIGEN_X86
      _mm_pause();
#else
      std::this_thread::yield();
#endif
    }
  }
}

/// A fixed set of threads for short parallel loops. The calling thread takes part; a worker that the operating system does not
/// schedule in time is not waited for, so a busy machine slows a loop down but never stalls it. Idle workers sleep.
/// One loop at a time: two threads may not call `run` of one pool at once.
class task_pool {
 public:
  /// `threads` counts the caller; 0 means as many as the hardware has. @throws device_error where the system gives fewer
  explicit task_pool(int threads = 0) {
    if (threads <= 0) threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    threads_ = threads;
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    try {
      for (int slot = 1; slot < threads; ++slot) workers_.emplace_back([this, slot] { work(slot); });
    } catch (const std::system_error&) {
      stop();
      throw device_error("eigen: the system gives no more than " + std::to_string(workers_.size() + 1) + " of " + std::to_string(threads) +
                         " threads; ask for fewer (--threads), results do not depend on their number");
    }
  }
  task_pool(const task_pool&) = delete;
  task_pool& operator=(const task_pool&) = delete;
  ~task_pool() { stop(); }

  /// Number of threads, the caller included; slots are numbered below it.
  [[nodiscard]] int threads() const noexcept { return threads_; }

  /// Calls `body(task, slot)` for each task in [0, count), in any order, and returns when all are done. `slot` names the thread:
  /// two calls with one slot never overlap. The first exception stops the loop and is thrown here.
  template <class Body>
  void run(index count, Body&& body) {
    if (count <= 0) return;
    if (count == 1 || workers_.empty()) {
      for (index task = 0; task < count; ++task) body(task, 0);
      return;
    }
    using body_type = std::remove_reference_t<Body>;
    call_ = [](const void* context, index task, int slot) {
      (*const_cast<body_type*>(static_cast<const body_type*>(context)))(task, slot);
    };
    body_ = std::addressof(body);
    count_ = count;
    next_.store(0, std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex_);
      open_ = true;
      generation_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    take_tasks(0);
    std::unique_lock lock(mutex_);
    open_ = false;
    if (inside_ != 0) {
      lock.unlock();
      await([this] { return inside_.load(std::memory_order_acquire) == 0; });
      lock.lock();
      done_.wait(lock, [this] { return inside_ == 0; });
    }
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  void take_tasks(int slot) {
    try {
      for (index task = next_.fetch_add(1, std::memory_order_relaxed); task < count_;
           task = next_.fetch_add(1, std::memory_order_relaxed)) {
        call_(body_, task, slot);
      }
    } catch (...) {
      next_.store(count_, std::memory_order_relaxed);
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
    }
  }

  void work(int slot) {
    std::uint64_t seen = 0;
    for (;;) {
      await([&] { return generation_.load(std::memory_order_acquire) != seen; });
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stopping_ || generation_.load(std::memory_order_relaxed) != seen; });
        if (stopping_) return;
        seen = generation_.load(std::memory_order_relaxed);
        if (!open_) continue;  // too late: the loop is over
        ++inside_;
      }
      take_tasks(slot);
      const std::lock_guard lock(mutex_);
      if (--inside_ == 0) done_.notify_one();
    }
  }

  void stop() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads_ = 1;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<int> inside_{0};
  bool open_ = false;
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::atomic<index> next_{0};
  index count_ = 0;
  void (*call_)(const void*, index, int) = nullptr;
  const void* body_ = nullptr;
};

/// Calls `body(begin, end, slot)` for consecutive blocks of `grain` items. The blocks depend on `count` and `grain` alone.
template <class Body>
void for_blocks(task_pool& pool, index count, index grain, Body&& body) {
  const index step = std::max<index>(1, grain);
  pool.run((count + step - 1) / step, [&](index block, int slot) { body(block * step, std::min(count, (block + 1) * step), slot); });
}

}  // namespace esft::detail::eigen
