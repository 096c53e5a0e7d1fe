// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `tokenizer.json` to a `tokenizer_record`.

#include <esft/core/tokenizer_record.hpp>
#include <esft/io/file.hpp>
#include <esft/io/json.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/tokenizer_components.hpp>
#include <esft/io/tokenizer_vocabulary.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace esft {

/// Largest `tokenizer.json` that is read; those of the families have up to 30 MB. @unit bytes
inline constexpr std::uint64_t tokenizer_json_limit = std::uint64_t{256} << 20U;

namespace detail {

inline void read_bpe_model(const json_reader& model, const tokenizer_json_handler& read, tokenizer_record& record) {
  const auto type = model.find("type");
  if (type && type->string() != "BPE") refuse_component(*type, "the model '" + type->string() + "'");
  only_keys(model, {"dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                    "ignore_merges", "vocab", "merges"});
  if (const auto dropout = model.find("dropout"); dropout && !dropout->is_null() && dropout->number(0, 1) != 0) {
    refuse_component(*dropout, "merging at random");
  }
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const auto affix = model.find(key);
    if (affix && !affix->is_null() && !affix->string().empty()) refuse_component(*affix, "an affix of subwords");
  }
  for (const char* key : {"vocab", "merges"}) {
    if (!model.at(key).is_null()) model.at(key).fail(input_error_code::wrong_type, "has another type than expected");
  }
  if (read.vocabulary.empty()) model.at("vocab").fail(input_error_code::out_of_range, "the vocabulary is empty");
  if (const auto unknown = model.find("unk_token"); unknown && !unknown->is_null()) {
    const auto found = read.vocabulary.find(unknown->string());
    if (found == read.vocabulary.end()) unknown->fail(input_error_code::inconsistent_config, "is not in the vocabulary");
    record.unknown = found->second;
  }
  record.fuse_unknown = flag(model, "fuse_unk", false);
  record.byte_fallback = flag(model, "byte_fallback", false);
  record.ignore_merges = flag(model, "ignore_merges", false);
  if (record.byte_level && record.byte_fallback) refuse_component(model.at("byte_fallback"), "byte fallback of a byte-level model");
  take_vocabulary(read, record);
}

}  // namespace detail

/// Reads a tokenizer. Truncation and padding of the file are left aside, as transformers does: rows are packed here.
/// @throws input_error `unsupported_feature` naming what this library would not do exactly, and those of strict JSON reading
inline tokenizer_record parse_tokenizer_json(std::string_view text, const std::string& file) {
  detail::tokenizer_json_handler read(file);
  parse_json_events(text, file, read);
  const json_reader root(read.root(), file);
  detail::only_keys(root, {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder",
                           "model"});
  tokenizer_record record;
  record.source = file;
  if (const auto part = root.find("normalizer")) detail::read_normalizer(*part, record);
  if (const auto part = root.find("pre_tokenizer")) detail::read_pre_tokenizer(*part, record);
  if (!record.byte_level && !record.splits.empty()) {
    detail::refuse_component(root.at("pre_tokenizer"), "splitting without ByteLevel at the end");
  }
  if (const auto part = root.find("post_processor")) detail::read_post_processor(*part, record);
  detail::read_bpe_model(root.at("model"), read, record);
  detail::read_decoder(root.at("decoder"), record);
  if (const auto part = root.find("added_tokens"); part && !part->is_null()) detail::read_added_tokens(*part, read, record);
  return record;
}

/// Reads the file of a tokenizer. @throws as `parse_tokenizer_json`, and input_error `cannot_open`, `too_large`
inline tokenizer_record read_tokenizer_json(const std::filesystem::path& path) {
  return parse_tokenizer_json(read_small_file(path, tokenizer_json_limit), path.string());
}

}  // namespace esft
