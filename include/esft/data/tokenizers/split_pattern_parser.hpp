// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `parse_split_pattern`: the text of a tokenizer's regular expression to a `split_pattern`; what is not understood is an error.

#include <esft/core/error.hpp>
#include <esft/data/tokenizers/split_pattern.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

namespace detail {

/// Recursive descent over: alternatives of runs (`x`, `\p{L}`, `\s`, `[...]`, with `?`, `*`, `+`, `{m,n}`), words in any case
/// (`(?i:'s|'t)`), look-ahead (`(?!\S)`) and `$`.
class split_pattern_parser {
 public:
  explicit split_pattern_parser(std::string_view text) : text_(text), sequence_(text) {}

  split_pattern pattern() {
    std::vector<std::vector<split_item>> alternatives(1);
    while (!done()) {
      if (take('|')) {
        expect_content(alternatives.back());
        alternatives.emplace_back();
      } else {
        alternatives.back().push_back(item());
      }
    }
    expect_content(alternatives.back());
    return split_pattern(std::move(alternatives));
  }

 private:
  split_item item() {
    split_item result;
    if (take('$')) {
      result.what = split_item::kind::line_end;
      return result;
    }
    if (take("(?!")) {
      result.what = split_item::kind::not_next;
      atom(result.set);
      result.set.seal();
      expect(')');
      return result;
    }
    if (take("(?i:")) {
      result.what = split_item::kind::words;
      words(result.words);
      if (take('?')) result.least = 0;
      refuse_quantifier();
      return result;
    }
    atom(result.set);
    result.set.seal();
    quantifier(result);
    return result;
  }

  /// One character, escape or bracket.
  void atom(split_class& set) {
    if (take('[')) return bracket(set);
    if (peek() == '\\') return escape(set);
    if (std::string_view("(){}*+?.^$|]").find(static_cast<char>(peek())) != std::string_view::npos && peek() < 128) fail();
    const std::uint32_t code = next();
    set.add(code, code);
  }

  void bracket(split_class& set) {
    if (take('^')) set.negate();
    bool empty = true;
    while (!take(']')) {
      // an opening bracket or && would begin a set of sets
      if (peek() == '[' || (peek() == '&' && peek(1) == '&')) fail();
      empty = false;
      std::optional<std::uint32_t> first = peek() == '\\' ? bracket_escape(set) : std::optional(next());
      if (!first) continue;
      std::uint32_t last = *first;
      if (peek() == '-' && peek(1) != ']') {
        take('-');
        const std::optional<std::uint32_t> end = peek() == '\\' ? bracket_escape(set) : std::optional(next());
        if (!end || *end < *first) fail();
        last = *end;
      }
      set.add(*first, last);
    }
    if (empty) fail();
  }
  /// An escape in brackets: a character, or nothing after adding a class.
  std::optional<std::uint32_t> bracket_escape(split_class& set) {
    if (const auto code = literal_escape()) return code;
    named_class(set);
    return std::nullopt;
  }

  void escape(split_class& set) {
    if (const auto code = literal_escape()) return set.add(*code, *code);
    if (take("\\S")) {
      set.add(space_classes);
      return set.negate();
    }
    named_class(set);
  }
  std::optional<std::uint32_t> literal_escape() {
    if (take("\\r")) return '\r';
    if (take("\\n")) return '\n';
    if (take("\\t")) return '\t';
    const std::uint32_t code = peek(1);
    if (code >= 128 || std::string_view("\\[](){}*+?.^$|-/'\"!&~").find(static_cast<char>(code)) == std::string_view::npos) return {};
    take('\\');
    return next();
  }
  void named_class(split_class& set) {
    static const std::pair<std::string_view, class_set> names[] = {
        {"\\s", space_classes},
        {"\\p{L}", letter_classes},
        {"\\p{N}", number_classes},
        {"\\p{M}", mark_classes},
        {"\\p{P}", punctuation_classes},
        {"\\p{S}", set_of(character_class::s)},
        {"\\p{Lu}", set_of(character_class::lu)},
        {"\\p{Ll}", set_of(character_class::ll)},
        {"\\p{Lt}", set_of(character_class::lt)},
        {"\\p{Lm}", set_of(character_class::lm)},
        {"\\p{Lo}", set_of(character_class::lo)},
    };
    for (const auto& [name, classes] : names) {
      if (take(name)) return set.add(classes);
    }
    fail();
  }

