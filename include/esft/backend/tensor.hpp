// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `tensor` owns, `tensor_view` borrows. Element type, rank and memory space are part of the type. Row-major, contiguous.

#include <esft/core/config.hpp>
#include <esft/core/contract.hpp>
#include <esft/core/shape.hpp>

#include <concepts>
#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

namespace esft {

/// Ordinary memory of the host. Owners are 64-byte aligned.
struct host_space {
  static constexpr bool host_accessible = true;
};

/// A memory space says at least whether the host may dereference a pointer into it.
template <class Space>
concept memory_space = requires {
  { Space::host_accessible } -> std::convertible_to<bool>;
};

/// Non-owning, row-major view. Cheap to copy; constness of the elements is in `T`.
/// Passing a view of another memory space, rank or element type to a backend does not compile.
template <class T, std::size_t Rank, memory_space Space>
class tensor_view {
 public:
  using element_type = T;
  using space = Space;
  static constexpr std::size_t rank = Rank;

  tensor_view() = default;
  ESFT_HOST_DEVICE constexpr tensor_view(T* data, extents<Rank> shape) noexcept : data_(data), shape_(shape) {}
  /// A view of mutable elements converts to a view of const ones.
  template <class U>
    requires(std::is_const_v<T> && std::same_as<U, std::remove_const_t<T>>)
  ESFT_HOST_DEVICE constexpr tensor_view(tensor_view<U, Rank, Space> other) noexcept  // NOLINT(google-explicit-constructor)
      : data_(other.data()), shape_(other.shape()) {}

  [[nodiscard]] ESFT_HOST_DEVICE constexpr T* data() const noexcept { return data_; }
  [[nodiscard]] ESFT_HOST_DEVICE constexpr const extents<Rank>& shape() const noexcept { return shape_; }
  [[nodiscard]] ESFT_HOST_DEVICE constexpr index extent(std::size_t dimension) const noexcept { return shape_[dimension]; }
  [[nodiscard]] ESFT_HOST_DEVICE constexpr index size() const noexcept {
    index count = 1;
    for (std::size_t d = 0; d < Rank; ++d) count *= shape_[d];
    return count;
  }
  [[nodiscard]] constexpr bool empty() const noexcept { return size() == 0; }

  /// One element. Only where the caller can reach the memory.
  template <std::convertible_to<index>... Position>
    requires(sizeof...(Position) == Rank)
  ESFT_HOST_DEVICE constexpr T& operator()(Position... position) const noexcept {
    index offset = 0;
    std::size_t d = 0;
    ((offset = offset * shape_[d++] + static_cast<index>(position)), ...);
    return data_[offset];
  }
  /// Sub-view at position `i` of the first dimension.
  ESFT_HOST_DEVICE constexpr tensor_view<T, Rank - 1, Space> operator[](index i) const noexcept
    requires(Rank > 1)
  {
    extents<Rank - 1> inner{};
    index stride = 1;
    for (std::size_t d = 1; d < Rank; ++d) {
      inner[d - 1] = shape_[d];
      stride *= shape_[d];
    }
    return {data_ + i * stride, inner};
  }
  ESFT_HOST_DEVICE constexpr T& operator[](index i) const noexcept
    requires(Rank == 1)
  {
    return data_[i];
  }
  /// Rows [begin, end) of the first dimension.
  [[nodiscard]] constexpr tensor_view slice(index begin, index end) const {
    ESFT_EXPECTS(0 <= begin && begin <= end && end <= shape_[0], "a slice lies inside its view");
    extents<Rank> part = shape_;
    part[0] = end - begin;
    index stride = 1;
    for (std::size_t d = 1; d < Rank; ++d) stride *= shape_[d];
    return {data_ + begin * stride, part};
  }
  /// The same elements under another shape of equal size.
  template <std::size_t NewRank>
  [[nodiscard]] constexpr tensor_view<T, NewRank, Space> reshape(extents<NewRank> shape) const {
    ESFT_EXPECTS(element_count(shape) == size(), "reshape keeps the number of elements");
    return {data_, shape};
  }
  /// The same elements as one dimension.
  [[nodiscard]] constexpr tensor_view<T, 1, Space> flat() const noexcept { return {data_, {size()}}; }

 private:
  T* data_ = nullptr;
  extents<Rank> shape_{};
};

/// A view of host memory.
template <class T, std::size_t Rank>
using host_view = tensor_view<T, Rank, host_space>;

/// Owner of a row-major tensor. Move-only; made by a backend's `make_tensor`, or for the host by `make_host_tensor`.
template <class T, std::size_t Rank, memory_space Space>
class tensor {
 public:
  using element_type = T;
  using release = void (*)(void* context, void* data);

  tensor() = default;
  /// Takes ownership of `data`, which `release_memory(context, data)` gives back.
  tensor(T* data, extents<Rank> shape, release release_memory, void* context = nullptr) noexcept
      : memory_(data, {release_memory, context}), shape_(shape) {}

  [[nodiscard]] tensor_view<T, Rank, Space> view() noexcept { return {memory_.get(), shape_}; }
  [[nodiscard]] tensor_view<const T, Rank, Space> view() const noexcept { return {memory_.get(), shape_}; }
  operator tensor_view<T, Rank, Space>() noexcept { return view(); }              // NOLINT(google-explicit-constructor)
  operator tensor_view<const T, Rank, Space>() const noexcept { return view(); }  // NOLINT(google-explicit-constructor)

  [[nodiscard]] const extents<Rank>& shape() const noexcept { return shape_; }
  [[nodiscard]] index extent(std::size_t dimension) const noexcept { return shape_[dimension]; }
  [[nodiscard]] index size() const noexcept { return view().size(); }
  [[nodiscard]] bool empty() const noexcept { return size() == 0; }
  [[nodiscard]] T* data() noexcept { return memory_.get(); }
  [[nodiscard]] const T* data() const noexcept { return memory_.get(); }

 private:
  struct deleter {
    release release_memory = nullptr;
    void* context = nullptr;
    void operator()(T* data) const {
      if (release_memory != nullptr) release_memory(context, data);
    }
  };
  std::unique_ptr<T[], deleter> memory_;  // NOLINT(modernize-avoid-c-arrays): array form of unique_ptr
  extents<Rank> shape_{};
};

/// A tensor in host memory.
template <class T, std::size_t Rank>
using host_tensor = tensor<T, Rank, host_space>;

/// Allocates uninitialised, 64-byte aligned host memory.
template <class T, std::size_t Rank>
[[nodiscard]] host_tensor<T, Rank> make_host_tensor(extents<Rank> shape) {
  std::size_t bytes = 0;
  ESFT_EXPECTS(!__builtin_mul_overflow(static_cast<std::size_t>(element_count(shape)), sizeof(T), &bytes), "the bytes must fit 64 bits");
  auto* data = static_cast<T*>(::operator new(bytes == 0 ? 64 : bytes, std::align_val_t{64}));
  return {data, shape, [](void*, void* memory) { ::operator delete(memory, std::align_val_t{64}); }};
}

}  // namespace esft
