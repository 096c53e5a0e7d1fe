// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `json_value`: a plain JSON tree that keeps the order of keys, and its writer.

#include <esft/core/contract.hpp>

#include <array>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

namespace esft {

struct json_member;

/// What a JSON value is.
enum class json_kind : std::uint8_t { null, boolean, integer, large_integer, real, string, array, object };

/// One JSON value. Integers are kept apart from other numbers, exactly.
class json_value {
 public:
  using array = std::vector<json_value>;
  using object = std::vector<json_member>;  // in the order of the file; keys are distinct

  // Implicit on purpose: a tree is written down as literals. Defined below, where json_member is complete.
  json_value();
  json_value(std::nullptr_t);          // NOLINT(google-explicit-constructor)
  json_value(bool value);              // NOLINT(google-explicit-constructor)
  json_value(double value);            // NOLINT(google-explicit-constructor)
  json_value(std::string value);       // NOLINT(google-explicit-constructor)
  json_value(std::string_view value);  // NOLINT(google-explicit-constructor)
  json_value(const char* value);       // NOLINT(google-explicit-constructor)
  json_value(array value);             // NOLINT(google-explicit-constructor)
  json_value(object value);            // NOLINT(google-explicit-constructor)
  template <class Integer>
    requires(std::is_integral_v<Integer> && !std::is_same_v<Integer, bool>)
  json_value(Integer value);           // NOLINT(google-explicit-constructor)

  [[nodiscard]] json_kind kind() const noexcept { return kind_; }
  [[nodiscard]] bool is_null() const noexcept { return kind_ == json_kind::null; }
  /// The content, or null if the value is of another kind. `T`: bool, std::int64_t, std::uint64_t (only above the range of
  /// std::int64_t), double, std::string, array, object.
  template <class T>
  [[nodiscard]] const T* get_if() const noexcept;

  /// Appends a member. The value must be an object or null, which becomes one; the caller keeps keys distinct.
  json_value& add(std::string key, json_value value);
  /// Appends an element. The value must be an array or null, which becomes one.
  json_value& push(json_value value);

  friend bool operator==(const json_value& a, const json_value& b);

 private:
  json_kind kind_ = json_kind::null;
  bool boolean_ = false;
  std::int64_t integer_ = 0;
  std::uint64_t large_ = 0;
  double real_ = 0;
  std::string text_;
  array elements_;
  object members_;
};

/// One key with its value.
struct json_member {
  std::string key;
  json_value value;
  friend bool operator==(const json_member&, const json_member&) = default;
};

inline json_value::json_value() = default;
inline json_value::json_value(std::nullptr_t) {}
inline json_value::json_value(bool value) : kind_(json_kind::boolean), boolean_(value) {}
inline json_value::json_value(double value) : kind_(json_kind::real), real_(value) {}
inline json_value::json_value(std::string value) : kind_(json_kind::string), text_(std::move(value)) {}
inline json_value::json_value(std::string_view value) : kind_(json_kind::string), text_(value) {}
inline json_value::json_value(const char* value) : kind_(json_kind::string), text_(value) {}
inline json_value::json_value(array value) : kind_(json_kind::array), elements_(std::move(value)) {}
inline json_value::json_value(object value) : kind_(json_kind::object), members_(std::move(value)) {}
template <class Integer>
  requires(std::is_integral_v<Integer> && !std::is_same_v<Integer, bool>)
json_value::json_value(Integer value) {
  const bool fits = std::in_range<std::int64_t>(value);
  kind_ = fits ? json_kind::integer : json_kind::large_integer;
  integer_ = fits ? static_cast<std::int64_t>(value) : 0;
  large_ = fits ? 0U : static_cast<std::uint64_t>(value);
}

template <class T>
const T* json_value::get_if() const noexcept {
  const auto when = [this](json_kind kind, const T& content) { return kind_ == kind ? &content : nullptr; };
  if constexpr (std::is_same_v<T, bool>) {
    return when(json_kind::boolean, boolean_);
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return when(json_kind::integer, integer_);
  } else if constexpr (std::is_same_v<T, std::uint64_t>) {
    return when(json_kind::large_integer, large_);
  } else if constexpr (std::is_same_v<T, double>) {
    return when(json_kind::real, real_);
  } else if constexpr (std::is_same_v<T, std::string>) {
    return when(json_kind::string, text_);
  } else if constexpr (std::is_same_v<T, array>) {
    return when(json_kind::array, elements_);
  } else {
    static_assert(std::is_same_v<T, object>, "not a type of JSON content");
    return when(json_kind::object, members_);
  }
}

inline bool operator==(const json_value& a, const json_value& b) {
  return a.kind_ == b.kind_ && a.boolean_ == b.boolean_ && a.integer_ == b.integer_ && a.large_ == b.large_ && a.real_ == b.real_ &&
         a.text_ == b.text_ && a.elements_ == b.elements_ && a.members_ == b.members_;
}

inline json_value& json_value::add(std::string key, json_value value) {
  if (is_null()) kind_ = json_kind::object;
  ESFT_EXPECTS(kind_ == json_kind::object, "members belong to an object");
  members_.push_back({std::move(key), std::move(value)});
  return *this;
}

inline json_value& json_value::push(json_value value) {
  if (is_null()) kind_ = json_kind::array;
  ESFT_EXPECTS(kind_ == json_kind::array, "elements belong to an array");
  elements_.push_back(std::move(value));
  return *this;
}

/// An empty object that `add` fills.
inline json_value json_object() { return json_value(json_value::object{}); }
/// An empty array that `push` fills. Build nested arrays this way: compilers disagree on what `array{array{}}` means.
inline json_value json_array() { return json_value(json_value::array{}); }

/// How `write_json` lays out text.
enum class json_layout : std::uint8_t {
  compact,  ///< one line
  pretty,   ///< two-space indent; arrays of scalars stay on one line
};

namespace detail {

inline void write_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char character : text) {
    switch (character) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(character) < 0x20U) {
          constexpr std::string_view digits = "0123456789abcdef";
          const auto byte = static_cast<unsigned char>(character);
          out += "\\u00";
          out += {digits[byte >> 4U], digits[byte & 15U]};
        } else {
          out += character;
        }
    }
  }
  out += '"';
}

