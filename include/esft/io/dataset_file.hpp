// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// JSONL datasets: conversations, prompt/completion pairs or plain text, told apart by their keys.

#include <esft/io/jsonl.hpp>
#include <esft/io/line_reader.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace esft {

/// What the records of a dataset are.
enum class dataset_kind : std::uint8_t {
  messages,           ///< {"messages": [{"role": ..., "content": ...}, ...]}
  prompt_completion,  ///< {"prompt": ..., "completion": ...}
  text,               ///< {"text": ...}
};

/// One turn of a conversation.
struct dataset_message {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
  bool masked = false;  ///< an assistant turn that is context only ("mask": 1 in the official files)
  friend bool operator==(const dataset_message&, const dataset_message&) = default;
};

/// One record; which members are filled depends on the kind of the dataset.
struct dataset_record {
  std::vector<dataset_message> messages;
  std::string prompt;
  std::string completion;
  std::string text;
  std::optional<std::string> label;  ///< expected answer for exact match, where the file gives one
  std::uint64_t line = 0;            ///< counted from 1
};

/// A dataset in memory.
struct dataset {
  dataset_kind kind{};
  std::vector<dataset_record> records;
  std::size_t skipped = 0;     ///< malformed records that were left out
  std::string first_problem;   ///< why the first of them was; empty if there is none
};

/// What to do with a malformed record.
enum class bad_record_policy : std::uint8_t { error, skip };

namespace detail {

inline std::optional<dataset_kind> kind_of_record(const json_reader& record) {
  if (record.find("messages")) return dataset_kind::messages;
  if (record.find("prompt") && record.find("completion")) return dataset_kind::prompt_completion;
  if (record.find("text")) return dataset_kind::text;
  return std::nullopt;
}

inline const std::string& non_empty(const json_reader& value) {
  if (value.string().empty()) value.fail(input_error_code::bad_record, "is empty");
  return value.string();
}

inline dataset_message parse_message(const json_reader& turn) {
  static constexpr std::array<std::string_view, 3> roles = {"system", "user", "assistant"};
  dataset_message message{turn.at("role").string(), turn.at("content").string(), false};
  if (std::find(roles.begin(), roles.end(), message.role) == roles.end()) {
    turn.at("role").fail(input_error_code::bad_record, "must be system, user or assistant");
  }
  if (const auto mask = turn.find("mask")) message.masked = mask->integer(0, 1) == 1;
  return message;
}

inline dataset_record parse_dataset_record(const json_reader& record, dataset_kind kind) {
  dataset_record result;
  if (kind == dataset_kind::messages) {
    const json_reader turns = record.at("messages");
    bool any_target = false;
    for (const json_reader& turn : turns.elements()) {
      result.messages.push_back(parse_message(turn));
      const dataset_message& message = result.messages.back();
      any_target = any_target || (message.role == "assistant" && !message.masked && !message.content.empty());
    }
    if (!any_target) turns.fail(input_error_code::bad_record, "no assistant turn to learn from");
  } else if (kind == dataset_kind::prompt_completion) {
    result.prompt = record.at("prompt").string();
    result.completion = non_empty(record.at("completion"));
  } else {
    result.text = non_empty(record.at("text"));
  }
  if (const auto label = record.find("label")) result.label = label->string();
  return result;
}

}  // namespace detail

/// Reads a JSONL dataset. Its kind is that of its first well-formed record; a record of another kind is malformed.
/// Unknown keys are ignored: datasets carry ids and sources.
/// @throws input_error naming file and line, for the first malformed record or, under `skip`, when no record is left
/// @cost the text of all records in memory
inline dataset read_dataset(const std::filesystem::path& path, bad_record_policy policy = bad_record_policy::error) {
  dataset result;
  line_reader lines(path);
  while (lines.next()) {
    if (lines.line().find_first_not_of(" \t") == std::string::npos) continue;
    try {
      const json_value tree = parse_json_line(lines);
      const json_reader record(tree, lines.place().file);
      const auto kind = detail::kind_of_record(record);
      if (!kind)
        record.fail(input_error_code::missing_key, "neither 'messages', nor 'prompt' and 'completion', nor 'text'", "rename the fields");
      if (!result.records.empty() && *kind != result.kind)
        record.fail(input_error_code::bad_record, "another kind of record than the first one", "split the file");
      dataset_record parsed = detail::parse_dataset_record(record, *kind);
      parsed.line = lines.number();
      result.kind = *kind;
      result.records.push_back(std::move(parsed));
    } catch (const input_error& problem) {
      if (policy == bad_record_policy::error) throw;
      if (result.skipped++ == 0) result.first_problem = problem.what();
    }
  }
  if (result.records.empty()) {
    throw input_error(input_error_code::nothing_to_load, {path.string(), {}, {}},
                      "no usable record" + (result.skipped > 0 ? ": " + result.first_problem : ""),
                      "give a JSONL file with one record a line");
  }
  return result;
}

}  // namespace esft
