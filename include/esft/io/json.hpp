// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Strict JSON reading: `parse_json_events` drives a handler, `parse_json` builds a `json_value`.

#include <esft/core/utf8.hpp>
#include <esft/io/input_error.hpp>
#include <esft/io/json_value.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>
#include <vector>

namespace esft {

/// Deepest nesting of arrays and objects that is read.
inline constexpr std::size_t json_depth_limit = 32;

namespace detail {

/// Recursive descent over RFC 8259, no extensions. Recursion is bounded by `json_depth_limit`.
/// `Handler` has begin_object, end_object, begin_array, end_array, key(string&&), scalar(json_value&&); each may throw.
template <class Handler>
class json_scanner {
 public:
  json_scanner(std::string_view text, const std::string& file, std::uint64_t offset, Handler& handler)
      : text_(text), file_(file), offset_(offset), handler_(handler) {}

  void document() {
    value(0);
    skip_blanks();
    if (at_ != text_.size()) fail(input_error_code::bad_json, "text after the end of the JSON value");
  }

 private:
  void value(std::size_t depth) {
    skip_blanks();
    switch (peek()) {
      case '{': return object(depth + 1);
      case '[': return array(depth + 1);
      case '"': return handler_.scalar(string());
      case 't': return literal("true", true);
      case 'f': return literal("false", false);
      case 'n': return literal("null", nullptr);
      default: return number();
    }
  }

  void object(std::size_t depth) {
    enter(depth);
    handler_.begin_object();
    skip_blanks();
    if (!take('}')) {
      do {
        skip_blanks();
        handler_.key(string());
        skip_blanks();
        expect(':');
        value(depth);
        skip_blanks();
      } while (take(','));
      expect('}');
    }
    handler_.end_object();
  }

  void array(std::size_t depth) {
    enter(depth);
    handler_.begin_array();
    skip_blanks();
    if (!take(']')) {
      do {
        value(depth);
        skip_blanks();
      } while (take(','));
      expect(']');
    }
    handler_.end_array();
  }

  void literal(std::string_view word, json_value value) {
    if (text_.substr(at_, word.size()) != word) fail(input_error_code::bad_json, "not a JSON value");
    at_ += word.size();
    handler_.scalar(std::move(value));
  }

  void number() {
    const std::size_t start = at_;
    take('-');
    const std::size_t first_digit = at_;
    bool is_integer = true;
    digits();
    if (text_[first_digit] == '0' && at_ - first_digit > 1) fail(input_error_code::bad_json, "a number with a leading zero");
    if (take('.')) {
      is_integer = false;
      digits();
    }
    if (take('e') || take('E')) {
      is_integer = false;
      if (!take('+')) take('-');
      digits();
    }
    const char* const begin = text_.data() + start;
    const char* const end = text_.data() + at_;
    std::int64_t small = 0;
    std::uint64_t large = 0;
    double real = 0;
    if (is_integer && std::from_chars(begin, end, small).ec == std::errc{}) return handler_.scalar(small);
    if (is_integer && *begin != '-' && std::from_chars(begin, end, large).ec == std::errc{}) return handler_.scalar(large);
    if (std::from_chars(begin, end, real).ec != std::errc{}) {
      at_ = start;
      fail(input_error_code::out_of_range, "a number that does not fit a double");
    }
    handler_.scalar(real);
  }

  void digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == start) fail(input_error_code::bad_json, "not a JSON value");
  }

  std::string string() {
    expect('"');
    std::string result;
    while (true) {
      const std::size_t start = at_;
      while (at_ < text_.size() && is_plain(text_[at_])) ++at_;
      result.append(text_, start, at_ - start);
      if (at_ == text_.size()) fail(input_error_code::bad_json, "a string without an end");
      if (take('"')) return result;
      if (take('\\')) {
        escape(result);
      } else if (static_cast<unsigned char>(text_[at_]) < 0x20U) {
        fail(input_error_code::bad_json, "a control character in a string");
      } else {
        const std::size_t length = utf8_sequence_length(text_, at_);
        if (length == 0) fail(input_error_code::bad_utf8, "text that is not UTF-8");
        result.append(text_, at_, length);
        at_ += length;
      }
    }
  }

  static bool is_plain(char character) noexcept {
    const auto byte = static_cast<unsigned char>(character);
    return byte >= 0x20U && byte < 0x80U && character != '"' && character != '\\';
  }

