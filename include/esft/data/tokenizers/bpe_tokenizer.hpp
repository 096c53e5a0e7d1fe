// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `bpe_tokenizer`: byte-pair encoding as a `tokenizer_record` describes it, over bytes or over characters with byte fallback.

#include <esft/core/contract.hpp>
#include <esft/core/error.hpp>
#include <esft/core/tokenizer_record.hpp>
#include <esft/data/tokenizers/added_tokens.hpp>
#include <esft/data/tokenizers/byte_alphabet.hpp>
#include <esft/data/tokenizers/merge_table.hpp>
#include <esft/data/tokenizers/piece_cache.hpp>
#include <esft/data/tokenizers/text_pipeline.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace esft {

/// The tokenizer of a checkpoint. Ids agree with those of the package `tokenizers` for every text that is UTF-8; a byte that is not is
/// encoded as itself where the vocabulary has bytes. Safe to share between threads.
/// @deviation decoding keeps the bytes of unfinished characters, where the reference writes U+FFFD: pieces can then be joined
class bpe_tokenizer {
 public:
  static constexpr std::string_view name = "bpe";

  std::int32_t bos = no_token;  ///< `no_token` where rows of this model have none
  std::int32_t eos = no_token;
  std::int32_t pad = no_token;
  std::size_t vocab_size = 0;  ///< one more than the largest id

  /// @throws esft::error (bad_input) that names the record's source, for patterns that are not understood
  explicit bpe_tokenizer(const tokenizer_record& record) try
      : bos(record.bos.value_or(no_token)), eos(record.eos.value_or(no_token)), pad(record.pad.value_or(eos)),
        vocab_size(record.pieces.size()), pipeline_(record), merges_(record.merges), before_(record.before), after_(record.after),
        unknown_(record.unknown), byte_level_(record.byte_level), fuse_unknown_(record.fuse_unknown), strip_(record.decoder_strip),
        strip_count_(record.decoder_strip_count) {
    index_pieces(record);
    for (const added_token& token : record.added) {
      vocab_size = std::max(vocab_size, static_cast<std::size_t>(token.id) + 1);
      added_ids_.emplace(token.content, token.id);
      if (token.normalized) {
        normalized_.add(token, pipeline_.normalize(token.content));
      } else {
        plain_.add(token, token.content);
      }
    }
    plain_.seal();
    normalized_.seal();
    make_decoder(record);
  } catch (const error& problem) {
    throw error(problem.category(), record.source.empty() ? std::string(problem.what()) : record.source + ": " + problem.what());
  }

  /// Ids of a text; added tokens in it, special ones as well, become their ids. Puts nothing before or after it.
  [[nodiscard]] std::vector<std::int32_t> encode(std::string_view text, text_position where = {}) const {
    return encode_as(text, false, where);
  }

  /// Ids of a text in which special tokens are letters like any other: for content that must not steer the model.
  [[nodiscard]] std::vector<std::int32_t> encode_ordinary(std::string_view text, text_position where = {}) const {
    return encode_as(text, true, where);
  }

  /// As `encode`, with what the tokenizer's own post-processor puts around a text.
  [[nodiscard]] std::vector<std::int32_t> encode_framed(std::string_view text) const {
    std::vector<std::int32_t> ids = before_;
    const std::vector<std::int32_t> inner = encode(text);
    ids.insert(ids.end(), inner.begin(), inner.end());
    ids.insert(ids.end(), after_.begin(), after_.end());
    return ids;
  }

  /// Text of ids, special tokens left out; ids that the vocabulary does not use are silent. Not always UTF-8: a character may be cut.
  /// @pre no id is negative
  [[nodiscard]] std::string decode(std::span<const std::int32_t> ids) const {
    std::string text;
    for (const std::int32_t id : ids) {
      ESFT_EXPECTS(id >= 0, "a negative token id cannot be decoded");
      const auto at = static_cast<std::size_t>(id);
      if (at < decoded_.size()) text += decoded_[at];
    }
    for (std::size_t i = 0; i < strip_count_ && !strip_.empty() && text.starts_with(strip_); ++i) text.erase(0, strip_.size());
    return text;
  }

