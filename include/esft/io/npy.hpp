// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// NumPy's `.npy` files: one array of numbers in row-major order, read and written whole.

#include <esft/core/contract.hpp>
#include <esft/io/file.hpp>
#include <esft/io/tensor_record.hpp>

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// An array as it lies in a file: row-major, little-endian.
struct npy_array {
  dtype type = dtype::float32;
  tensor_shape shape;  ///< empty: a scalar
  std::vector<std::byte> bytes;

  /// The elements. @throws contract_violation when they are of another type
  template <class T>
  [[nodiscard]] std::span<const T> as() const {
    ESFT_EXPECTS(dtype_v<T> == type, "the element type is that of the file");
    return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};  // NOLINT: storage of new is aligned for every T here
  }
};

namespace detail {

/// NumPy's name of an element type; empty for bfloat16, which NumPy does not have.
constexpr std::string_view npy_name(dtype type) noexcept {
  switch (type) {
    case dtype::float64:
      return "<f8";
    case dtype::float32:
      return "<f4";
    case dtype::float16:
      return "<f2";
    case dtype::int64:
      return "<i8";
    case dtype::int32:
      return "<i4";
    case dtype::uint8:
      return "|u1";
    case dtype::bfloat16:
      break;
  }
  return {};
}

inline constexpr std::string_view npy_magic = "\x93NUMPY";

/// The header's dictionary, a literal of Python: three keys in any order.
class npy_header_reader {
 public:
  npy_header_reader(std::string_view text, std::string file) : text_(text), file_(std::move(file)) {}

  npy_array read() {
    npy_array array;
    std::string element;
    expect('{');
    while (!take('}')) {
      const std::string key = quoted();
      if (!seen_.insert_once(key)) fail("the key '" + printable(key) + "' is there twice");
      expect(':');
      if (key == "descr") {
        element = quoted();
      } else if (key == "fortran_order") {
        if (word() == "True") refuse("the array is in Fortran order (columns first)", "save numpy.ascontiguousarray(a)");
      } else if (key == "shape") {
        array.shape = extents();
      } else {
        fail("unknown key '" + printable(key) + "'");
      }
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    if (!seen_.all()) fail("the header lacks descr, fortran_order or shape");
    array.type = type_of(element);
    return array;
  }

 private:
  struct keys {
    unsigned mask = 0;
    bool insert_once(std::string_view key) {
      const unsigned bit = key == "descr" ? 1U : key == "fortran_order" ? 2U : key == "shape" ? 4U : 0U;
      const bool fresh = (mask & bit) == 0;
      mask |= bit;
      return fresh;
    }
    [[nodiscard]] bool all() const { return mask == 7U; }
  };

  [[noreturn]] void fail(const std::string& problem) const {
    throw input_error(input_error_code::bad_record, {file_, {}, {}}, problem, "write the file with numpy.save");
  }
  [[noreturn]] void refuse(const std::string& problem, const std::string& way_out) const {
    throw input_error(input_error_code::unsupported_format, {file_, {}, {}}, problem, way_out);
  }
  [[nodiscard]] dtype type_of(const std::string& element) const {
    for (const dtype type : {dtype::float32, dtype::float64, dtype::float16, dtype::int32, dtype::int64, dtype::uint8}) {
      if (npy_name(type) == element) return type;
    }
    if (element.starts_with('>'))
      refuse("the array is big-endian ('" + printable(element) + "')", "save a.astype(a.dtype.newbyteorder('<'))");
    throw input_error(input_error_code::unknown_dtype, {file_, {}, {}}, "elements of type '" + printable(element) + "'",
                      "float16, float32, float64, int32, int64 and uint8 are read");
  }
  void skip() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char wanted) {
    skip();
    if (at_ == text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!take(wanted)) fail(std::string("the header has no '") + wanted + "' where it must have one");
  }
  std::string quoted() {
    skip();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote == '[') refuse("records of several fields", "save one array per field");
    const std::size_t end = quote == '\'' || quote == '"' ? text_.find(quote, at_ + 1) : std::string_view::npos;
    if (end == std::string_view::npos) fail("a text in quotes is missing in the header");
    const std::string result(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return result;
  }
  std::string word() {
    skip();
    std::string result;
    while (at_ < text_.size() && std::isalpha(static_cast<unsigned char>(text_[at_])) != 0) result += text_[at_++];
    if (result != "True" && result != "False") fail("fortran_order is neither True nor False");
    return result;
  }
  tensor_shape extents() {
    tensor_shape shape;
    expect('(');
    while (!take(')')) {
      skip();
      index extent = 0;
      const std::size_t begin = at_;
      while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
        if (__builtin_mul_overflow(extent, 10, &extent) || __builtin_add_overflow(extent, text_[at_] - '0', &extent)) {
          throw input_error(input_error_code::size_overflow, {file_, {}, {}}, "an extent does not fit 64 bits");
        }
        ++at_;
      }
      if (at_ == begin) fail("the shape holds something other than extents");
      shape.push_back(extent);
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return shape;
  }

