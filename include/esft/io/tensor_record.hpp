// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `tensor_record`: name, element type, shape and place of a stored tensor; names of element types; conversion of stored numbers to float.

#include <esft/core/dtype.hpp>
#include <esft/core/f16.hpp>
#include <esft/core/shape.hpp>
#include <esft/io/bytes.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Extents of a stored tensor, outermost first; its rank is known only at run time. Empty: a scalar.
using tensor_shape = std::vector<index>;

/// A tensor in a file. `begin` and `end` count from the start of the file's data section.
struct tensor_record {
  std::string name;
  dtype type{};
  tensor_shape shape;
  std::uint64_t begin = 0;  ///< @unit bytes
  std::uint64_t end = 0;    ///< @unit bytes

  /// @unit bytes
  [[nodiscard]] std::uint64_t byte_size() const noexcept { return end - begin; }
  [[nodiscard]] std::uint64_t element_count() const noexcept { return byte_size() / size_of(type); }
};

/// Name of an element type in a safetensors header.
constexpr std::string_view safetensors_name(dtype type) noexcept {
  switch (type) {
    case dtype::float32: return "F32";
    case dtype::float64: return "F64";
    case dtype::bfloat16: return "BF16";
    case dtype::float16: return "F16";
    case dtype::int32: return "I32";
    case dtype::int64: return "I64";
    case dtype::uint8: return "U8";
  }
  return "";
}

/// Element type of a safetensors name; absent for types that this library does not read.
constexpr std::optional<dtype> dtype_from_safetensors_name(std::string_view name) noexcept {
  for (const dtype type :
       {dtype::float32, dtype::float64, dtype::bfloat16, dtype::float16, dtype::int32, dtype::int64, dtype::uint8}) {
    if (safetensors_name(type) == name) return type;
  }
  return std::nullopt;
}

/// Text of a shape for messages: "[2, 3]".
inline std::string to_string(const tensor_shape& shape) {
  std::string text = "[";
  for (const index extent : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

/// Bytes that a tensor of this shape takes. Invalid where that does not fit 64 bits, or an extent is negative.
inline checked_size byte_size(const tensor_shape& shape, dtype type) {
  checked_size size = size_of(type);
  bool negative = false;
  for (const index extent : shape) {
    negative = negative || extent < 0;
    size *= static_cast<std::uint64_t>(extent);
  }
  return negative ? checked_size(0) - checked_size(1) : size;
}

namespace detail {

/// Converts stored numbers to float by value. @pre bytes.size() == out.size() * size_of(type); `type` is a floating-point type
inline void convert_to_float(std::span<const std::byte> bytes, dtype type, std::span<float> out) {
  const auto convert = [&]<class Stored>(Stored, auto to_float) {
    for (std::size_t i = 0; i < out.size(); ++i) {
      out[i] = to_float(load_little_endian<Stored>(bytes.subspan(i * sizeof(Stored))));
    }
  };
  switch (type) {
    case dtype::float32: return convert(float{}, [](float value) { return value; });
    case dtype::float64: return convert(double{}, [](double value) { return static_cast<float>(value); });
    case dtype::bfloat16: return convert(std::uint16_t{}, [](std::uint16_t bits) { return static_cast<float>(bf16::from_bits(bits)); });
    case dtype::float16: return convert(std::uint16_t{}, [](std::uint16_t bits) { return static_cast<float>(f16::from_bits(bits)); });
    case dtype::int32:
    case dtype::int64:
    case dtype::uint8: break;
  }
}

constexpr bool is_floating_point(dtype type) noexcept {
  return type == dtype::float32 || type == dtype::float64 || type == dtype::bfloat16 || type == dtype::float16;
}

}  // namespace detail

}  // namespace esft
