// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// `tokenizer_record`: what a tokenizer file says, as plain data; `io` reads it, `data` works by it.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace esft {

/// A piece of text with an id of its own, cut out before anything else happens.
struct added_token {
  std::int32_t id = 0;
  std::string content;
  bool special = false;      ///< left out when decoding
  bool single_word = false;  ///< only where no letter or digit touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space after it
  bool normalized = false;   ///< looked for in normalized text, in its own normalized form

  friend bool operator==(const added_token&, const added_token&) = default;
};

/// One change of the text before it is split.
struct normalizer_step {
  enum class kind : std::uint8_t { nfc, prepend, replace };
  kind what = kind::nfc;
  std::string from;  ///< replace
  std::string to;    ///< prepend, replace
};

/// One division of the text; later ones divide the pieces of earlier ones.
struct split_step {
  enum class kind : std::uint8_t {
    pattern,        ///< by `pattern`, a regular expression
    byte_level,     ///< by the pattern that belongs to the component `ByteLevel`
    single_digits,  ///< every digit alone
    digits,         ///< runs of digits
  };
  kind what = kind::pattern;
  std::string pattern;
  bool keep_matches = true;
  bool keep_gaps = true;
};

/// The `Metaspace` component: spaces become a visible character.
struct metaspace_step {
  enum class prepend : std::uint8_t { always, first, never };
  std::string replacement;
  prepend scheme = prepend::always;
  bool split = true;
};

/// Two neighbours and what they become.
struct merge_rule {
  std::int32_t left = 0;
  std::int32_t right = 0;
  std::int32_t result = 0;
};

/// A byte-pair encoding with everything around it. Ids index `pieces`.
struct tokenizer_record {
  std::string source;  ///< the file, for messages

  std::vector<normalizer_step> normalizers;
  std::vector<split_step> splits;
  bool byte_level = false;    ///< the model sees bytes, each written as one visible character; otherwise it sees characters
  bool prefix_space = false;  ///< byte level: a text that does not begin with a space gets one
  std::optional<metaspace_step> metaspace;

  std::vector<std::string> pieces;  ///< by id; empty where the vocabulary has no such id
  std::vector<merge_rule> merges;   ///< the earlier, the sooner
  std::optional<std::int32_t> unknown;
  bool fuse_unknown = false;
  bool byte_fallback = false;  ///< a character without an id becomes its bytes `<0x00>` .. `<0xFF>`
  bool ignore_merges = false;  ///< a piece that is in the vocabulary whole is not taken apart first
  std::vector<added_token> added;

  std::vector<normalizer_step> decoder_replacements;  ///< applied to each piece
  bool decoder_bytes = false;                         ///< pieces `<0x00>` .. `<0xFF>` decode to bytes
  std::string decoder_strip;                          ///< removed from the beginning of the text at most `decoder_strip_count` times
  std::size_t decoder_strip_count = 0;

  std::vector<std::int32_t> before;  ///< ids that the post-processor puts before a text
  std::vector<std::int32_t> after;   ///< and after it

  std::optional<std::int32_t> bos;
  std::optional<std::int32_t> eos;
  std::optional<std::int32_t> pad;
};

}  // namespace esft
