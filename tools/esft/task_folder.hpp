// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// A folder of tasks (NAME.train.jsonl, NAME.test.jsonl) and of probes for forgetting (probe.NAME.jsonl), as data of comparisons.

#include "engine.hpp"

#include <esft/data/batch.hpp>
#include <esft/data/packing.hpp>
#include <esft/io/dataset_file.hpp>
#include <esft/train/arm.hpp>
#include <esft/train/dataset.hpp>
#include <esft/train/open_tokenizer.hpp>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace esft::tool {

/// "3:1" -> {3, 1}. @throws usage_error beginning with `where`
[[nodiscard]] inline std::vector<std::uint32_t> mix_weights(const std::string& text, const std::string& where) {
  std::vector<std::uint32_t> weights(2);
  const std::size_t colon = text.find(':');
  const auto read = [&](std::string_view part, std::uint32_t& out_weight) {
    const auto [end, problem] = std::from_chars(part.data(), part.data() + part.size(), out_weight);
    return problem == std::errc{} && end == part.data() + part.size() && !part.empty() && out_weight <= 1000;
  };
  const std::string_view view(text);
  if (colon == std::string::npos || !read(view.substr(0, colon), weights[0]) || !read(view.substr(colon + 1), weights[1]) ||
      weights[0] == 0) {
    throw usage_error(where + " is rows of the task to rows of alignment data, such as 3:1, each at most 1000; not '" + text + "'");
  }
  return weights;
}

/// Reads what comparisons need. Task records are prompt and completion, those of probes plain text.
struct task_folder {
  std::filesystem::path path;
  any_tokenizer words;
  std::size_t rows = 8;      ///< of a batch
  std::size_t length = 256;  ///< tokens of a row

  [[nodiscard]] packing_options packing() const { return {length, packing_mode::whole, long_document::divide}; }
  [[nodiscard]] std::vector<training_sample> samples(const std::string& file) const {
    return render_dataset(words, read_dataset(path / file));
  }
  /// The first documents of a file that hold about so many tokens.
  [[nodiscard]] std::vector<training_sample> some_samples(const std::string& file, std::size_t tokens) const {
    auto all = samples(file);
    std::size_t seen = 0;
    std::size_t kept = 0;
    while (kept < all.size() && seen < tokens) seen += all[kept++].tokens.size();
    all.resize(kept);
    return all;
  }
  [[nodiscard]] evaluation_batches<> batches(std::vector<training_sample> of) const { return {std::move(of), packing(), rows, words.pad}; }
  /// A task whose training data come in the order of a seed; with `alignment`, mixed with rows of that file by weight.
  [[nodiscard]] task_data task(const std::string& name, std::uint64_t seed, const std::string& alignment = {},
                               const std::vector<std::uint32_t>& mix = {1}) const {
    std::vector<packed_dataset<>> sets;
    sets.emplace_back(samples(name + ".train.jsonl"), packing(), seed, 0);
    if (!alignment.empty()) sets.emplace_back(samples(alignment), packing(), seed, 1);
    task_data result{name,
                     batch_schedule<>(std::move(sets), mixing_schedule(mix, seed), rows, words.pad),
                     batches(samples(name + ".test.jsonl")),
                     {},
                     {},
                     words.eos};
    evaluation_prompts asked = render_prompts(words, read_dataset(path / (name + ".test.jsonl")));
    result.prompts = std::move(asked.prompts);
    result.references = std::move(asked.references);
    return result;
  }
};

/// Batches as an engine takes them. @pre the batches live as long as the result
inline batch_sequence sequence_of(const evaluation_batches<>& batches) {
  return {batches.size(), [&batches](std::size_t i) { return batches[i]; }};
}

}  // namespace esft::tool
