// SPDX-License-Identifier: Apache-2.0
// What scorers are shown of a model: the right gradients, only the tokens that count, and no pass that nobody reads.
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/relevance/scorers.hpp>
#include <esft/train/recipe.hpp>
#include <esft/train/scoring.hpp>

#include <cmath>
#include <stdexcept>

#include <gtest/gtest.h>

namespace scoring_tests {

using backend_type = esft::reference_backend<double>;
using model_type = esft::decoder<backend_type>;
using esft::layer_index;
using esft::scored_tokens;

/// Batches of the tiny task, or an error where nobody should ask for them.
struct task {
  esft::evaluation_batches<> batches{tiny::documents(6), {.length = 16}, 2, 21};
  bool forbidden = false;
  mutable std::size_t asked = 0;
  [[nodiscard]] std::size_t size() const { return batches.size(); }
  [[nodiscard]] esft::token_batch operator[](std::size_t i) const {
    if (forbidden) throw std::logic_error("no scorer needs data");
    ++asked;
    return batches[i];
  }
};

std::vector<double> scores_of(const esft::scorer_group& scorers, const std::string& name, std::int32_t layer) {
  return scorers.scores().at(name).layers.at(layer_index{layer}).scores;
}

/// Mean loss over the tokens that carry loss in every batch, as a pass for gradients sees it.
std::vector<double> mean_losses(backend_type& b, const model_type& model, const task& data, scored_tokens which) {
  std::vector<double> losses;
  for (std::size_t i = 0; i < data.size(); ++i) {
    const auto pass = model.evaluate(b, esft::restricted(data[i], which));
    losses.push_back(pass.loss / static_cast<double>(pass.labelled));
  }
  return losses;
}

TEST(gate_rows_first, takes_rows_that_lie_in_turn_apart) {
  EXPECT_EQ(esft::detail::gate_rows_first({1, 2, 10, 20, 3, 4, 30, 40}, 2), (std::vector<float>{1, 2, 3, 4, 10, 20, 30, 40}));
}

TEST(restricted, marks_the_tokens_that_count) {
  constexpr std::int32_t none = esft::ignored_label;
  // two documents and two tokens of padding; the first document's prompt carries no loss
  const esft::token_batch batch{{5, 6, 7, 8, 1, 2, 0, 0},
                                {none, 7, 8, none, 2, none, none, none},
                                {0, 1, 2, 3, 0, 1, 0, 1},
                                {0, 0, 0, 0, 4, 4, 6, 6},
                                {0, 0, 0, 0, 1, 1, -1, -1}};
  const auto answer = esft::restricted(batch, scored_tokens::answer);
  EXPECT_EQ(answer.sample, (std::vector<std::int32_t>{-1, 0, 0, -1, 1, -1, -1, -1}));
  EXPECT_EQ(answer.labels, batch.labels);
  const auto all = esft::restricted(batch, scored_tokens::all);
  EXPECT_EQ(all.sample, batch.sample);
  EXPECT_EQ(all.labels, (std::vector<std::int32_t>{6, 7, 8, none, 2, none, none, none}));
  for (const auto& result : {answer, all}) {
    EXPECT_EQ(result.tokens, batch.tokens);
    EXPECT_EQ(result.key_begin, batch.key_begin);
  }
}

class scoring : public ::testing::TestWithParam<scored_tokens> {};
INSTANTIATE_TEST_SUITE_P(tokens, scoring, ::testing::Values(scored_tokens::all, scored_tokens::answer),
                         [](const auto& info) { return info.param == scored_tokens::all ? "all" : "answer"; });

TEST_P(scoring, counts_real_tokens_only) {
  backend_type b;
  auto model = tiny::model(b);
  const task data;
  std::int64_t real = 0;
  std::int64_t answers = 0;
  for (std::size_t i = 0; i < data.size(); ++i) {
    const auto batch = data[i];
    for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
      real += batch.sample[t] >= 0 ? 1 : 0;
      answers += batch.labels[t] != esft::ignored_label ? 1 : 0;
    }
  }
  ASSERT_LT(answers, real);
  esft::scorer_group scorers;
  esft::builtin_scorers::for_each([&]<class S>() { scorers.add(S(esft::scorer_options{})); });
  esft::observe_task(b, model, data, scorers, {.tokens = GetParam()});
  const auto scores = scorers.scores();
  EXPECT_EQ(scores.size(), esft::builtin_scorers::size);
  for (const char* name : {"token", "gate", "weighted-frequency", "output-norm", "reap"}) {
    EXPECT_EQ(scores.at(name).tokens, GetParam() == scored_tokens::all ? real : answers) << name;
  }
  for (const auto& [name, table] : scores) {
    EXPECT_EQ(table.layers.size(), 2U) << name;
    for (const auto& [layer, content] : table.layers) EXPECT_EQ(content.scores.size(), 6U) << name;
  }
}

