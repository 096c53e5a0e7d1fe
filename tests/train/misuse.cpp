// SPDX-License-Identifier: Apache-2.0
// What a trainer of somebody's own can get wrong is refused where it is given, and changes nothing.
#include "train/tiny_model.hpp"

#include <esft/backend/reference_backend.hpp>
#include <esft/relevance/scorers/fisher.hpp>
#include <esft/train/recipe.hpp>

#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace misuse_tests {

using backend_type = esft::reference_backend<float>;
using model_type = esft::decoder<backend_type>;

/// The sentence of the broken precondition; empty where none was.
std::string broken(const std::function<void()>& action) {
  try {
    action();
  } catch (const esft::contract_violation& problem) {
    return problem.what();
  }
  return {};
}

std::vector<std::pair<const char*, std::function<void(esft::token_batch&)>>> wrong_batches() {
  return {{"labels [T]", [](esft::token_batch& b) { b.labels.push_back(1); }},  // would count in the mean, and in no gradient
          {"position [T]", [](esft::token_batch& b) { b.position.pop_back(); }},
          {"positions count from 0", [](esft::token_batch& b) { b.position[2] = -1; }},
          {"key_begin [T]", [](esft::token_batch& b) { b.key_begin.clear(); }},
          {"a document begins", [](esft::token_batch& b) { b.key_begin[2] = 3; }},  // a token that sees nothing, itself neither
          {"a document begins", [](esft::token_batch& b) { b.key_begin[2] = -1; }},
          {"sample [T]", [](esft::token_batch& b) { b.sample.clear(); }}};
}

TEST(misuse, a_batch_whose_lists_do_not_fit_together) {
  backend_type backend;
  auto model = tiny::model(backend);
  esft::apply(backend, model.parameters, tiny::some_experts());
  esft::trainer run(backend, model, {});
  const esft::token_batch good = tiny::schedule().batch(0);
  EXPECT_NO_THROW(static_cast<void>(model.evaluate(backend, good)));
  for (const auto& [words, change] : wrong_batches()) {
    esft::token_batch batch = good;
    change(batch);
    EXPECT_THAT(broken([&] { static_cast<void>(model.evaluate(backend, batch)); }), testing::HasSubstr(words));
    EXPECT_THAT(broken([&] { run.step(std::span(&batch, 1)); }), testing::HasSubstr(words));
    EXPECT_THAT(broken([&] { static_cast<void>(esft::restricted(batch, esft::scored_tokens::answer)); }), testing::HasSubstr(words));
  }
  EXPECT_THAT(broken([&] { run.step({}); }), testing::HasSubstr("at least one batch"));  // momentum alone would move the weights
  EXPECT_EQ(run.steps, 0);
  EXPECT_FALSE(run.step(std::span(&good, 1)).skipped);
}

TEST(misuse, something_else_is_trained_than_the_trainer_was_made_for) {
  backend_type backend;
  auto model = tiny::model(backend);
  const esft::token_batch batch = tiny::schedule().batch(0);
  const std::vector<esft::token_batch> batches{batch};
  esft::apply(backend, model.parameters, tiny::some_experts());
  esft::trainer run(backend, model, {});
  EXPECT_FALSE(run.step(std::span(&batch, 1)).skipped);
  static_cast<void>(esft::score_experts<esft::fisher>(backend, model, batches));  // leaves the model frozen
  EXPECT_THAT(broken([&] { run.step(std::span(&batch, 1)); }), testing::HasSubstr("make a new one"));
  esft::trainable_set other;
  other.experts[esft::layer_index{1}] = {esft::expert_index{3}};
  esft::apply(backend, model.parameters, other);
  EXPECT_THAT(broken([&] { run.step(std::span(&batch, 1)); }), testing::HasSubstr("make a new one"));
  EXPECT_EQ(run.steps, 1);
  esft::trainer next(backend, model, {});
  EXPECT_FALSE(next.step(std::span(&batch, 1)).skipped);
}

TEST(misuse, a_schedule_without_a_number) {
  backend_type backend;
  auto model = tiny::model(backend);
  const esft::token_batch batch = tiny::schedule().batch(0);
  esft::apply(backend, model.parameters, tiny::some_experts());
  const auto before = tiny::values(backend, model);
  for (const double factor : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    esft::trainer run(backend, model, {.schedule = [factor](std::int64_t) { return factor; }});
    EXPECT_THROW(run.step(std::span(&batch, 1)), esft::usage_error);
    EXPECT_EQ(run.steps, 0);
  }
  EXPECT_EQ(tiny::values(backend, model), before);
}

TEST(misuse, a_model_that_was_moved_from) {
  backend_type backend;
  auto model = tiny::model(backend);
  const esft::token_batch batch = tiny::schedule().batch(0);
  const model_type moved = std::move(model);
  EXPECT_NO_THROW(static_cast<void>(moved.evaluate(backend, batch)));
  EXPECT_THAT(broken([&] { static_cast<void>(model.evaluate(backend, batch)); }), testing::HasSubstr("moved from"));  // NOLINT
}

TEST(misuse, decoding_beside_the_cache) {
  backend_type backend;
  const auto model = tiny::model(backend);
  auto caches = model.make_cache(backend, 2, 4);
  const auto decode = [&](std::vector<std::int32_t> sequence, std::vector<std::int32_t> position, esft::index capacity) {
    return broken([&] { static_cast<void>(model.decode(backend, caches, capacity, {1, 2}, sequence, position)); });
  };
  EXPECT_EQ(decode({0, 1}, {0, 0}, 4), "");
  EXPECT_THAT(decode({0, 2}, {0, 0}, 4), testing::HasSubstr("as many sequences"));
  EXPECT_THAT(decode({0, -1}, {0, 0}, 4), testing::HasSubstr("as many sequences"));
  EXPECT_THAT(decode({0, 1}, {0, 6}, 8), testing::HasSubstr("as many sequences"));  // another capacity than the cache was made with
  EXPECT_THAT(decode({0, 1}, {0, 4}, 4), testing::HasSubstr("inside the cache"));
  EXPECT_THAT(decode({0}, {0, 0}, 4), testing::HasSubstr("sequence, position [T]"));
  EXPECT_THAT(decode({0, 1}, {0}, 4), testing::HasSubstr("sequence, position [T]"));
}

TEST(misuse, a_shape_that_contradicts_itself) {
  backend_type backend;
  const auto words = [&](const std::function<void(esft::decoder_config&)>& change) {
    esft::decoder_config shape = tiny::config();
    change(shape);
    return broken([&] { static_cast<void>(model_type(backend, shape)); });
  };
  EXPECT_EQ(words([](auto&) {}), "");
  EXPECT_THAT(words([](auto& c) { c.width = 0; }), testing::HasSubstr("a width"));
  EXPECT_THAT(words([](auto& c) { c.moe_layer = {true}; }), testing::HasSubstr("moe_layer"));
  EXPECT_THAT(words([](auto& c) { c.windowed_layer = {true}; }), testing::HasSubstr("windowed_layer"));
  EXPECT_THAT(words([](auto& c) { c.experts = 0; }), testing::HasSubstr("MoE layers"));
  EXPECT_THAT(words([](auto& c) { c.dense_width = 0; }), testing::HasSubstr("dense layers"));
  EXPECT_THAT(words([](auto& c) { c.attention.heads = 0; }), testing::HasSubstr("attention"));
  EXPECT_THAT(words([](auto& c) { c.attention.heads = 3, c.attention.key_value_heads = 2; }), testing::HasSubstr("divides"));
}

}  // namespace misuse_tests
