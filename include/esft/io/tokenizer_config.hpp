// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `tokenizer_config.json`: which tokens begin, end and pad a row. Nothing else of that file is used, its chat template least of all.

#include <esft/core/tokenizer_record.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace esft {

namespace detail {

/// The id of a token that a configuration names, as text or as an object with its content.
inline std::optional<std::int32_t> named_token(const json_reader& root, std::string_view key, const tokenizer_record& record) {
  const auto member = root.find(key);
  if (!member || member->is_null()) return std::nullopt;
  const std::string& content = member->value().kind() == json_kind::object ? member->at("content").string() : member->string();
  for (const added_token& token : record.added) {
    if (token.content == content) return token.id;
  }
  const auto found = std::find(record.pieces.begin(), record.pieces.end(), content);
  if (!content.empty() && found != record.pieces.end()) return static_cast<std::int32_t>(found - record.pieces.begin());
  member->fail(input_error_code::inconsistent_config, "'" + printable(content) + "' is no token of the tokenizer beside it");
}

}  // namespace detail

/// Fills bos, eos and pad of a record. A bos that the tokenizer does not put before texts (`add_bos_token` is false, or absent while the
/// post-processor has none) stays absent: rows must begin as they did in pre-training.
/// @throws input_error for a token that the tokenizer does not have
inline void read_tokenizer_config(const std::filesystem::path& path, tokenizer_record& record) {
  const json_value tree = parse_json(read_small_file(path, std::uint64_t{64} << 20U), path.string());
  const json_reader root(tree, path.string());
  record.eos = detail::named_token(root, "eos_token", record);
  record.pad = detail::named_token(root, "pad_token", record);
  const std::optional<std::int32_t> bos = detail::named_token(root, "bos_token", record);
  const auto adds = root.find("add_bos_token");
  const bool in_template = bos && std::find(record.before.begin(), record.before.end(), *bos) != record.before.end();
  const bool used = adds && !adds->is_null() ? adds->boolean() : in_template;
  record.bos = used ? bos : std::nullopt;
}

}  // namespace esft
