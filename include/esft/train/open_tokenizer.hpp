// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `open_tokenizer`: the tokenizer that belongs to a model directory, or an error; never one that merely fits.

#include <esft/data/tokenizers/any_tokenizer.hpp>
#include <esft/io/hf_config.hpp>
#include <esft/io/input_error.hpp>
#include <esft/io/tokenizer_config.hpp>
#include <esft/io/tokenizer_json.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>

namespace esft {

/// Opens `tokenizer.json`, with the special tokens of the `tokenizer_config.json` beside it or, where there is none, of `config`.
/// @throws input_error, esft::error (bad_input) naming what is wrong in which file
inline bpe_tokenizer open_tokenizer_file(const std::filesystem::path& file, const hf_config* config = nullptr) {
  tokenizer_record record = read_tokenizer_json(file);
  const std::filesystem::path settings = file.parent_path() / "tokenizer_config.json";
  const auto id = [](const std::optional<index>& token) {
    return token ? std::optional(static_cast<std::int32_t>(*token)) : std::nullopt;
  };
  std::error_code ignored;
  if (std::filesystem::exists(settings, ignored)) {
    read_tokenizer_config(settings, record);
  } else {
    if (!record.before.empty()) record.bos = record.before.front();
    if (config != nullptr) record.pad = id(config->pad_token_id);
  }
  if (!record.eos && config != nullptr) record.eos = id(config->eos_token_id);
  return bpe_tokenizer(record);
}

/// The tokenizer of a model: that of `tokenizer.json`; the byte tokenizer for a directory without one whose vocabulary is the byte
/// tokenizer's own.
/// @throws input_error `nothing_to_load`, `inconsistent_config` when the model's vocabulary is another one, or no token ends a row
inline any_tokenizer open_tokenizer(const std::filesystem::path& directory, const hf_config& config) {
  const std::filesystem::path file = directory / "tokenizer.json";
  std::error_code ignored;
  const auto vocabulary = static_cast<std::size_t>(config.vocab_size);
  if (!std::filesystem::exists(file, ignored)) {
    if (vocabulary == byte_tokenizer::vocab_size) return any_tokenizer(byte_tokenizer{});
    throw input_error(input_error_code::nothing_to_load, {file.string(), {}, {}},
                      "is missing, and the model's " + std::to_string(vocabulary) + " tokens are not those of the byte tokenizer",
                      "put the tokenizer.json of the checkpoint into its directory");
  }
  const bpe_tokenizer words = open_tokenizer_file(file, &config);
  if (words.vocab_size > vocabulary) {
    throw input_error(input_error_code::inconsistent_config, {file.string(), {}, {}},
                      "has ids up to " + std::to_string(words.vocab_size - 1) + ", the model only " + std::to_string(vocabulary) +
                          " tokens",
                      "use the tokenizer that the model was trained with");
  }
  if (words.eos == no_token) {
    throw input_error(input_error_code::inconsistent_config, {file.string(), {}, {}}, "no token ends a row",
                      "name 'eos_token' in the tokenizer_config.json beside it or 'eos_token_id' in config.json");
  }
  return any_tokenizer(words);
}

}  // namespace esft
