// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `input_error`: a file or record is malformed or does not fit; it carries a code, the place and the way out.

#include <esft/core/error.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace esft {

/// What is wrong with the input. Each value is raised by at least one hand-made file of the tests.
enum class input_error_code : std::uint8_t {
  cannot_open,          ///< missing, or no permission
  not_regular_file,     ///< directory, FIFO, device
  changed_while_open,   ///< another process truncated or rewrote the file
  too_small,            ///< shorter than the fixed part of its format
  too_large,            ///< longer than the limit for its kind
  unsupported_format,   ///< .bin, .pt, .gguf, ...
  unsupported_version,  ///< written by a newer format version
  header_length,        ///< the header's length does not fit the file or exceeds the limit
  bad_json,             ///< not JSON, or text after the value
  too_deep,             ///< JSON nested deeper than the limit
  bad_utf8,             ///< text that is not UTF-8, or a name with control characters
  duplicate_key,        ///< the same key twice, escapes resolved
  missing_key,          ///< a required key is absent
  wrong_type,           ///< a JSON value of another type than required; integers must be JSON integers
  out_of_range,         ///< a number outside its legal range
  unknown_field,        ///< a field that the format does not have
  unknown_dtype,        ///< an element type that this library does not read
  rank_too_high,        ///< more dimensions than the limit
  size_overflow,        ///< a product or sum of sizes does not fit 64 bits
  offsets,              ///< tensors overlap, leave a hole, or do not end at the end of the file
  byte_count,           ///< bytes of a tensor disagree with its shape and element type
  path_escape,          ///< a file name that leads outside its directory
  index_mismatch,       ///< the shard index and the shards disagree
  unknown_tensor,       ///< a tensor that is not there
  dtype_mismatch,       ///< a tensor of another element type than required
  shape_mismatch,       ///< a tensor of another shape than required
  inconsistent_config,  ///< values of a configuration contradict each other
  unsupported_feature,  ///< a model feature that this library does not implement
  bad_record,           ///< a malformed line of a dataset or log
  line_too_long,        ///< a line above the limit
  digest_mismatch,      ///< bytes are not those that were signed
  wrong_base,           ///< the adapter belongs to another base model
  nothing_to_load,      ///< no loadable file in the directory
};

/// Where in the input the problem is. Empty members are unknown.
struct input_place {
  std::string file;
  std::string tensor;                   ///< tensor name, or the JSON pointer of a value
  std::optional<std::uint64_t> offset;  ///< @unit bytes from the start of the file
};

namespace detail {
/// Makes text from a file safe for a terminal: control bytes become `\xNN`, and long names are cut.
inline std::string printable(std::string_view text) {
  constexpr std::size_t limit = 200;
  constexpr std::string_view digits = "0123456789abcdef";
  std::string result;
  for (const char character : text.substr(0, limit)) {
    const auto byte = static_cast<unsigned char>(character);
    if (byte >= 0x20U && byte != 0x7fU && byte < 0x80U) {
      result += character;
    } else {
      result += {'\\', 'x', digits[byte >> 4U], digits[byte & 15U]};
    }
  }
  if (text.size() > limit) result += "...";
  return result;
}

inline std::string describe(const input_place& place, const std::string& problem, const std::string& way_out) {
  std::string text;
  if (!place.file.empty()) text.append(printable(place.file)).append(": ");
  if (!place.tensor.empty()) text.append("'").append(printable(place.tensor)).append("': ");
  if (place.offset) text.append("at byte ").append(std::to_string(*place.offset)).append(": ");
  text.append(problem);
  if (!way_out.empty()) text.append("; ").append(way_out);
  return text;
}
}  // namespace detail

/// A malformed or unfitting input.
class input_error : public error {
 public:
  input_error(input_error_code code, input_place place, const std::string& problem, const std::string& way_out = {})
      : error(error_category::bad_input, detail::describe(place, problem, way_out)), code_(code), place_(std::move(place)) {}

  [[nodiscard]] input_error_code code() const noexcept { return code_; }
  [[nodiscard]] const input_place& place() const noexcept { return place_; }

 private:
  input_error_code code_;
  input_place place_;
};

}  // namespace esft
