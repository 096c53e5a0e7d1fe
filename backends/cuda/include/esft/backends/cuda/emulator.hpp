// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Runs kernels on the host, one fiber per thread of a block: what a GPU computes, without one. For tests; slow.

#include <esft/core/shape.hpp>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include <csetjmp>
#include <ucontext.h>

// The sanitizer must be told of every switch of stacks, and checks of longjmp take one for an error: there fibers switch by swapcontext,
// which asks the kernel for the mask of signals each time. Elsewhere they jump, which costs a tenth.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define ESFT_EMULATOR_SWAPS 1
#elif defined(_FORTIFY_SOURCE) && _FORTIFY_SOURCE > 0
#define ESFT_EMULATOR_SWAPS 1
#else
#define ESFT_EMULATOR_SWAPS 0
#endif

namespace esft::detail::cuda::emulator {

enum class barrier { none, warp, block };

/// Where the running thread is.
struct place {
  int thread = 0;
  int threads = 0;
  index block = 0;
  index blocks = 0;
  float* shared = nullptr;
};

/// What a GPU leaves open. A kernel whose result depends on any of it misses a barrier.
struct schedule {
  bool reversed = false;         ///< The last thread, warp and block go first.
  bool warps_run_ahead = false;  ///< A warp runs to the next barrier of its block before another begins; else all run to their next wait.
  bool copies_at_once = false;   ///< Asynchronous copies arrive when they begin; else when they are waited for, and not before.
};

/// Threads of one block take turns; each runs until it waits.
class machine {
 public:
  schedule order;
  place now;

  template <class Body>
  void run(index blocks, int threads, std::size_t shared_bytes, Body& body) {
    now.blocks = blocks;
    now.threads = threads;
    fibers_.resize(std::max(fibers_.size(), static_cast<std::size_t>(threads)));
    for (index b = 0; b < blocks; ++b) {
      shared_.assign(shared_bytes / sizeof(float) + 4, 0);
      std::memset(shared_.data(), 0xff, shared_.size() * sizeof(float));  // what no thread has written is NaN
      now.shared = shared_.data();
      now.block = order.reversed ? blocks - 1 - b : b;
      body_ = [](void* object) { (*static_cast<Body*>(object))(); };
      object_ = &body;
      run_block(threads);
    }
  }
  void wait(barrier kind) {
    fiber& self = fibers_[static_cast<std::size_t>(now.thread)];
    self.waits = kind;
    leave(self);
  }
  /// Every lane of the warp offers a value and may then read what any thread of its warp offered.
  template <class V>
  auto offer(V value) {
    static_assert(sizeof(V) <= most_offered);
    fiber& self = fibers_[static_cast<std::size_t>(now.thread)];
    const int slot = self.exchanges++ % 2;  // a fast lane may already offer the next value
    std::memcpy(self.offered[slot], &value, sizeof(V));
    wait(barrier::warp);
    return [this, slot](int thread) {
      V result;
      std::memcpy(&result, fibers_[static_cast<std::size_t>(thread)].offered[slot], sizeof(V));
      return result;
    };
  }

  /// Arrives as late as it may, when the thread waits for its group: who reads early reads what was there. Or as early as it may: who still
  /// reads what was there reads the new.
  void begin_copy(void* to, const void* from, std::size_t bytes, bool wanted) {
    copy c{to, bytes, fibers_[static_cast<std::size_t>(now.thread)].groups, {}};
    if (wanted) std::memcpy(c.data, from, bytes);
    if (order.copies_at_once) {
      std::memcpy(to, c.data, bytes);
    } else {
      fibers_[static_cast<std::size_t>(now.thread)].copies.push_back(c);
    }
  }
  void end_copy_group() { ++fibers_[static_cast<std::size_t>(now.thread)].groups; }
  void finish_copies(int pending) {
    fiber& self = fibers_[static_cast<std::size_t>(now.thread)];
    std::size_t done = 0;
    for (; done < self.copies.size() && self.copies[done].group + pending < self.groups; ++done) {
      std::memcpy(self.copies[done].to, self.copies[done].data, self.copies[done].bytes);
    }
    self.copies.erase(self.copies.begin(), self.copies.begin() + static_cast<std::ptrdiff_t>(done));
  }

  static machine& instance() {
    static thread_local machine one;
    return one;
  }

