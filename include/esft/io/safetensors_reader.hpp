// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Strict safetensors reader: the whole header is validated against the file before a tensor is read.

#include <esft/core/contract.hpp>
#include <esft/io/bytes.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/sha256.hpp>
#include <esft/io/tensor_record.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// Longest header that is read; the same limit as the reference implementation's. @unit bytes
inline constexpr std::uint64_t safetensors_header_limit = 100'000'000;
/// Most dimensions of a tensor.
inline constexpr std::size_t tensor_rank_limit = 8;

namespace detail {

/// Receives the tokens of a header and fills records, without a tree in between: the header of a large model has 10^5 entries.
class safetensors_header_handler {
 public:
  explicit safetensors_header_handler(const std::string& file) : file_(file) {}

  std::vector<tensor_record> tensors;
  std::map<std::string, std::string> metadata;

  void begin_object() {
    ++depth_;
    if (depth_ == 2) fields_ = 0;
    if (depth_ > 2) wrong_type();
  }
  void end_object() {
    if (depth_ == 2 && !in_metadata_) finish_tensor();
    --depth_;
  }
  void begin_array() {
    if (depth_ != 2 || in_metadata_ || array_open_ || (field_ != shape_field && field_ != offsets_field)) wrong_type();
    array_open_ = true;
  }
  void end_array() { array_open_ = false; }

  void key(std::string&& name) {
    if (depth_ == 1) {
      in_metadata_ = name == "__metadata__";
      if (in_metadata_ && std::exchange(had_metadata_, true)) duplicate(name);
      current_ = {};
      offset_count_ = 0;
      current_.name = std::move(name);
      if (!in_metadata_) check_name();
    } else if (in_metadata_) {
      metadata_key_ = std::move(name);
    } else {
      field_ = name == "dtype" ? dtype_field : name == "shape" ? shape_field : name == "data_offsets" ? offsets_field : 0U;
      if (field_ == 0U) {
        throw input_error(input_error_code::unknown_field, place(),
                          "the header field '" + printable(name) + "' does not exist in safetensors");
      }
      if ((fields_ & field_) != 0U) duplicate(name);
      fields_ |= field_;
    }
  }

  void scalar(json_value&& value) {
    if (depth_ == 2 && in_metadata_) {
      const auto* text = value.get_if<std::string>();
      if (text == nullptr) wrong_type();
      if (!metadata.emplace(metadata_key_, *text).second) duplicate(metadata_key_);
    } else if (depth_ == 2 && field_ == dtype_field && !array_open_) {
      set_dtype(value);
    } else if (depth_ == 2 && array_open_) {
      add_number(value);
    } else {
      wrong_type();
    }
  }

 private:
  static constexpr unsigned dtype_field = 1;
  static constexpr unsigned shape_field = 2;
  static constexpr unsigned offsets_field = 4;

  void check_name() const {
    for (const char character : current_.name) {
      if (static_cast<unsigned char>(character) < 0x20U || character == '\x7f') {
        throw input_error(input_error_code::bad_utf8, place(), "a tensor name with control characters");
      }
    }
  }
  void set_dtype(const json_value& value) {
    const auto* name = value.get_if<std::string>();
    if (name == nullptr) wrong_type();
    const auto type = dtype_from_safetensors_name(*name);
    if (!type) {
      if (name->starts_with("F8")) {
        throw input_error(input_error_code::unknown_dtype, place(),
                          "is quantised to 8 bits ('" + printable(*name) + "'), which esft neither reads nor trains",
                          "use the bfloat16 checkpoint, or make one by loading this one dequantised in transformers and saving it in "
                          "bfloat16");
      }
      throw input_error(input_error_code::unknown_dtype, place(), "element type '" + printable(*name) + "' is not supported",
                        "dequantise or convert the checkpoint to bfloat16 or float32");
    }
    current_.type = *type;
  }
  void add_number(const json_value& value) {
    const auto* number = value.get_if<std::int64_t>();
    if (number == nullptr && value.get_if<std::uint64_t>() == nullptr) wrong_type();
    const bool is_shape = field_ == shape_field;
    if (number == nullptr || *number < 0 || (is_shape && *number >= std::int64_t{1} << 48U)) {
      throw input_error(input_error_code::out_of_range, place(), is_shape ? "an extent outside [0, 2^48)" : "an offset outside [0, 2^63)");
    }
    if (is_shape) {
      if (current_.shape.size() == tensor_rank_limit) {
        throw input_error(input_error_code::rank_too_high, place(), "more than " + std::to_string(tensor_rank_limit) + " dimensions");
      }
      current_.shape.push_back(*number);
    } else if (++offset_count_ <= 2) {
      (offset_count_ == 1 ? current_.begin : current_.end) = static_cast<std::uint64_t>(*number);
    }
  }
  void finish_tensor() {
    if (fields_ != (dtype_field | shape_field | offsets_field)) {
      throw input_error(input_error_code::missing_key, place(), "a tensor needs dtype, shape and data_offsets");
    }
    if (offset_count_ != 2) throw input_error(input_error_code::wrong_type, place(), "data_offsets must be two integers");
    tensors.push_back(std::move(current_));
  }
  [[nodiscard]] input_place place() const { return {file_, current_.name, {}}; }
  [[noreturn]] void wrong_type() const {
    throw input_error(input_error_code::wrong_type, place(), "a value of the wrong JSON type in the header");
  }
  [[noreturn]] void duplicate(const std::string& name) const {
    throw input_error(input_error_code::duplicate_key, place(), "the header key '" + printable(name) + "' appears twice");
  }

