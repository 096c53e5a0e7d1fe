// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `machine`: what every op needs to run: the instruction set, the threads and their scratch memory.

#include <esft/backends/eigen/isa.hpp>
#include <esft/backends/eigen/norm.hpp>
#include <esft/backends/eigen/scratch.hpp>
#include <esft/backends/eigen/task_pool.hpp>

#include <array>
#include <cstdint>
#include <iterator>
#include <vector>

namespace esft::detail::eigen {

/// What an element costs that is only moved, in operations of a product: the unit in which work is weighed.
inline constexpr double moving = 4;

/// Threads, scratch memory and instruction set of one backend object.
struct machine {
  machine(int threads, isa instruction_set)
      : set(instruction_set), pool(threads), memory(static_cast<std::size_t>(pool.threads())) {}

  /// Work below this many operations is done by the caller: waking a worker costs more.
  static constexpr double worth_waking = 1e6;

  /// `body(task, slot)` for each task in [0, count); on the calling thread alone if all of it is little work.
  template <class Body>
  void run(index count, double operations, Body&& body) {
    if (operations < worth_waking) {
      for (index task = 0; task < count; ++task) body(task, 0);
    } else {
      pool.run(count, body);
    }
  }
  /// `body(begin, end, slot)` over rows of about `cost` operations each, in blocks that do not depend on the number of threads.
  template <class Body>
  void rows(index count, double cost, Body&& body) {
    const double per_row = cost < 1 ? 1 : cost;
    const index grain = std::max<index>(1, static_cast<index>(2e5 / per_row));
    run((count + grain - 1) / grain, static_cast<double>(count) * per_row,
        [&](index block, int slot) { body(block * grain, std::min(count, (block + 1) * grain), slot); });
  }
  scratch& of(int slot) { return memory[static_cast<std::size_t>(slot)]; }

  isa set;
  task_pool pool;
  std::vector<scratch> memory;
  rope_table rope;
  std::array<std::int64_t, std::size(all_product_kernels)> products{};  ///< ops served by each family of kernels
};

}  // namespace esft::detail::eigen
