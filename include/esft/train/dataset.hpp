// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// From the records of a data set file to token samples for training and to prompts with answers for evaluation.

#include <esft/data/conversation.hpp>
#include <esft/io/dataset_file.hpp>

#include <string>
#include <vector>

namespace esft {

namespace detail {
/// The turns of a record as a conversation.
inline conversation turns_of(const dataset_record& record) {
  conversation turns;
  for (const dataset_message& turn : record.messages) turns.push_back({turn.role, turn.content, turn.masked});
  return turns;
}
}  // namespace detail

/// Token samples of every record, with the loss on completions, assistant turns, or all of a plain text.
template <tokenizer Tokenizer>
[[nodiscard]] std::vector<training_sample> render_dataset(const Tokenizer& words, const dataset& records,
                                                          const render_options& options = {}) {
  std::vector<training_sample> samples;
  for (const dataset_record& record : records.records) {
    switch (records.kind) {
      case dataset_kind::text: samples.push_back(render_text(words, record.text)); break;
      case dataset_kind::prompt_completion: samples.push_back(render_pair(words, record.prompt, record.completion, options)); break;
      case dataset_kind::messages: samples.push_back(render_conversation(words, detail::turns_of(record), options)); break;
    }
  }
  return samples;
}

/// What to ask and what should come back.
struct evaluation_prompts {
  std::vector<std::vector<std::int32_t>> prompts;     ///< token ids, begin-of-sequence included
  std::vector<std::vector<std::int32_t>> references;  ///< token ids of the answer, without the end-of-sequence
};

/// Prompts and reference answers: the completion, or the last assistant turn after the turns before it. Empty for plain text.
template <tokenizer Tokenizer>
[[nodiscard]] evaluation_prompts render_prompts(const Tokenizer& words, const dataset& records, const render_options& options = {}) {
  evaluation_prompts result;
  for (const dataset_record& record : records.records) {
    if (records.kind == dataset_kind::prompt_completion) {
      result.prompts.push_back(render_prompt(words, record.prompt, options));
      result.references.push_back(words.encode(record.completion));
    } else if (records.kind == dataset_kind::messages && !record.messages.empty() && record.messages.back().role == "assistant") {
      conversation before = detail::turns_of(record);
      before.pop_back();
      result.prompts.push_back(render_prompt(words, before, options));
      result.references.push_back(render_answer(words, record.messages.back().content, options));
    }
  }
  return result;
}

}  // namespace esft