  std::string_view text_;
  std::string file_;
  std::size_t at_ = 0;
  keys seen_;
};

}  // namespace detail

/// Reads an array, format versions 1 to 3. Nothing is allocated before the header was checked against the file's size.
/// @throws input_error naming what is not read: Fortran order, big-endian or other element types, records, a truncated file
[[nodiscard]] inline npy_array read_npy(const std::filesystem::path& path) {
  const input_file file(path);
  const input_place place{path.string(), {}, {}};
  std::vector<std::byte> start(12);
  if (file.size() < start.size()) throw input_error(input_error_code::too_small, place, "shorter than any .npy file");
  file.read_at(0, start);
  const auto byte = [&](std::size_t i) { return std::to_integer<std::uint32_t>(start[i]); };
  if (!std::equal(detail::npy_magic.begin(), detail::npy_magic.end(), start.begin(),
                  [](char a, std::byte b) { return static_cast<unsigned char>(a) == std::to_integer<unsigned char>(b); })) {
    throw input_error(input_error_code::unsupported_format, place, "not a .npy file", "write it with numpy.save (.npz is not read)");
  }
  if (byte(6) < 1 || byte(6) > 3) {
    throw input_error(input_error_code::unsupported_version, place, "format version " + std::to_string(byte(6)),
                      "versions 1 to 3 are read");
  }
  const std::uint64_t length_bytes = byte(6) == 1 ? 2 : 4;
  const std::uint64_t begin = 8 + length_bytes;
  const std::uint64_t length = byte(8) | byte(9) << 8U | (length_bytes == 4 ? byte(10) << 16U | byte(11) << 24U : 0U);
  if (length > 1U << 20U || begin + length > file.size()) {
    throw input_error(input_error_code::header_length, place, "a header of " + std::to_string(length) + " bytes does not fit the file");
  }
  std::string header(static_cast<std::size_t>(length), '\0');
  file.read_at(begin, std::as_writable_bytes(std::span(header)));
  npy_array array = detail::npy_header_reader(header, path.string()).read();
  const std::uint64_t wanted = byte_size(array.shape, array.type).value(place);
  const std::uint64_t there = file.size() - begin - length;
  if (wanted != there) {
    throw input_error(input_error_code::byte_count, place,
                      to_string(array.shape) + " takes " + std::to_string(wanted) + " bytes, the file holds " + std::to_string(there),
                      "it was cut off, or holds more than one array");
  }
  array.bytes.resize(static_cast<std::size_t>(wanted));
  file.read_at(begin + length, array.bytes);
  return array;
}

/// Writes an array in format version 1, whole or not at all. @pre NumPy has the element type: not bfloat16 @throws storage_error
inline void write_npy(const std::filesystem::path& path, dtype type, const tensor_shape& shape, std::span<const std::byte> bytes) {
  ESFT_EXPECTS(!detail::npy_name(type).empty(), "NumPy has no bfloat16: write float32");
  ESFT_EXPECTS(byte_size(shape, type).value() == bytes.size(), "as many bytes as the shape takes");
  std::string header = "{'descr': '" + std::string(detail::npy_name(type)) + "', 'fortran_order': False, 'shape': (";
  for (const index extent : shape) header += std::to_string(extent) + (shape.size() == 1 ? "," : ", ");
  if (shape.size() > 1) header.resize(header.size() - 2);
  header += "), }";
  header.append(63 - (10 + header.size()) % 64, ' ').append("\n");  // the data starts at a multiple of 64
  ESFT_EXPECTS(header.size() < 1U << 16U, "the header of an array fits 64 KiB");
  atomic_file_writer writer(path);
  writer.write(detail::npy_magic);
  const char fixed[] = {1, 0, static_cast<char>(header.size() & 255U), static_cast<char>(header.size() >> 8U)};
  writer.write(std::string_view(fixed, sizeof fixed));
  writer.write(header);
  writer.write(bytes);
  writer.commit();
}

/// The same from typed elements.
template <class T>
void write_npy(const std::filesystem::path& path, const tensor_shape& shape, std::span<const T> values) {
  write_npy(path, dtype_v<T>, shape, std::as_bytes(values));
}

}  // namespace esft