  void words(std::vector<std::vector<std::uint32_t>>& list) {
    list.emplace_back();
    while (!take(')')) {
      if (take('|')) {
        list.emplace_back();
        continue;
      }
      // letters of one case only, whose folding is one to one
      const std::uint32_t code = next();
      if (!(code >= 'a' && code <= 'z') && code != '\'') fail();
      list.back().push_back(code);
    }
    for (const auto& word : list) {
      if (word.empty()) fail();
      for (std::size_t i = 1; i < word.size(); ++i) {  // one ligature folds into each of these pairs
        const bool ligature = (word[i - 1] == 's' && (word[i] == 's' || word[i] == 't')) ||
                              (word[i - 1] == 'f' && (word[i] == 'f' || word[i] == 'i' || word[i] == 'l'));
        if (ligature) fail();
      }
    }
  }

  void quantifier(split_item& item) {
    if (take('?')) {
      item.least = 0;
    } else if (take('*')) {
      item.least = 0;
      item.most = split_pattern::unbounded;
    } else if (take('+')) {
      item.most = split_pattern::unbounded;
    } else if (take('{')) {
      item.least = item.most = number();
      if (take(',')) item.most = number();
      expect('}');
      if (item.most == 0 || item.least > item.most) fail();
    }
    refuse_quantifier();
  }
  /// Lazy and possessive quantifiers mean something else.
  void refuse_quantifier() {
    for (const char sign : {'?', '*', '+', '{'}) {
      if (peek() == static_cast<std::uint32_t>(sign)) fail();
    }
  }
  std::size_t number() {
    std::size_t value = 0;
    if (peek() < '0' || peek() > '9') fail();
    while (peek() >= '0' && peek() <= '9' && value < 1000) value = 10 * value + (next() - '0');
    return value;
  }

  /// An alternative must read at least one character.
  void expect_content(const std::vector<split_item>& steps) const {
    std::size_t least = 0;
    for (const split_item& step : steps) {
      if (step.what == split_item::kind::run || step.what == split_item::kind::words) least += step.least;
    }
    if (least == 0) fail();
  }

  [[nodiscard]] bool done() const { return at_ == sequence_.codes.size(); }
  /// The character `ahead`; 0, which no rule accepts, after the end.
  [[nodiscard]] std::uint32_t peek(std::size_t ahead = 0) const {
    return at_ + ahead < sequence_.codes.size() ? sequence_.codes[at_ + ahead] : 0;
  }
  std::uint32_t next() {
    if (done() || peek() == 0) fail();
    return sequence_.codes[at_++];
  }
  bool take(char wanted) { return take(std::string_view(&wanted, 1)); }
  bool take(std::string_view wanted) {
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      if (peek(i) != static_cast<std::uint32_t>(wanted[i])) return false;
    }
    at_ += wanted.size();
    return true;
  }
  void expect(char wanted) {
    if (!take(wanted)) fail();
  }
  [[noreturn]] void fail() const {
    throw error(error_category::bad_input, "the regular expression '" + std::string(text_) + "' is not understood from character " +
                                               std::to_string(at_ + 1) + " on; only the split patterns of known families are");
  }

  std::string_view text_;
  code_sequence sequence_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// Compiles a pattern.
/// @throws esft::error (bad_input) that quotes the pattern and says where it stops being understood
inline split_pattern parse_split_pattern(std::string_view text) { return detail::split_pattern_parser(text).pattern(); }

/// What the component `ByteLevel` splits by: the pattern of GPT-2.
inline constexpr std::string_view byte_level_split_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace esft
