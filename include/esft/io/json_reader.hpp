// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `json_reader`: checked access to a `json_value`; nothing converts in silence, and every error names file and key.

#include <esft/io/input_error.hpp>
#include <esft/io/json_value.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// A value of a tree together with its place. Borrows the tree.
class json_reader {
 public:
  json_reader(const json_value& value, std::string file, std::string pointer = {})
      : value_(&value), file_(std::move(file)), pointer_(std::move(pointer)) {}

  [[nodiscard]] const json_value& value() const noexcept { return *value_; }
  [[nodiscard]] bool is_null() const noexcept { return value_->is_null(); }
  [[nodiscard]] const std::string& pointer() const noexcept { return pointer_; }

  /// Member of an object, absent if it is not there. @throws input_error `wrong_type`
  [[nodiscard]] std::optional<json_reader> find(std::string_view key) const {
    for (const json_member& member : get<json_value::object>("an object")) {
      if (member.key == key) return json_reader(member.value, file_, pointer_ + "/" + member.key);
    }
    return std::nullopt;
  }
  /// Member of an object. @throws input_error `missing_key`, `wrong_type`
  [[nodiscard]] json_reader at(std::string_view key) const {
    if (auto found = find(key)) return *found;
    fail(input_error_code::missing_key, "the key '" + std::string(key) + "' is missing");
  }
  /// All members in file order.
  [[nodiscard]] std::vector<std::pair<std::string, json_reader>> members() const {
    std::vector<std::pair<std::string, json_reader>> result;
    for (const json_member& member : get<json_value::object>("an object")) {
      result.emplace_back(member.key, json_reader(member.value, file_, pointer_ + "/" + member.key));
    }
    return result;
  }
  /// All elements in order.
  [[nodiscard]] std::vector<json_reader> elements() const {
    std::vector<json_reader> result;
    for (const json_value& element : get<json_value::array>("an array")) {
      result.emplace_back(element, file_, pointer_ + "/" + std::to_string(result.size()));
    }
    return result;
  }

  /// A JSON integer in [low, high]; 8.0, "8" and true are not integers. @throws input_error `wrong_type`, `out_of_range`
  [[nodiscard]] std::int64_t integer(std::int64_t low, std::int64_t high) const {
    const auto* value = value_->get_if<std::int64_t>();
    if (value == nullptr && value_->get_if<std::uint64_t>() == nullptr) wrong_type("an integer");
    if (value == nullptr || *value < low || *value > high) {
      fail(input_error_code::out_of_range, "must lie in [" + std::to_string(low) + ", " + std::to_string(high) + "]");
    }
    return *value;
  }
  /// Any number in [low, high]. @throws input_error `wrong_type`, `out_of_range`
  [[nodiscard]] double number(double low, double high) const {
    double result = 0;
    if (const auto* real = value_->get_if<double>()) {
      result = *real;
    } else if (const auto* whole = value_->get_if<std::int64_t>()) {
      result = static_cast<double>(*whole);
    } else if (const auto* large = value_->get_if<std::uint64_t>()) {
      result = static_cast<double>(*large);
    } else {
      wrong_type("a number");
    }
    if (!(result >= low && result <= high)) {
      fail(input_error_code::out_of_range, "must lie in [" + std::to_string(low) + ", " + std::to_string(high) + "]");
    }
    return result;
  }
  [[nodiscard]] bool boolean() const { return get<bool>("true or false"); }
  [[nodiscard]] const std::string& string() const { return get<std::string>("a string"); }

  /// Throws `input_error` at this place.
  [[noreturn]] void fail(input_error_code code, const std::string& problem, const std::string& way_out = {}) const {
    throw input_error(code, {file_, pointer_, {}}, problem, way_out);
  }

 private:
  template <class T>
  [[nodiscard]] const T& get(const char* wanted) const {
    if (const T* content = value_->get_if<T>()) return *content;
    wrong_type(wanted);
  }
  [[noreturn]] void wrong_type(const char* wanted) const {
    fail(input_error_code::wrong_type, std::string("must be ") + wanted + ", not " + kind_name());
  }
  [[nodiscard]] std::string kind_name() const {
    static constexpr const char* names[] = {"null",     "a boolean", "an integer", "an integer", "a fractional number",
                                            "a string", "an array",  "an object"};
    return names[static_cast<std::size_t>(value_->kind())];
  }

  const json_value* value_;
  std::string file_;
  std::string pointer_;
};

}  // namespace esft