inline void write_json_number(std::string& out, double value) {
  if (!std::isfinite(value)) {  // JSON has no NaN; null is what other writers use
    out += "null";
    return;
  }
  std::array<char, 40> text{};
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  const std::string_view digits(text.data(), static_cast<std::size_t>(end - text.data()));
  out += digits;
  if (digits.find_first_of(".e") == std::string_view::npos) out += ".0";  // so that it reads back as a double
}

inline void write_json_value(std::string& out, const json_value& value, json_layout layout, std::size_t depth);

inline void write_json_break(std::string& out, json_layout layout, std::size_t depth) {
  if (layout == json_layout::pretty) out.append("\n").append(2 * depth, ' ');
}

inline void write_json_array(std::string& out, const json_value::array& elements, json_layout layout, std::size_t depth) {
  bool nested = false;
  for (const json_value& element : elements) nested = nested || element.kind() == json_kind::array || element.kind() == json_kind::object;
  out += '[';
  for (std::size_t i = 0; i < elements.size(); ++i) {
    if (i > 0) out += layout == json_layout::pretty && !nested ? ", " : ",";
    if (nested) write_json_break(out, layout, depth + 1);
    write_json_value(out, elements[i], layout, depth + 1);
  }
  if (nested) write_json_break(out, layout, depth);
  out += ']';
}

inline void write_json_object(std::string& out, const json_value::object& members, json_layout layout, std::size_t depth) {
  out += '{';
  for (std::size_t i = 0; i < members.size(); ++i) {
    if (i > 0) out += ',';
    write_json_break(out, layout, depth + 1);
    write_json_string(out, members[i].key);
    out += layout == json_layout::pretty ? ": " : ":";
    write_json_value(out, members[i].value, layout, depth + 1);
  }
  if (!members.empty()) write_json_break(out, layout, depth);
  out += '}';
}

inline void write_json_value(std::string& out, const json_value& value, json_layout layout, std::size_t depth) {
  switch (value.kind()) {
    case json_kind::null: out += "null"; break;
    case json_kind::boolean: out += *value.get_if<bool>() ? "true" : "false"; break;
    case json_kind::integer: out += std::to_string(*value.get_if<std::int64_t>()); break;
    case json_kind::large_integer: out += std::to_string(*value.get_if<std::uint64_t>()); break;
    case json_kind::real: write_json_number(out, *value.get_if<double>()); break;
    case json_kind::string: write_json_string(out, *value.get_if<std::string>()); break;
    case json_kind::array: write_json_array(out, *value.get_if<json_value::array>(), layout, depth); break;
    case json_kind::object: write_json_object(out, *value.get_if<json_value::object>(), layout, depth); break;
  }
}

}  // namespace detail

/// JSON text of a tree. Doubles are written with the fewest digits that read back as the same value; NaN and infinity as null.
/// @pre strings are UTF-8
inline std::string write_json(const json_value& value, json_layout layout = json_layout::pretty) {
  std::string out;
  detail::write_json_value(out, value, layout, 0);
  if (layout == json_layout::pretty) out += '\n';
  return out;
}

}  // namespace esft