  /// The id of an added token, such as `<|im_start|>`.
  [[nodiscard]] std::optional<std::int32_t> find_token(std::string_view content) const {
    const auto found = added_ids_.find(std::string(content));
    return found == added_ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  void index_pieces(const tokenizer_record& record) {
    bytes_.fill(no_token);
    std::unordered_map<std::string_view, std::int32_t> ids;
    for (std::size_t i = 0; i < record.pieces.size(); ++i) {
      if (!record.pieces[i].empty()) ids.emplace(record.pieces[i], static_cast<std::int32_t>(i));
    }
    const auto id_of = [&](const std::string& piece) {
      const auto found = ids.find(piece);
      return found == ids.end() ? no_token : found->second;
    };
    for (std::size_t byte = 0; byte < 256; ++byte) {
      std::string written;
      if (byte_level_) append_utf8(written, byte_alphabet()[byte]);
      if (!byte_level_ && record.byte_fallback) written = byte_piece(static_cast<std::uint8_t>(byte));
      bytes_[byte] = id_of(written);
    }
    for (const auto& [piece, id] : ids) {
      const auto [code, length] = detail::next_code(piece, 0);
      if (!byte_level_ && length == piece.size()) characters_.emplace(code, id);
      if (!record.ignore_merges) continue;
      if (auto whole = byte_level_ ? bytes_of_alphabet(piece) : std::optional(std::string(piece))) whole_.emplace(std::move(*whole), id);
    }
  }

  void make_decoder(const tokenizer_record& record) {
    decoded_ = record.pieces;
    decoded_.resize(vocab_size);
    for (const added_token& token : record.added) decoded_[static_cast<std::size_t>(token.id)] = token.content;
    for (std::string& piece : decoded_) {
      for (const normalizer_step& step : record.decoder_replacements) detail::replace_all(piece, step.from, step.to);
      if (byte_level_) {
        if (auto bytes = bytes_of_alphabet(piece)) piece = std::move(*bytes);
      } else if (record.decoder_bytes) {
        if (const auto byte = byte_of_piece(piece)) piece.assign(1, *byte);
      }
    }
    for (const added_token& token : record.added) {
      if (token.special) decoded_[static_cast<std::size_t>(token.id)].clear();
    }
  }

  [[nodiscard]] std::vector<std::int32_t> encode_as(std::string_view text, bool ordinary, text_position whole) const {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / 3 + 1);
    piece_cache::access cache(cache_);
    const auto emit = [&ids](std::int32_t id) { ids.push_back(id); };
    plain_.split(text, ordinary, [&](std::size_t begin, std::size_t end) {
      const text_position where{whole.begins_text && begin == 0, whole.continues && begin == 0};
      const std::string normal = pipeline_.normalize(text.substr(begin, end - begin), where);
      normalized_.split(normal, ordinary, [&](std::size_t from, std::size_t to) {
        const text_position inner{where.begins_text && from == 0, where.continues && from == 0};
        pipeline_.split(normal.substr(from, to - from), inner, [&](std::string_view piece) {
          cache.append(piece, ids, [&](std::vector<std::int32_t>& made) { encode_piece(piece, made); });
        });
      }, emit);
    }, emit);
    return ids;
  }

  void encode_piece(std::string_view piece, std::vector<std::int32_t>& ids) const {
    if (!whole_.empty()) {
      const auto found = whole_.find(std::string(piece));
      if (found != whole_.end()) return ids.push_back(found->second);
    }
    symbols(piece, ids);
    merges_.apply(ids);
  }

  /// One id a byte or character. What has none is unknown, or nothing at all where the vocabulary has no word for that.
  void symbols(std::string_view piece, std::vector<std::int32_t>& ids) const {
    bool pending = false;  // an unknown symbol waits: those that follow it may join it
    for (std::size_t at = 0; at < piece.size();) {
      const auto [code, length] = byte_level_ ? detail::code_at{static_cast<unsigned char>(piece[at]), 1} : detail::next_code(piece, at);
      const std::int32_t id = symbol(code);
      if (id != no_token) {
        if (std::exchange(pending, false)) ids.push_back(*unknown_);
        ids.push_back(id);
      } else if (!byte_level_ && has_bytes(piece.substr(at, length))) {
        for (const char byte : piece.substr(at, length)) ids.push_back(bytes_[static_cast<unsigned char>(byte)]);
      } else if (unknown_) {
        if (pending && !fuse_unknown_) ids.push_back(*unknown_);
        pending = true;
      }
      at += length;
    }
    if (pending) ids.push_back(*unknown_);
  }
  [[nodiscard]] std::int32_t symbol(std::uint32_t code) const {
    if (byte_level_) return bytes_[code];
    const auto found = characters_.find(code);
    return found == characters_.end() ? no_token : found->second;
  }
  [[nodiscard]] bool has_bytes(std::string_view character) const {
    return std::all_of(character.begin(), character.end(), [&](char byte) { return bytes_[static_cast<unsigned char>(byte)] != no_token; });
  }

  text_pipeline pipeline_;
  merge_table merges_;
  added_token_finder plain_, normalized_;
  std::unordered_map<std::string, std::int32_t> added_ids_;
  std::vector<std::int32_t> before_, after_;
  std::optional<std::int32_t> unknown_;
  bool byte_level_;
  bool fuse_unknown_;
  std::array<std::int32_t, 256> bytes_{};                         ///< ids of bytes
  std::unordered_map<std::uint32_t, std::int32_t> characters_;    ///< ids of characters
  std::unordered_map<std::string, std::int32_t> whole_;           ///< pieces that are not taken apart
  std::vector<std::string> decoded_;
  std::string strip_;
  std::size_t strip_count_;
  mutable piece_cache cache_;
};

}  // namespace esft
