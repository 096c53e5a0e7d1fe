// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Keeps large freed blocks for the next tensor of that size: a training step asks for the same tensors again and again, and fresh
/// pages from the operating system cost about as much time as computing what goes into them.

#include <esft/backend/tensor.hpp>
#include <esft/backends/eigen/large_pages.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <vector>

namespace esft::detail::eigen {

/// Free blocks by size class, at most `most_kept` bytes together. One per process, since a tensor may outlive the backend that made it.
class block_cache {
 public:
  static constexpr std::size_t least = std::size_t{1} << 17;      ///< smaller blocks are left to the allocator
  static constexpr std::size_t most_kept = std::size_t{1} << 30;  ///< beyond this, freed blocks go back to the system

  static block_cache& instance() {
    static auto* const cache = new block_cache;  // never destroyed: static tensors may be released later
    return *cache;
  }
  /// Sizes grow by a quarter of the power of two below them.
  static std::size_t class_of(std::size_t bytes) noexcept {
    const auto power = static_cast<std::size_t>(std::bit_width(bytes - 1)) - 1;  // 2^power < bytes <= 2^(power + 1)
    return 4 * power + (((bytes - 1) >> (power - 2)) & 3);
  }
  static std::size_t size_of_class(std::size_t number) noexcept { return (5 + number % 4) << (number / 4 - 2); }

  void* take(std::size_t number) {
    {
      const std::lock_guard lock(mutex_);
      if (auto& blocks = free_[number]; !blocks.empty()) {
        void* const block = blocks.back();
        blocks.pop_back();
        kept_ -= size_of_class(number);
        return block;
      }
    }
    void* const block = ::operator new (size_of_class(number), std::align_val_t{64});
    ask_for_large_pages(block, size_of_class(number));
    return block;
  }
  void give(std::size_t number, void* block) noexcept {
    try {
      const std::lock_guard lock(mutex_);
      if (kept_ + size_of_class(number) <= most_kept) {
        free_[number].push_back(block);
        kept_ += size_of_class(number);
        return;
      }
    } catch (...) {  // no memory for the list entry: free the block instead
    }
    ::operator delete (block, std::align_val_t{64});
  }

 private:
  std::mutex mutex_;
  std::array<std::vector<void*>, 256> free_;
  std::size_t kept_ = 0;
};

/// An uninitialised host tensor whose memory is kept for reuse when it is large.
template <class T, std::size_t Rank>
host_tensor<T, Rank> make_cached_tensor(extents<Rank> shape) {
#if !defined(__SANITIZE_ADDRESS__)
  const auto bytes = static_cast<std::size_t>(element_count(shape)) * sizeof(T);
  if (bytes >= block_cache::least && bytes < (std::size_t{1} << 48)) {
    const std::size_t number = block_cache::class_of(bytes);
    const auto release = [](void* context, void* data) { block_cache::instance().give(reinterpret_cast<std::uintptr_t>(context), data); };
    return {static_cast<T*>(block_cache::instance().take(number)), shape, release, reinterpret_cast<void*>(number)};
  }
#endif
  return make_host_tensor<T, Rank>(shape);
}

}  // namespace esft::detail::eigen
