// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `checked_size`: the only arithmetic on sizes that come from files, and little-endian loads and stores.

#include <esft/io/input_error.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>

namespace esft {

static_assert(std::endian::native == std::endian::little, "esft reads and writes little-endian formats by copying bytes");

/// An unsigned 64-bit size that cannot wrap: once an operation overflows, the value and all that is computed from it stay invalid.
class checked_size {
 public:
  constexpr checked_size() = default;
  constexpr explicit(false) checked_size(std::uint64_t value) noexcept : value_(value) {}

  [[nodiscard]] constexpr bool valid() const noexcept { return valid_; }
  /// The size. @throws input_error (`size_overflow`, at `place`) when an operation before overflowed.
  [[nodiscard]] constexpr std::uint64_t value(const input_place& place = {}) const {
    if (!valid_) throw input_error(input_error_code::size_overflow, place, "a size computed from the file does not fit 64 bits");
    return value_;
  }

  friend constexpr checked_size operator+(checked_size a, checked_size b) noexcept {
    checked_size result;
    result.valid_ = !__builtin_add_overflow(a.value_, b.value_, &result.value_) && a.valid_ && b.valid_;
    return result;
  }
  friend constexpr checked_size operator-(checked_size a, checked_size b) noexcept {
    checked_size result;
    result.valid_ = !__builtin_sub_overflow(a.value_, b.value_, &result.value_) && a.valid_ && b.valid_;
    return result;
  }
  friend constexpr checked_size operator*(checked_size a, checked_size b) noexcept {
    checked_size result;
    result.valid_ = !__builtin_mul_overflow(a.value_, b.value_, &result.value_) && a.valid_ && b.valid_;
    return result;
  }
  constexpr checked_size& operator+=(checked_size other) noexcept { return *this = *this + other; }
  constexpr checked_size& operator*=(checked_size other) noexcept { return *this = *this * other; }

 private:
  std::uint64_t value_ = 0;
  bool valid_ = true;
};

/// Reads one value from the first bytes of `bytes`, at any alignment. @pre bytes.size() >= sizeof(T)
template <class T>
  requires std::is_trivially_copyable_v<T>
T load_little_endian(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.first(sizeof(T)).data(), sizeof(T));
  return value;
}

/// The bytes of one value in file order.
template <class T>
  requires std::is_trivially_copyable_v<T>
std::array<std::byte, sizeof(T)> store_little_endian(const T& value) {
  return std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
}

}  // namespace esft
