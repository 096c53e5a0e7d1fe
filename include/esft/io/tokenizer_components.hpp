// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// The components around the model of a `tokenizer.json`; what this library does not do exactly is an error that names it.

#include <esft/core/tokenizer_record.hpp>
#include <esft/io/input_error.hpp>
#include <esft/io/json_reader.hpp>
#include <esft/io/tokenizer_vocabulary.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft::detail {

inline std::string component_type(const json_reader& component) { return component.at("type").string(); }

[[noreturn]] inline void refuse_component(const json_reader& place, const std::string& what) {
  place.fail(input_error_code::unsupported_feature, what + " is not supported", "tokenize with the package that wrote the file");
}

/// Refuses keys besides "type" and `known`.
inline void only_keys(const json_reader& component, std::initializer_list<std::string_view> known) {
  for (const auto& [key, value] : component.members()) {
    if (key != "type" && std::find(known.begin(), known.end(), key) == known.end()) refuse_component(value, "the option '" + key + "'");
  }
}
inline bool flag(const json_reader& component, std::string_view key, bool otherwise) {
  const auto found = component.find(key);
  return found && !found->is_null() ? found->boolean() : otherwise;
}

/// Calls `use` for a component, or for each one of a "Sequence".
template <class Use>
void each_component(const json_reader& component, std::string_view members, Use&& use) {
  if (component.is_null()) return;
  if (component_type(component) != "Sequence") return use(component);
  only_keys(component, {members});
  for (const json_reader& member : component.at(members).elements()) each_component(member, members, use);
}

/// `Replace` by a plain string.
inline normalizer_step replacement(const json_reader& component) {
  only_keys(component, {"pattern", "content"});
  const json_reader pattern = component.at("pattern");
  if (!pattern.find("String")) refuse_component(pattern, "replacing by a regular expression");
  return {normalizer_step::kind::replace, pattern.at("String").string(), component.at("content").string()};
}

inline void read_normalizer(const json_reader& component, tokenizer_record& record) {
  each_component(component, "normalizers", [&](const json_reader& step) {
    const std::string type = component_type(step);
    if (type == "NFC") {
      only_keys(step, {});
      record.normalizers.push_back({normalizer_step::kind::nfc, {}, {}});
    } else if (type == "Prepend") {
      only_keys(step, {"prepend"});
      record.normalizers.push_back({normalizer_step::kind::prepend, {}, step.at("prepend").string()});
    } else if (type == "Replace") {
      record.normalizers.push_back(replacement(step));
    } else {
      refuse_component(step, "the normalizer '" + type + "'");
    }
  });
}

inline split_step read_split(const json_reader& step) {
  only_keys(step, {"pattern", "behavior", "invert"});
  const json_reader pattern = step.at("pattern");
  if (!pattern.find("Regex")) refuse_component(pattern, "splitting by a plain string");
  const std::string behavior = step.at("behavior").string();
  const bool removes = behavior == "Removed";
  if (behavior != "Isolated" && !removes) refuse_component(step.at("behavior"), "the split behavior '" + behavior + "'");
  const bool inverted = flag(step, "invert", false);
  return {split_step::kind::pattern, pattern.at("Regex").string(), !removes || inverted, !removes || !inverted};
}

inline void read_byte_level(const json_reader& step, tokenizer_record& record) {
  only_keys(step, {"add_prefix_space", "trim_offsets", "use_regex"});
  record.prefix_space = flag(step, "add_prefix_space", true);
  if (record.prefix_space && !record.splits.empty()) refuse_component(step, "'add_prefix_space' of ByteLevel after a split");
  if (flag(step, "use_regex", true)) record.splits.push_back({split_step::kind::byte_level, {}, true, true});
  record.byte_level = true;
}

inline metaspace_step read_metaspace(const json_reader& step) {
  only_keys(step, {"replacement", "str_rep", "add_prefix_space", "prepend_scheme", "split"});
  metaspace_step result;
  result.replacement = step.at("replacement").string();
  if (result.replacement.empty()) step.at("replacement").fail(input_error_code::out_of_range, "must not be empty");
  const auto scheme = step.find("prepend_scheme");
  const std::string name = scheme ? scheme->string() : "always";
  if (name != "always" && name != "first" && name != "never") refuse_component(*scheme, "the scheme '" + name + "'");
  result.scheme = name == "first" ? metaspace_step::prepend::first : metaspace_step::prepend::always;
  if (name == "never" || !flag(step, "add_prefix_space", true)) result.scheme = metaspace_step::prepend::never;
  result.split = flag(step, "split", true);
  return result;
}