  const std::string& file_;
  int depth_ = 0;
  bool in_metadata_ = false;
  bool had_metadata_ = false;
  bool array_open_ = false;
  unsigned field_ = 0;
  unsigned fields_ = 0;
  int offset_count_ = 0;
  tensor_record current_;
  std::string metadata_key_;
};

}  // namespace detail

/// An open safetensors file. Tensors are read on demand with positioned reads, in any order, from any thread.
/// @deviation stricter than the reference: duplicate keys, unknown fields and control characters in names are refused,
/// and element types that no code here computes with (8-bit floats, booleans, ...).
class safetensors_file {
 public:
  /// Opens a file and validates its header: tensors tile the data section exactly, and sizes agree with shapes.
  /// @throws input_error  @cost linear in the header's size; memory a small multiple of it
  static safetensors_file open(const std::filesystem::path& path, file_access access = file_access::positioned) {
    return safetensors_file(path, access);
  }

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return file_.path(); }
  /// All tensors, sorted by name.
  [[nodiscard]] const std::vector<tensor_record>& tensors() const noexcept { return tensors_; }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  /// Start of the data section. @unit bytes
  [[nodiscard]] std::uint64_t data_offset() const noexcept { return data_offset_; }
  /// Text of the header, without its length and padding included.
  [[nodiscard]] std::string header_text() const {
    std::string text(static_cast<std::size_t>(data_offset_ - 8), '\0');
    file_.read_at(8, std::as_writable_bytes(std::span(text)));
    return text;
  }

  /// The record of a tensor, or null.
  [[nodiscard]] const tensor_record* find(std::string_view name) const noexcept {
    const auto found = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                        [](const tensor_record& record, std::string_view wanted) { return record.name < wanted; });
    return found != tensors_.end() && found->name == name ? &*found : nullptr;
  }
  /// The record of a tensor. @throws input_error `unknown_tensor`
  [[nodiscard]] const tensor_record& at(std::string_view name) const {
    if (const tensor_record* found = find(name)) return *found;
    throw input_error(input_error_code::unknown_tensor, {path().string(), std::string(name), {}}, "no such tensor in this file");
  }

  /// Copies the stored bytes of a tensor. @pre out.size() == record.byte_size(); `record` is one of `tensors()`, or a part of one
  void read(const tensor_record& record, std::span<std::byte> out) const {
    ESFT_EXPECTS(out.size() == record.byte_size(), "the buffer has the size of the tensor");
    file_.read_at(data_offset_ + record.begin, out);
  }

  /// Calls `consume(std::span<const std::byte>)` with successive pieces of a tensor, each a whole number of elements.
  template <class Consume>
  void for_each_chunk(const tensor_record& record, Consume&& consume) const {
    if (const std::span<const std::byte> all = file_.mapped(); !all.empty()) {
      return consume(all.subspan(static_cast<std::size_t>(data_offset_ + record.begin), static_cast<std::size_t>(record.byte_size())));
    }
    constexpr std::uint64_t chunk = std::uint64_t{1} << 18U;
    std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(chunk, record.byte_size())));
    for (std::uint64_t at = record.begin; at < record.end; at += buffer.size()) {
      const std::span<std::byte> piece =
          std::span(buffer).first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), record.end - at)));
      file_.read_at(data_offset_ + at, piece);
      consume(std::span<const std::byte>(piece));
    }
  }

  /// Reads a floating-point tensor and converts each value to float.
  /// @pre out.size() == record.element_count()  @throws input_error `dtype_mismatch` for an integer tensor
  void read_floats(const tensor_record& record, std::span<float> out) const {
    ESFT_EXPECTS(out.size() == record.element_count(), "the buffer has one float per element");
    if (!detail::is_floating_point(record.type)) {
      throw input_error(input_error_code::dtype_mismatch, {path().string(), record.name, {}},
                        "holds " + std::string(safetensors_name(record.type)) + ", a floating-point type is needed");
    }
    if (record.type == dtype::float32) return read(record, std::as_writable_bytes(out));
    for_each_chunk(record, [&](std::span<const std::byte> piece) {
      const std::size_t count = piece.size() / size_of(record.type);
      detail::convert_to_float(piece, record.type, out.first(count));
      out = out.subspan(count);
    });
  }

  /// @throws input_error `changed_while_open` when another process wrote to the file after it was opened
  void expect_unchanged() const { file_.expect_unchanged(); }

 private:
  safetensors_file(const std::filesystem::path& path, file_access access) : file_(refuse_other_formats(path), access) {
    const std::string name = path.string();
    if (file_.size() < 8) throw input_error(input_error_code::too_small, {name, {}, 0}, "shorter than 8 bytes, not a safetensors file");
    std::array<std::byte, 8> length_bytes{};
    file_.read_at(0, length_bytes);
    const auto length = load_little_endian<std::uint64_t>(length_bytes);
    const checked_size header_end = checked_size(8) + checked_size(length);
    if (length < 2 || length > safetensors_header_limit || !header_end.valid() || header_end.value() > file_.size()) {
      throw input_error(input_error_code::header_length, {name, {}, 0},
                        "a header of " + std::to_string(length) + " bytes in a file of " + std::to_string(file_.size()),
                        "the file is truncated or not safetensors: fetch it again");
    }
    data_offset_ = header_end.value();
    const std::string header = header_text();
    const std::size_t last = header.find_last_not_of(' ');
    if (header.front() != '{' || last == std::string::npos || header[last] != '}') {
      throw input_error(input_error_code::bad_json, {name, {}, 8}, "the header must begin with '{' and end with '}' and spaces");
    }
    detail::safetensors_header_handler handler(name);
    parse_json_events(header, name, handler, 8);
    tensors_ = std::move(handler.tensors);
    metadata_ = std::move(handler.metadata);
    check_tiling(name);
    std::sort(tensors_.begin(), tensors_.end(), [](const tensor_record& a, const tensor_record& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < tensors_.size(); ++i) {
      if (tensors_[i].name == tensors_[i - 1].name) {
        throw input_error(input_error_code::duplicate_key, {name, tensors_[i].name, {}}, "the tensor appears twice in the header");
      }
    }
  }

  static const std::filesystem::path& refuse_other_formats(const std::filesystem::path& path) {
    for (const char* other : {".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack"}) {
      if (path.extension() == other) {
        throw input_error(input_error_code::unsupported_format, {path.string(), {}, {}}, "only safetensors files are read",
                          "convert the checkpoint with safetensors or transformers' save_pretrained");
      }
    }
    return path;
  }

  void check_tiling(const std::string& name) {
    std::sort(tensors_.begin(), tensors_.end(), [](const tensor_record& a, const tensor_record& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    std::uint64_t previous_end = 0;
    for (const tensor_record& record : tensors_) {
      const input_place place{name, record.name, {}};
      const std::uint64_t size = byte_size(record.shape, record.type).value(place);
      if (record.begin != previous_end || record.end < record.begin) {
        throw input_error(input_error_code::offsets, place,
                          "data_offsets [" + std::to_string(record.begin) + ", " + std::to_string(record.end) +
                              "] leave a hole, overlap or run backwards: must begin at " + std::to_string(previous_end));
      }
      if (record.byte_size() != size) {
        throw input_error(input_error_code::byte_count, place,
                          std::to_string(record.byte_size()) + " bytes for " + std::string(safetensors_name(record.type)) + " of shape " +
                              to_string(record.shape) + ", which takes " + std::to_string(size));
      }
      previous_end = record.end;
    }
    if (previous_end != file_.size() - data_offset_) {
      throw input_error(
          input_error_code::offsets, {name, {}, data_offset_},
          "tensors take " + std::to_string(previous_end) + " bytes, the file holds " + std::to_string(file_.size() - data_offset_),
          "the file is truncated or has foreign bytes at its end: fetch it again");
    }
  }

  input_file file_;
  std::uint64_t data_offset_ = 0;
  std::vector<tensor_record> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// Whether a tensor holds neither NaN nor infinity; true for one of integers. @cost reads it
[[nodiscard]] inline bool all_finite(const safetensors_file& file, const tensor_record& record) {
  if (!detail::is_floating_point(record.type)) return true;
  bool finite = true;
  std::vector<float> values;
  file.for_each_chunk(record, [&](std::span<const std::byte> piece) {
    values.resize(piece.size() / size_of(record.type));
    detail::convert_to_float(piece, record.type, std::span<float>(values));
    finite = finite && std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
  });
  return finite;
}

}  // namespace esft
