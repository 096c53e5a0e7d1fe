// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The large part of a `tokenizer.json`, vocabulary and merges, read without building a tree of it.

#include <esft/core/tokenizer_record.hpp>
#include <esft/io/input_error.hpp>
#include <esft/io/json.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace esft::detail {

/// Largest id of a token; above every vocabulary there is, and small enough that a hostile file cannot ask for much memory.
inline constexpr std::int64_t largest_token_id = (std::int64_t{1} << 24U) - 1;

/// Handler of JSON events: `/model/vocab` and `/model/merges` go into lists, all else becomes a tree in which those two are null.
class tokenizer_json_handler {
 public:
  explicit tokenizer_json_handler(const std::string& file) : file_(file), tree_(file) {}

  std::unordered_map<std::string, std::int32_t> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;
  json_value& root() { return tree_.root; }

  void begin_object() {
    if (place_ != place::tree) refuse();
    const bool enters = at("vocab");
    ++depth_;
    if (!enters) return tree_.begin_object();
    place_ = place::vocabulary;
    tree_.scalar(nullptr);
  }
  void begin_array() {
    const bool enters = at("merges");
    ++depth_;
    if (enters) {
      place_ = place::merges;
      return tree_.scalar(nullptr);
    }
    if (place_ == place::tree) return tree_.begin_array();
    if (place_ != place::merges || depth_ != 4) refuse();
    pair_.clear();
  }
  void end_object() {
    --depth_;
    if (place_ == place::tree) return tree_.end_object();
    place_ = place::tree;
  }
  void end_array() {
    --depth_;
    if (place_ == place::tree) return tree_.end_array();
    if (depth_ == 3) return add_merge();
    place_ = place::tree;
  }
  void key(std::string&& name) {
    if (place_ != place::tree) {
      key_ = std::move(name);
      return;
    }
    if (depth_ == 1) path_ = {name, {}};
    if (depth_ == 2) path_[1] = name;
    tree_.key(std::move(name));
  }
  void scalar(json_value&& value) {
    if (place_ == place::tree) return tree_.scalar(std::move(value));
    if (place_ == place::vocabulary) return add_piece(value);
    const auto* text = value.get_if<std::string>();
    if (text == nullptr) refuse();
    if (depth_ == 4) {
      pair_.push_back(*text);
      return;
    }
    const std::size_t space = text->find(' ');
    pair_ = {text->substr(0, space), space == std::string::npos ? std::string() : text->substr(space + 1)};
    add_merge();
  }

 private:
  enum class place : std::uint8_t { tree, vocabulary, merges };

  [[nodiscard]] bool at(std::string_view key) const {
    return place_ == place::tree && depth_ == 2 && path_[0] == "model" && path_[1] == key;
  }

  void add_piece(const json_value& value) {
    const auto* id = value.get_if<std::int64_t>();
    const std::string where = "/model/vocab/" + key_;
    if (id == nullptr) throw input_error(input_error_code::wrong_type, {file_, where, {}}, "the id of a token must be an integer");
    if (*id < 0 || *id > largest_token_id) {
      throw input_error(input_error_code::out_of_range, {file_, where, {}}, "must lie in [0, " + std::to_string(largest_token_id) + "]");
    }
    if (!vocabulary.emplace(std::move(key_), static_cast<std::int32_t>(*id)).second) {
      throw input_error(input_error_code::duplicate_key, {file_, where, {}}, "the token appears twice", "remove one");
    }
  }
  void add_merge() {
    const bool usable = pair_.size() == 2 && !pair_[0].empty() && !pair_[1].empty() && pair_[1].find(' ') == std::string::npos;
    if (!usable) {
      throw input_error(input_error_code::bad_record, {file_, "/model/merges/" + std::to_string(merges.size()), {}},
                        "a merge is two tokens, in a list or with a space between them");
    }
    merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
  }
  [[noreturn]] void refuse() const {
    const bool in_merges = place_ == place::merges;
    throw input_error(input_error_code::wrong_type, {file_, in_merges ? "/model/merges" : "/model/vocab", {}},
                      in_merges ? "must be a list of pairs of tokens" : "must be an object from tokens to ids");
  }

  const std::string& file_;
  json_tree_builder tree_;
  place place_ = place::tree;
  std::size_t depth_ = 0;
  std::array<std::string, 2> path_;  ///< keys of the objects that are open
  std::string key_;
  std::vector<std::string> pair_;
};

/// Fills pieces and merges of a record. @throws input_error `inconsistent_config` for a merge of tokens that the vocabulary does not have
inline void take_vocabulary(const tokenizer_json_handler& read, tokenizer_record& record) {
  std::int32_t largest = -1;
  for (const auto& [piece, id] : read.vocabulary) largest = std::max(largest, id);
  record.pieces.assign(static_cast<std::size_t>(largest + 1), {});
  for (const auto& [piece, id] : read.vocabulary) {
    std::string& place = record.pieces[static_cast<std::size_t>(id)];
    if (!place.empty()) {
      throw input_error(input_error_code::inconsistent_config, {record.source, "/model/vocab/" + piece, {}},
                        "has the id " + std::to_string(id) + ", as has '" + printable(place) + "'", "fetch the file again");
    }
    place = piece;
  }
  record.merges.reserve(read.merges.size());
  for (std::size_t i = 0; i < read.merges.size(); ++i) {
    const auto id = [&](const std::string& piece) {
      const auto found = read.vocabulary.find(piece);
      if (found != read.vocabulary.end()) return found->second;
      throw input_error(input_error_code::inconsistent_config, {record.source, "/model/merges/" + std::to_string(i), {}},
                        "'" + printable(piece) + "' is not in the vocabulary", "fetch the file again");
    };
    const auto& [left, right] = read.merges[i];
    record.merges.push_back({id(left), id(right), id(left + right)});
  }
}

}  // namespace esft::detail
