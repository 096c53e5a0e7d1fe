// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Asks the operating system for large pages behind large blocks of memory.

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace esft::detail::eigen {

/// Whole pages of 2 MiB inside [memory, memory + bytes) become large ones as they are first touched, where the system allows it: fewer
/// faults, and the tables that find a page stay in the caches. Contents and size do not change, and a refusal costs nothing but speed.
inline void ask_for_large_pages(void* memory, std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::size_t page = std::size_t{1} << 21;
  if (bytes < 2 * page) return;
  const auto start = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (start + page - 1) / page * page;
  const std::uintptr_t last = (start + bytes) / page * page;
  static_cast<void>(::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE));
#else
  static_cast<void>(memory);
  static_cast<void>(bytes);
#endif
}

}  // namespace esft::detail::eigen
