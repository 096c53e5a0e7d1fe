// SPDX-License-Identifier: Apache-2.0
/// @file
/// `esft stability`: how many tokens of a task it takes until another sample would have chosen the same experts.

#include "../command.hpp"
#include "../inputs.hpp"
#include "../number_checks.hpp"

#include <esft/analysis/sample_stability.hpp>
#include <esft/relevance/scorers.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

namespace esft::tool {
namespace {

struct stability_options {
  engine_request model;
  std::filesystem::path data;
  std::string scorer{token_selection_ratio::name};
  std::size_t k = 0;
  std::size_t first_tokens = 512;
  std::uint64_t seed = 0;
  std::string chat = "esft";
  std::size_t rows = 8;
  std::size_t length = 256;
};

/// Lets a group show records to a scorer that stays where it is.
template <class Scorer>
struct lent_scorer {
  static constexpr std::string_view name = Scorer::name;
  Scorer* scorer = nullptr;

  template <class Record>
    requires observes<Scorer, Record>
  void observe(const Record& record) { scorer->observe(record); }
  void merge(const lent_scorer& other) { scorer->merge(*other.scorer); }
  [[nodiscard]] score_table scores() const { return scorer->scores(); }
};

/// Documents of two samples that share none, in chunks: the first holds about `tokens`, each later one about as many as all before it, so
/// that samples double. What does not fill a chunk of both is left out.
using sample_chunks = std::vector<std::vector<training_sample>>;
std::array<sample_chunks, 2> two_samples(std::vector<training_sample> documents, std::size_t tokens, std::uint64_t seed) {
  shuffle(documents, counter_rng(seed, rng_stream::shuffle));
  std::array<std::vector<training_sample>, 2> halves;
  for (std::size_t i = 0; i < documents.size(); ++i) halves[i % 2].push_back(std::move(documents[i]));
  std::array<sample_chunks, 2> result;
  for (std::size_t half = 0; half < 2; ++half) {
    std::size_t next = 0;
    for (std::size_t wanted = tokens, all = 0; next < halves[half].size();) {
      std::vector<training_sample> chunk;
      std::size_t held = 0;
      while (held < wanted && next < halves[half].size()) {
        held += halves[half][next].tokens.size();
        chunk.push_back(std::move(halves[half][next++]));
      }
      if (held < wanted) break;
      result[half].push_back(std::move(chunk));
      all += held;
      wanted = all;
    }
  }
  const std::size_t both = std::min(result[0].size(), result[1].size());
  for (sample_chunks& chunks : result) chunks.resize(both);
  return result;
}

std::vector<stability_point> stability_of(engine& model, const stability_options& options, const any_tokenizer& words,
                                          std::array<sample_chunks, 2> samples) {
  std::vector<stability_point> curve;
  visit_by_name(builtin_scorers{}, options.scorer, [&]<class Scorer>() {
    if constexpr (!observes<Scorer, routing_record> && !observes<Scorer, expert_output_record> &&
                  !observes<Scorer, expert_gradient_record>) {
      throw usage_error("--scorer " + options.scorer + " reads the weights only: every sample gives the same");
    } else {
      std::array<std::vector<Scorer>, 2> scorers;
      progress bar("stability", static_cast<std::int64_t>(2 * samples[0].size()), "chunks");
      std::int64_t done = 0;
      for (std::size_t half = 0; half < 2; ++half) {
        for (std::vector<training_sample>& chunk : samples[half]) {
          Scorer& scorer = scorers[half].emplace_back(scorer_options{});
          scorer_group group;
          group.add(lent_scorer<Scorer>{&scorer});
          const evaluation_batches<> batches(std::move(chunk), {.length = options.length}, options.rows, words.pad);
          model.observe({batches.size(), [&batches](std::size_t i) { return batches[i]; }}, group, {});
          bar.update(++done);
        }
      }
      curve = sample_stability<Scorer>(scorers[0], scorers[1], options.k);
    }
  });
  return curve;
}

void measure_stability(stability_options options) {
  const dataset records = open_dataset(options.data);
  const std::unique_ptr<engine> model = open_engine(options.model);
  const any_tokenizer words = tokenizer_of(options.model);
  const auto experts = static_cast<std::size_t>(model->config().experts);
  if (options.k == 0) options.k = static_cast<std::size_t>(model->config().active);
  if (options.k > experts) throw usage_error("--k " + std::to_string(options.k) + ": a layer has " + std::to_string(experts) + " experts");
  std::array<sample_chunks, 2> samples =
      two_samples(render_dataset(words, records, {.chat = options.chat}), options.first_tokens, options.seed);
  if (samples[0].empty()) {
    throw usage_error(options.data.string() + " holds less than two samples of " + std::to_string(options.first_tokens) +
                      " tokens: give a smaller --first-tokens, or more data");
  }
  const double chance = shared_by_chance(options.k, experts);
  text_table rows({"tokens", "shared of " + std::to_string(options.k), "share"});
  json_value points = json_array();
  for (const stability_point& point : stability_of(*model, options, words, std::move(samples))) {
    rows.add({grouped(point.tokens), fixed(point.shared, 3), fixed(point.shared / static_cast<double>(options.k), 3)});
    json_value one = json_object();
    one.add("tokens", point.tokens).add("shared", point.shared);
    points.push(std::move(one));
  }
  for (const std::string& line : rows.lines()) out().line(line);
  out().line("tokens of each of two samples that share no document; of their " + std::to_string(options.k) + " highest " + options.scorer +
             " scores a layer, chance would share " + fixed(chance, 3));
  json_value result = json_object();
  result.add("scorer", options.scorer).add("k", options.k).add("by_chance", chance).add("points", std::move(points));
  out().result(result);
}

}  // namespace

void add_stability(CLI::App& app) {
  auto options = std::make_shared<stability_options>();
  CLI::App* command = app.add_subcommand("stability", "Measure how many tokens it takes until another sample chooses the same experts");
  add_model_options(*command, options->model);
  command->add_option("--data", options->data, "JSONL of the task; two samples that share no document are drawn from it")->required();
  command->add_option("--scorer", options->scorer, "what makes an expert relevant")->check(CLI::IsMember(names_of(builtin_scorers{})))->capture_default_str();
  command->add_option("--k", options->k, "highest experts of a layer that are compared; default: as many as a token takes");
  command->add_option("--first-tokens", options->first_tokens, "size of the smallest samples; each next size is about twice as large")
      ->check(positive_number)
      ->capture_default_str();
  command->add_option("--seed", options->seed, "of the samples")->capture_default_str();
  command->add_option("--batch-rows", options->rows, "rows of a batch")->check(positive_number)->capture_default_str();
  command->add_option("--length", options->length, "tokens a row")->check(positive_number)->capture_default_str();
  add_chat_option(*command, options->chat);
  command->callback([options] { measure_stability(*options); });
}

}  // namespace esft::tool
