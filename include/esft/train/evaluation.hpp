// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Evaluation: loss and perplexity over packed batches, greedy generation with a key-value cache, exact match.

#include <esft/core/error.hpp>
#include <esft/core/token_batch.hpp>
#include <esft/model/decoder.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <string>
#include <vector>

namespace esft {

/// Loss over labelled tokens.
struct loss_result {
  double loss = 0;             ///< mean cross-entropy @unit nats per labelled token; 0 where nothing is labelled
  std::int64_t labelled = 0;

  [[nodiscard]] double perplexity() const { return std::exp(loss); }
};

/// Mean loss over a sequence of batches. `batches` has `size()` and `operator[]`.
template <class Model, class Batches>
[[nodiscard]] loss_result evaluate_loss(typename Model::backend_type& backend, const Model& model, const Batches& batches,
                                        const routing_observer& observer = {}) {
  loss_result result;
  double sum = 0;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    const pass_result pass = model.evaluate(backend, batches[i], observer);
    sum += pass.loss;
    result.labelled += pass.labelled;
  }
  if (result.labelled > 0) result.loss = sum / static_cast<double>(result.labelled);
  return result;
}

/// What each token of one sequence says of the next one, in host memory. @shape result [T, V]
/// @throws usage_error for an id outside the vocabulary
template <class Model>
[[nodiscard]] std::vector<float> sequence_logits(typename Model::backend_type& backend, const Model& model,
                                                 const std::vector<std::int32_t>& ids) {
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < model.config.vocabulary) continue;
    throw usage_error("token " + std::to_string(id) + " is outside the vocabulary of " + std::to_string(model.config.vocabulary));
  }
  if (ids.empty()) return {};
  std::vector<std::int32_t> position(ids.size());
  std::iota(position.begin(), position.end(), 0);
  const auto length = static_cast<index>(ids.size());
  auto caches = model.make_cache(backend, 1, length);
  return model.decode(backend, caches, length, ids, std::vector<std::int32_t>(ids.size(), 0), position);
}

/// Continues prompts greedily (ties to the lower id) until `stop` or `max_new_tokens`; the stop token is not part of the answer.
/// Prompts are decoded side by side. @pre no prompt is empty
/// @shape result: one token list per prompt
template <class Model>
[[nodiscard]] std::vector<std::vector<std::int32_t>> generate_greedy(typename Model::backend_type& backend, const Model& model,
                                                                     std::span<const std::vector<std::int32_t>> prompts, std::int32_t stop,
                                                                     index max_new_tokens) {
  std::vector<std::vector<std::int32_t>> answers(prompts.size());
  if (prompts.empty() || max_new_tokens <= 0) return answers;
  std::size_t longest = 0;
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> sequence;
  std::vector<std::int32_t> position;
  std::vector<std::size_t> last;  // index of each sequence's newest token
  for (std::size_t p = 0; p < prompts.size(); ++p) {
    ESFT_EXPECTS(!prompts[p].empty(), "a prompt has at least one token");
    longest = std::max(longest, prompts[p].size());
    for (std::size_t i = 0; i < prompts[p].size(); ++i) {
      tokens.push_back(prompts[p][i]);
      sequence.push_back(static_cast<std::int32_t>(p));
      position.push_back(static_cast<std::int32_t>(i));
    }
    last.push_back(tokens.size() - 1);
  }
  const index capacity = static_cast<index>(longest) + max_new_tokens;
  auto caches = model.make_cache(backend, static_cast<index>(prompts.size()), capacity);
  std::vector<std::int32_t> length(prompts.size());
  for (std::size_t p = 0; p < prompts.size(); ++p) length[p] = static_cast<std::int32_t>(prompts[p].size());
  std::vector<std::size_t> alive(prompts.size());
  for (std::size_t p = 0; p < alive.size(); ++p) alive[p] = p;

  for (index produced = 0; produced < max_new_tokens && !alive.empty(); ++produced) {
    const std::vector<float> logits = model.decode(backend, caches, capacity, tokens, sequence, position);
    const auto vocabulary = static_cast<std::ptrdiff_t>(model.config.vocabulary);
    std::vector<std::size_t> still_alive;
    std::vector<std::int32_t> next_tokens;
    sequence.clear();
    position.clear();
    for (std::size_t a = 0; a < alive.size(); ++a) {
      const auto row = logits.begin() + static_cast<std::ptrdiff_t>(last[a]) * vocabulary;
      const auto token = static_cast<std::int32_t>(std::max_element(row, row + vocabulary) - row);
      const std::size_t p = alive[a];
      if (token == stop) continue;
      answers[p].push_back(token);
      still_alive.push_back(p);
      next_tokens.push_back(token);
      sequence.push_back(static_cast<std::int32_t>(p));
      position.push_back(length[p]++);
    }
    alive = std::move(still_alive);
    tokens = std::move(next_tokens);
    last.resize(alive.size());
    for (std::size_t a = 0; a < last.size(); ++a) last[a] = a;
  }
  return answers;
}

/// Share of prompts whose greedy answer equals the reference token for token. Prompts are decoded in groups to bound memory.
template <class Model>
[[nodiscard]] double exact_match(typename Model::backend_type& backend, const Model& model,
                                 std::span<const std::vector<std::int32_t>> prompts, std::span<const std::vector<std::int32_t>> references,
                                 std::int32_t stop, std::size_t group = 64) {
  ESFT_EXPECTS(prompts.size() == references.size() && !prompts.empty(), "one reference per prompt");
  std::size_t correct = 0;
  for (std::size_t begin = 0; begin < prompts.size(); begin += group) {
    const std::size_t count = std::min(group, prompts.size() - begin);
    std::size_t longest = 0;
    for (std::size_t i = 0; i < count; ++i) longest = std::max(longest, references[begin + i].size());
    const auto answers = generate_greedy(backend, model, prompts.subspan(begin, count), stop, static_cast<index>(longest) + 1);
    for (std::size_t i = 0; i < count; ++i) correct += static_cast<std::size_t>(answers[i] == references[begin + i]);
  }
  return static_cast<double>(correct) / static_cast<double>(prompts.size());
}

}  // namespace esft
