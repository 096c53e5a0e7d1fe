// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `compare_tensors`: which tensors and which slices of two models or adapters differ, by how much, and in how many bytes.

#include <esft/io/bytes.hpp>
#include <esft/io/tensor_files.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace esft {

/// A tensor that both have, with other values.
struct tensor_difference {
  std::string name;
  tensor_shape shape;
  dtype a{}, b{};               ///< element types; where they differ, values are compared
  std::uint64_t elements = 0;   ///< elements that differ
  std::uint64_t bytes = 0;      ///< bytes of the stored elements that differ, in A's element type
  double largest = 0;           ///< max |A - B|; infinity where only one of two numbers is finite
  std::vector<index> slices{};  ///< of tensors of three dimensions: positions of the first one, such as experts, that differ
};

/// What two collections of tensors have and do not have in common. All names are sorted.
struct tensor_comparison {
  std::size_t equal = 0;                     ///< tensors of equal type, shape and bytes
  std::uint64_t equal_bytes = 0;             ///< @unit bytes
  std::vector<tensor_difference> different;  ///< equal shapes, other values or another element type
  std::vector<std::string> other_shape;      ///< cannot be compared
  std::vector<std::string> only_a, only_b;

  [[nodiscard]] bool same() const { return different.empty() && other_shape.empty() && only_a.empty() && only_b.empty(); }
};

namespace detail {

inline void to_doubles(std::span<const std::byte> bytes, dtype type, std::vector<double>& out) {
  const std::size_t size = size_of(type);
  out.resize(bytes.size() / size);
  if (is_floating_point(type) && type != dtype::float64) {
    std::vector<float> values(out.size());
    convert_to_float(bytes, type, values);
    std::copy(values.begin(), values.end(), out.begin());
    return;
  }
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto element = bytes.subspan(i * size);
    out[i] = type == dtype::float64 ? load_little_endian<double>(element)
             : type == dtype::int64 ? static_cast<double>(load_little_endian<std::int64_t>(element))
             : type == dtype::int32 ? static_cast<double>(load_little_endian<std::int32_t>(element))
                                    : static_cast<double>(load_little_endian<std::uint8_t>(element));
  }
}

/// Elements [begin, end) of a tensor as a record of its own.
inline tensor_record elements_of(const tensor_record& record, std::uint64_t begin, std::uint64_t end) {
  tensor_record part = record;
  part.begin = record.begin + begin * size_of(record.type);
  part.end = record.begin + end * size_of(record.type);
  part.shape = {static_cast<index>(end - begin)};
  return part;
}

/// Compares two tensors of one shape piece by piece. Bits decide where the types are equal: 0 and -0 differ, a NaN equals itself.
inline tensor_difference compare_tensor(const std::string& name, const stored_tensor& a, const stored_tensor& b) {
  tensor_difference result{name, a.record->shape, a.record->type, b.record->type};
  const bool same_type = result.a == result.b;
  const std::uint64_t count = a.record->element_count();
  const std::size_t slice = a.record->shape.size() == 3 && a.record->shape[0] > 0
                                ? static_cast<std::size_t>(count) / static_cast<std::size_t>(a.record->shape[0])
                                : 0;
  constexpr std::uint64_t piece = 1U << 17U;
  std::vector<std::byte> bytes_a;
  std::vector<std::byte> bytes_b;
  std::vector<double> values_a;
  std::vector<double> values_b;
  for (std::uint64_t begin = 0; begin < count; begin += piece) {
    const std::uint64_t end = std::min(count, begin + piece);
    const tensor_record part_a = elements_of(*a.record, begin, end);
    const tensor_record part_b = elements_of(*b.record, begin, end);
    bytes_a.resize(static_cast<std::size_t>(part_a.byte_size()));
    bytes_b.resize(static_cast<std::size_t>(part_b.byte_size()));
    a.file->read(part_a, bytes_a);
    b.file->read(part_b, bytes_b);
    if (same_type && bytes_a == bytes_b) continue;
    to_doubles(bytes_a, result.a, values_a);
    to_doubles(bytes_b, result.b, values_b);
    const std::size_t size = size_of(result.a);
    for (std::size_t i = 0; i < values_a.size(); ++i) {
      const double x = values_a[i];
      const double y = values_b[i];
      const bool differs =
          same_type ? std::memcmp(&bytes_a[i * size], &bytes_b[i * size], size) != 0 : !(x == y || (std::isnan(x) && std::isnan(y)));
      if (!differs) continue;
      ++result.elements;
      const double distance = std::abs(x - y);
      result.largest = std::max(result.largest, std::isnan(distance) ? std::numeric_limits<double>::infinity() : distance);
      const auto position = slice == 0 ? 0 : static_cast<index>((static_cast<std::size_t>(begin) + i) / slice);
      if (slice != 0 && (result.slices.empty() || result.slices.back() != position)) result.slices.push_back(position);
    }
  }
  result.bytes = result.elements * size_of(result.a);
  return result;
}

}  // namespace detail

/// Compares by name. @cost reads both once, a piece of a tensor at a time
[[nodiscard]] inline tensor_comparison compare_tensors(const tensor_files& a, const tensor_files& b) {
  tensor_comparison result;
  for (const auto& [name, in_a] : a.tensors()) {
    const auto found = b.tensors().find(name);
    if (found == b.tensors().end()) {
      result.only_a.push_back(name);
    } else if (in_a.record->shape != found->second.record->shape) {
      result.other_shape.push_back(name);
    } else {
      tensor_difference difference = detail::compare_tensor(name, in_a, found->second);
      if (difference.elements > 0 || difference.a != difference.b) {
        result.different.push_back(std::move(difference));
      } else {
        ++result.equal;
        result.equal_bytes += in_a.record->byte_size();
      }
    }
  }
  for (const auto& [name, in_b] : b.tensors()) {
    if (!a.tensors().contains(name)) result.only_b.push_back(name);
  }
  return result;
}

}  // namespace esft