 private:
  static constexpr std::size_t stack_bytes = 64 * 1024;
  static constexpr std::size_t most_offered = 24;
  struct copy {
    void* to;
    std::size_t bytes;
    int group;
    unsigned char data[16];
  };
  struct fiber {
    ucontext_t state{};
    std::jmp_buf place{};
    std::vector<char> stack;  ///< made when the fiber first runs; it then lives as long as the machine, from block to block
    barrier waits = barrier::none;
    bool done = false;
    int exchanges = 0;
    unsigned char offered[2][most_offered] = {};
    int groups = 0;  ///< of copies, that have ended
    std::vector<copy> copies;
    void* fake_stack = nullptr;
  };

  static void enter() {
    machine& self = instance();
    self.arrived(nullptr);
    while (true) {
      self.body_(self.object_);
      fiber& mine = self.fibers_[static_cast<std::size_t>(self.now.thread)];
      mine.done = true;
      self.leave(mine);
    }
  }
  void arrived([[maybe_unused]] void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, &main_bottom_, &main_size_);
#endif
  }
  void leave(fiber& self) {
#if ESFT_EMULATOR_SWAPS
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&self.fake_stack, main_bottom_, main_size_);
#endif
    swapcontext(&self.state, &scheduler_);
    arrived(fibers_[static_cast<std::size_t>(now.thread)].fake_stack);
#else
    if (_setjmp(self.place) == 0) _longjmp(scheduler_place_, 1);
#endif
  }
  void resume(fiber& next) {
    const bool first = next.stack.empty();
    if (first) {
      next.stack.resize(stack_bytes);
      getcontext(&next.state);
      next.state.uc_stack.ss_sp = next.stack.data();
      next.state.uc_stack.ss_size = next.stack.size();
      next.state.uc_link = &scheduler_;
      makecontext(&next.state, enter, 0);
    }
#if ESFT_EMULATOR_SWAPS
#if defined(__SANITIZE_ADDRESS__)
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, next.stack.data(), next.stack.size());
#endif
    swapcontext(&scheduler_, &next.state);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
#else
    if (_setjmp(scheduler_place_) != 0) return;
    if (first) setcontext(&next.state);
    _longjmp(next.place, 1);
#endif
  }
  void run_block(int threads) {
    for (int t = 0; t < threads; ++t) {
      fiber& f = fibers_[static_cast<std::size_t>(t)];
      f.waits = barrier::none;
      f.done = false;
      f.exchanges = 0;
      f.groups = 0;
      f.copies.clear();
    }
    const int warps = (threads + 31) / 32;
    do {
      bool any = true;
      while (any) {
        any = false;
        for (int i = 0; i < warps; ++i) {
          const int begin = 32 * (order.reversed ? warps - 1 - i : i);
          const int end = std::min(begin + 32, threads);
          do {
            run_threads(begin, end);
            if (!order.warps_run_ahead) break;
          } while (open_barrier(begin, end, barrier::warp));
        }
        for (int begin = 0; begin < threads; begin += 32) any |= open_barrier(begin, std::min(begin + 32, threads), barrier::warp);
      }
    } while (open_barrier(0, threads, barrier::block));
    for (int t = 0; t < threads; ++t) {
      if (!fibers_[static_cast<std::size_t>(t)].done) throw std::logic_error("threads of a block wait at different barriers");
    }
  }
  void run_threads(int begin, int end) {
    for (int i = begin; i < end; ++i) {
      now.thread = order.reversed ? begin + end - 1 - i : i;
      fiber& f = fibers_[static_cast<std::size_t>(now.thread)];
      if (!f.done && f.waits == barrier::none) resume(f);
    }
  }
  /// A barrier opens when all of its threads wait there.
  bool open_barrier(int begin, int end, barrier kind) {
    for (int t = begin; t < end; ++t) {
      const fiber& f = fibers_[static_cast<std::size_t>(t)];
      if (f.done || f.waits != kind) return false;
    }
    for (int t = begin; t < end; ++t) fibers_[static_cast<std::size_t>(t)].waits = barrier::none;
    return true;
  }

  std::vector<fiber> fibers_;
  std::vector<float> shared_;
  ucontext_t scheduler_{};
  std::jmp_buf scheduler_place_{};
  void (*body_)(void*) = nullptr;
  void* object_ = nullptr;
  [[maybe_unused]] const void* main_bottom_ = nullptr;
  [[maybe_unused]] std::size_t main_size_ = 0;
};

inline place& here() { return machine::instance().now; }
inline void wait(barrier kind) { machine::instance().wait(kind); }
/// What the lanes of this warp offer.
template <class V>
auto offer(V value) {
  const int first = here().thread / 32 * 32;
  return [first, all = machine::instance().offer(value)](int lane) { return all(first + lane); };
}
template <class V>
V exchange(V value, int from) {
  return machine::instance().offer(value)(from);
}

}  // namespace esft::detail::cuda::emulator