TEST_P(scoring, taylor_is_the_change_of_the_loss_when_an_expert_is_scaled) {
  backend_type b;
  auto model = tiny::model(b);
  const task data;
  esft::scorer_group scorers;
  scorers.add(esft::taylor());
  esft::observe_task(b, model, data, scorers, {.tokens = GetParam()});
  constexpr double step = 1e-5;
  for (const std::int32_t layer : {1, 2}) {
    auto& p = model.parameters.blocks[static_cast<std::size_t>(layer)].moe;
    const auto got = scores_of(scorers, "taylor", layer);
    for (esft::index e = 0; e < 6; ++e) {
      const auto scaled = [&](double factor) {
        for (auto elements : {p.gate_up.value.view()[e].flat(), p.down.value.view()[e].flat()}) {
          for (esft::index i = 0; i < elements.size(); ++i) elements[i] *= factor;
        }
      };
      const auto at = [&](double factor) {
        scaled(factor);
        auto losses = mean_losses(b, model, data, GetParam());
        scaled(1 / factor);
        return losses;
      };
      const auto above = at(1 + step);
      const auto below = at(1 - step);
      double wanted = 0;
      for (std::size_t i = 0; i < above.size(); ++i) {
        wanted += std::abs(above[i] - below[i]) / (2 * step) / static_cast<double>(above.size());
      }
      EXPECT_NEAR(got[static_cast<std::size_t>(e)], wanted, 1e-8 + 1e-5 * wanted) << "layer " << layer << " expert " << e;
    }
  }
}

TEST_P(scoring, fisher_and_gradient_are_of_central_differences) {
  backend_type b;
  auto model = tiny::model(b);
  const task data;
  esft::scorer_group scorers;
  scorers.add(esft::fisher());
  scorers.add(esft::gradient_magnitude());
  esft::observe_task(b, model, data, scorers, {.tokens = GetParam()});
  constexpr double step = 1e-5;
  const std::int32_t layer = 1;
  const esft::index e = 2;
  auto& p = model.parameters.blocks[1].moe;
  double squares = 0;
  double magnitudes = 0;
  double count = 0;
  for (auto elements : {p.gate_up.value.view()[e].flat(), p.down.value.view()[e].flat()}) {
    for (esft::index i = 0; i < elements.size(); ++i) {
      const double kept = elements[i];
      elements[i] = kept + step;
      const auto above = mean_losses(b, model, data, GetParam());
      elements[i] = kept - step;
      const auto below = mean_losses(b, model, data, GetParam());
      elements[i] = kept;
      for (std::size_t n = 0; n < above.size(); ++n) {
        const double gradient = (above[n] - below[n]) / (2 * step);
        squares += gradient * gradient;
        magnitudes += std::abs(gradient);
      }
      ++count;
    }
  }
  count *= static_cast<double>(data.size());
  ASSERT_GT(squares, 0) << "the expert is used";
  EXPECT_NEAR(scores_of(scorers, "fisher", layer)[2], squares / count, 1e-5 * squares / count);
  EXPECT_NEAR(scores_of(scorers, "gradient", layer)[2], magnitudes / count, 1e-5 * magnitudes / count);
}

TEST(scoring_passes, are_those_that_somebody_reads) {
  backend_type b;
  auto model = tiny::model(b);
  const std::size_t batches = task().size();
  ASSERT_GT(batches, 1U);
  const auto asked = [&](esft::scorer_group& scorers, const esft::scoring_options& options = {}) {
    const task data;
    esft::observe_task(b, model, data, scorers, options);
    EXPECT_EQ(data.asked, batches * esft::passes_over_data(scorers, 2, options));
    return data.asked / batches;
  };
  esft::scorer_group weights;
  weights.add(esft::condition_number());
  EXPECT_EQ(asked(weights), 0U);
  esft::scorer_group forward;
  forward.add(esft::token_selection_ratio());
  forward.add(esft::reap());
  EXPECT_EQ(asked(forward), 1U);
  esft::scorer_group everything;
  everything.add(esft::reap());
  everything.add(esft::fisher());
  everything.add(esft::taylor());
  EXPECT_EQ(asked(everything), 2U);
  EXPECT_EQ(asked(everything, {.layers_at_once = 1}), 3U);
  EXPECT_EQ(asked(everything, {.layers_at_once = 9}), 2U);
}