inline void read_pre_tokenizer(const json_reader& component, tokenizer_record& record) {
  each_component(component, "pretokenizers", [&](const json_reader& step) {
    const std::string type = component_type(step);
    // both change the characters of a piece; whatever comes after them would split other text than it was written for
    if (record.byte_level || record.metaspace) refuse_component(step, "the pre-tokenizer '" + type + "' after ByteLevel or Metaspace");
    if (type == "Split") {
      record.splits.push_back(read_split(step));
    } else if (type == "Digits") {
      only_keys(step, {"individual_digits"});
      const bool single = flag(step, "individual_digits", false);
      record.splits.push_back({single ? split_step::kind::single_digits : split_step::kind::digits, {}, true, true});
    } else if (type == "ByteLevel") {
      read_byte_level(step, record);
    } else if (type == "Metaspace") {
      if (!record.splits.empty()) refuse_component(step, "the pre-tokenizer 'Metaspace' after a split");
      record.metaspace = read_metaspace(step);
    } else {
      refuse_component(step, "the pre-tokenizer '" + type + "'");
    }
  });
}

inline void read_template(const json_reader& step, tokenizer_record& record) {
  only_keys(step, {"single", "pair", "special_tokens"});
  std::vector<std::int32_t>* side = &record.before;
  for (const json_reader& element : step.at("single").elements()) {
    if (element.find("Sequence")) {
      if (side == &record.after) refuse_component(element, "a template with two texts");
      side = &record.after;
      continue;
    }
    const json_reader token = step.at("special_tokens").at(element.at("SpecialToken").at("id").string());
    for (const json_reader& id : token.at("ids").elements()) side->push_back(static_cast<std::int32_t>(id.integer(0, largest_token_id)));
  }
}

inline void read_post_processor(const json_reader& component, tokenizer_record& record) {
  each_component(component, "processors", [&](const json_reader& step) {
    const std::string type = component_type(step);
    if (type == "TemplateProcessing") return read_template(step, record);
    if (type != "ByteLevel") refuse_component(step, "the post-processor '" + type + "'");  // ByteLevel moves offsets only
  });
}

inline void read_decoder(const json_reader& component, tokenizer_record& record) {
  bool bytes = false;
  bool fused = false;
  if (component.is_null()) refuse_component(component, "a tokenizer without a decoder");
  each_component(component, "decoders", [&](const json_reader& step) {
    const std::string type = component_type(step);
    if (type == "ByteLevel" && !bytes && record.byte_level) {
      bytes = true;
    } else if (!record.byte_level && type == "Replace" && !fused && !record.decoder_bytes) {
      record.decoder_replacements.push_back(replacement(step));
    } else if (!record.byte_level && type == "ByteFallback" && !fused) {
      record.decoder_bytes = true;
    } else if (!record.byte_level && type == "Fuse") {
      fused = true;
    } else if (!record.byte_level && type == "Strip" && fused && record.decoder_strip.empty()) {
      only_keys(step, {"content", "start", "stop"});
      if (step.at("stop").integer(0, 1) != 0) refuse_component(step.at("stop"), "stripping the end of a text");
      record.decoder_strip = step.at("content").string();
      record.decoder_strip_count = static_cast<std::size_t>(step.at("start").integer(0, 1000));
    } else {
      refuse_component(step, "the decoder '" + type + "' here");
    }
  });
  if (record.byte_level && !bytes) refuse_component(component, "a byte-level model without the decoder 'ByteLevel'");
  if (!record.byte_level && !fused) refuse_component(component, "a decoder without 'Fuse'");
}

inline void read_added_tokens(const json_reader& list, const tokenizer_json_handler& read, tokenizer_record& record) {
  for (const json_reader& entry : list.elements()) {
    only_keys(entry, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    added_token token;
    token.id = static_cast<std::int32_t>(entry.at("id").integer(0, largest_token_id));
    token.content = entry.at("content").string();
    token.special = flag(entry, "special", false);
    token.single_word = flag(entry, "single_word", false);
    token.lstrip = flag(entry, "lstrip", false);
    token.rstrip = flag(entry, "rstrip", false);
    token.normalized = flag(entry, "normalized", !token.special);
    const auto known = read.vocabulary.find(token.content);
    if (known != read.vocabulary.end() && known->second != token.id) {
      entry.fail(input_error_code::inconsistent_config, "'" + printable(token.content) + "' has the id " + std::to_string(known->second) +
                                                            " in the vocabulary and another one here", "fetch the file again");
    }
    record.added.push_back(std::move(token));
  }
}

}  // namespace esft::detail