  void escape(std::string& out) {
    const char kind = peek();
    ++at_;
    switch (kind) {
      case '"': case '\\': case '/': out += kind; return;
      case 'b': out += '\b'; return;
      case 'f': out += '\f'; return;
      case 'n': out += '\n'; return;
      case 'r': out += '\r'; return;
      case 't': out += '\t'; return;
      case 'u': break;
      default: --at_; fail(input_error_code::bad_json, "an unknown escape in a string");
    }
    std::uint32_t code = hex4();
    if (code >= 0xd800U && code < 0xdc00U && text_.substr(at_, 2) == "\\u") {
      at_ += 2;
      const std::uint32_t low = hex4();
      if (low < 0xdc00U || low > 0xdfffU) fail(input_error_code::bad_utf8, "half of a surrogate pair");
      code = 0x10000U + ((code - 0xd800U) << 10U) + (low - 0xdc00U);
    }
    if (code >= 0xd800U && code <= 0xdfffU) fail(input_error_code::bad_utf8, "half of a surrogate pair");
    append_utf8(out, code);
  }

  std::uint32_t hex4() {
    std::uint32_t code = 0;
    const char* const begin = text_.data() + at_;
    const bool enough = text_.size() - at_ >= 4;
    if (!enough || std::from_chars(begin, begin + 4, code, 16).ptr != begin + 4)
      fail(input_error_code::bad_json, "an escape without four hexadecimal digits");
    at_ += 4;
    return code;
  }

  void enter(std::size_t depth) {
    if (depth > json_depth_limit)
      fail(input_error_code::too_deep, "JSON nested deeper than " + std::to_string(json_depth_limit) + " levels");
    ++at_;
  }
  void skip_blanks() noexcept {
    while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') ++at_;
  }
  /// The next character; NUL at the end, which no rule of the grammar accepts.
  [[nodiscard]] char peek() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char wanted) noexcept {
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted) {
    if (!take(wanted))
      fail(input_error_code::bad_json, at_ == text_.size() ? "the JSON text ends too early" : std::string("'") + wanted + "' expected");
  }
  [[noreturn]] void fail(input_error_code code, const std::string& problem) const {
    throw input_error(code, {file_, {}, offset_ + at_}, problem, "fetch or write the file again");
  }

  std::string_view text_;
  const std::string& file_;
  std::uint64_t offset_;
  Handler& handler_;
  std::size_t at_ = 0;
};

/// Builds a tree and refuses a key that is already in its object.
class json_tree_builder {
 public:
  explicit json_tree_builder(const std::string& file) : file_(file) {}

  void begin_object() { open_.push_back({json_object(), {}, {}}); }
  void begin_array() { open_.push_back({json_array(), {}, {}}); }
  void end_object() { close(); }
  void end_array() { close(); }
  void key(std::string&& name) {
    if (!open_.back().keys.insert(name).second) {
      throw input_error(input_error_code::duplicate_key, {file_, name, {}}, "the key appears twice in one object",
                        "readers disagree on which one counts: remove one");
    }
    open_.back().key = std::move(name);
  }
  void scalar(json_value&& value) { place(std::move(value)); }

  json_value root;

 private:
  struct level {
    json_value value;
    std::string key;
    std::unordered_set<std::string> keys;
  };
  void close() {
    json_value done = std::move(open_.back().value);
    open_.pop_back();
    place(std::move(done));
  }
  void place(json_value&& value) {
    if (open_.empty()) {
      root = std::move(value);
    } else if (open_.back().value.kind() == json_kind::object) {
      open_.back().value.add(std::move(open_.back().key), std::move(value));
    } else {
      open_.back().value.push(std::move(value));
    }
  }

  const std::string& file_;
  std::vector<level> open_;
};

}  // namespace detail

/// Reads one JSON value and nothing after it but blanks, calling `handler` for every token; strings arrive unescaped and are UTF-8,
/// integers that fit 64 bits arrive as integers. `file`, and `offset` of the text in the file, are for messages.
/// @throws input_error `bad_json`, `too_deep`, `bad_utf8`, `out_of_range`, and whatever the handler throws
template <class Handler>
void parse_json_events(std::string_view text, const std::string& file, Handler& handler, std::uint64_t offset = 0) {
  detail::json_scanner<Handler>(text, file, offset, handler).document();
}

/// Reads a JSON text into a tree.
/// @throws input_error as `parse_json_events`, and `duplicate_key` (escaped twins included)
inline json_value parse_json(std::string_view text, const std::string& file) {
  detail::json_tree_builder builder(file);
  parse_json_events(text, file, builder);
  return std::move(builder.root);
}

}  // namespace esft
