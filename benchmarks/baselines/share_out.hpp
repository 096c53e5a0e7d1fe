// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Experts shared out among threads: the simplest thing that keeps all of them busy.

#include <atomic>
#include <thread>
#include <vector>

namespace esft::bench {

/// Calls `body(i)` for i in [0, count); the calling thread takes part.
template <class Body>
void share_out(int threads, long count, Body body) {
  std::atomic<long> next{0};
  const auto take = [&] {
    for (long i = next++; i < count; i = next++) body(i);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(take);
  take();
  for (auto& other : others) other.join();
}

}  // namespace esft::bench