TEST(scoring_passes, layers_apart_or_together_give_the_same_bits) {
  backend_type b;
  auto model = tiny::model(b);
  const auto scores = [&](std::size_t layers_at_once) {
    esft::scorer_group scorers;
    scorers.add(esft::fisher());
    esft::observe_task(b, model, task(), scorers, {.layers_at_once = layers_at_once});
    return std::vector{scores_of(scorers, "fisher", 1), scores_of(scorers, "fisher", 2)};
  };
  EXPECT_EQ(scores(1), scores(0));
}

TEST(scoring_passes, leave_the_weights_alone_and_the_model_frozen) {
  backend_type b;
  auto model = tiny::model(b);
  const auto before = tiny::values(b, model);
  const auto frozen = [&] {
    bool none = true;
    esft::for_each_parameter(model.parameters, [&](esft::parameter_key, const auto& w) { none = none && !w.trained(); });
    return none;
  };
  esft::scorer_group scorers;
  scorers.add(esft::fisher());
  esft::observe_task(b, model, task(), scorers);
  EXPECT_EQ(tiny::values(b, model), before);
  EXPECT_TRUE(frozen());
  task broken;
  broken.forbidden = true;
  EXPECT_THROW(esft::observe_task(b, model, broken, scorers), std::logic_error);
  EXPECT_TRUE(frozen()) << "whatever ended the passes";
}

TEST(scoring_passes, batches_without_learned_tokens_are_left_out) {
  backend_type b;
  auto model = tiny::model(b);
  const task data;
  const auto fisher = [&](const std::vector<esft::token_batch>& batches) {
    esft::scorer_group scorers;
    scorers.add(esft::fisher());
    esft::observe_task(b, model, batches, scorers, {.tokens = scored_tokens::answer});
    return scores_of(scorers, "fisher", 1);
  };
  esft::token_batch unlearned = data[1];
  std::fill(unlearned.labels.begin(), unlearned.labels.end(), esft::ignored_label);
  EXPECT_EQ(fisher({data[0], unlearned}), fisher({data[0]}));
  EXPECT_THROW(static_cast<void>(fisher({unlearned})), esft::error);
}

TEST(scoring_outputs, grow_with_the_experts_that_speak_louder) {
  backend_type b;
  auto model = tiny::model(b);
  const auto norms = [&] {
    esft::scorer_group scorers;
    scorers.add(esft::output_norm());
    esft::observe_task(b, model, task(), scorers);
    return scores_of(scorers, "output-norm", 2);
  };
  const auto before = norms();
  auto elements = model.parameters.blocks[2].moe.down.value.view()[3].flat();
  for (esft::index i = 0; i < elements.size(); ++i) elements[i] *= 4;
  const auto after = norms();
  for (std::size_t e = 0; e < 6; ++e) EXPECT_EQ(after[e], e == 3 ? 4 * before[e] : before[e]) << e;
  EXPECT_GT(before[3], 0);
}

TEST(scoring_routing, is_what_the_recipe_scores) {
  backend_type b;
  auto model = tiny::model(b);
  const task data;
  esft::scorer_group scorers;
  scorers.add(esft::token_selection_ratio());
  scorers.add(esft::average_gate_score());
  esft::observe_task(b, model, data, scorers);
  const auto token = esft::score_experts<esft::token_selection_ratio>(b, model, data);
  const auto gate = esft::score_experts(b, model, data, esft::average_gate_score(esft::scorer_options{}));
  for (const std::int32_t layer : {1, 2}) {
    EXPECT_EQ(scores_of(scorers, "token", layer), token.layers.at(layer_index{layer}).scores);
    EXPECT_EQ(scores_of(scorers, "gate", layer), gate.layers.at(layer_index{layer}).scores);
  }
}

TEST(scoring_routing, the_recipe_takes_scorers_that_need_more_than_routing) {
  backend_type b;
  auto model = tiny::model(b);
  const task data;
  esft::scorer_group scorers;
  scorers.add(esft::taylor());
  scorers.add(esft::condition_number());
  esft::observe_task(b, model, data, scorers);
  const auto gradients = esft::score_experts<esft::taylor>(b, model, data);
  const auto weights = esft::score_experts<esft::condition_number>(b, model, data);
  for (const std::int32_t layer : {1, 2}) {
    EXPECT_EQ(scores_of(scorers, "taylor", layer), gradients.layers.at(layer_index{layer}).scores);
    EXPECT_EQ(scores_of(scorers, "condition", layer), weights.layers.at(layer_index{layer}).scores);
  }
}

}  // namespace scoring_tests
