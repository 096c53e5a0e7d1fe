// SPDX-License-Identifier: Apache-2.0
#include <esft/data.hpp>

#include "data/samples.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace batch_tests {

const esft::byte_tokenizer words;

std::vector<esft::training_sample> texts(std::size_t count, char letter = 'a') {
  std::vector<esft::training_sample> samples;
  for (std::size_t i = 0; i < count; ++i) samples.push_back(esft::render_text(words, std::string(3 + i % 5, letter) + std::to_string(i)));
  return samples;
}

esft::batch_schedule<> mixed(std::uint64_t seed) {
  const esft::packing_options options{.length = 16};
  std::vector<esft::packed_dataset<>> sets;
  sets.emplace_back(texts(23, 'a'), options, seed, 0);
  sets.emplace_back(texts(11, 'b'), options, seed, 1);
  return {std::move(sets), esft::mixing_schedule({2, 1}, seed), 4, words.pad};
}

TEST(batch_schedule, a_batch_is_a_function_of_seed_and_step_and_not_of_what_was_asked_before) {
  const auto forward = mixed(9);
  std::vector<esft::token_batch> seen;
  for (std::uint64_t step = 0; step < 40; ++step) seen.push_back(forward.batch(step));

  const auto fresh = mixed(9);
  EXPECT_TRUE(rc::check("batches in any order", [&] {
    const auto step = *rc::gen::inRange<std::uint64_t>(0, 40);
    RC_ASSERT(data_test::same(fresh.batch(step), seen[step]));
  }));
  bool differs = false;
  const auto other = mixed(10);
  for (std::uint64_t step = 0; step < 40; ++step) differs = differs || !data_test::same(other.batch(step), seen[step]);
  EXPECT_TRUE(differs);
}

TEST(batch_schedule, has_the_shape_it_says_and_mixes_in_the_ratio_it_was_given) {
  const auto schedule = mixed(3);
  std::size_t of_a = 0;
  std::size_t of_b = 0;
  for (std::uint64_t step = 0; step < 30; ++step) {
    const auto batch = schedule.batch(step);
    ASSERT_EQ(batch.tokens.size(), schedule.tokens_per_batch());
    for (std::size_t r = 0; r < schedule.rows_per_batch(); ++r) {
      const auto second = batch.tokens[r * schedule.length() + 1];  // after BOS
      ASSERT_TRUE(second == 'a' || second == 'b');
      ++(second == 'a' ? of_a : of_b);
    }
  }
  EXPECT_EQ(of_a, 80U);
  EXPECT_EQ(of_b, 40U);
}

TEST(packed_dataset, an_epoch_has_every_row_once_and_the_next_one_another_order) {
  const esft::packed_dataset<> set(texts(40), {.length = 16}, 1);
  std::vector<std::vector<std::size_t>> epochs;
  for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::size_t> documents;
    for (std::uint64_t n = epoch * set.rows(); n < (epoch + 1) * set.rows(); ++n) {
      for (const auto& part : set.row(n)) documents.push_back(part.document);
    }
    epochs.push_back(documents);
    std::sort(documents.begin(), documents.end());
    ASSERT_EQ(documents.size(), 40U);
    for (std::size_t d = 0; d < documents.size(); ++d) EXPECT_EQ(documents[d], d);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(packed_dataset, a_set_smaller_than_a_batch_goes_round) {
  const esft::batch_schedule<> schedule(esft::packed_dataset<>(texts(1), {.length = 8}, 1), 3, words.pad);
  const auto batch = schedule.batch(0);
  ASSERT_EQ(batch.tokens.size(), 24U);
  for (std::size_t t = 0; t < 8; ++t) EXPECT_EQ(batch.tokens[t], batch.tokens[16 + t]);
  EXPECT_EQ((std::set<std::int32_t>(batch.sample.begin(), batch.sample.end())), (std::set<std::int32_t>{-1, 0, 1, 2}));
}

TEST(packed_dataset, nothing_to_learn_is_bad_input) {
  const auto category = [](std::vector<esft::training_sample> samples) {
    try {
      const esft::packed_dataset<> set(std::move(samples), {.length = 8}, 1);
    } catch (const esft::error& failure) {
      return static_cast<int>(failure.category());
    }
    return 0;
  };
  EXPECT_EQ(category({}), 3);
  EXPECT_EQ(category({esft::training_sample{}}), 3);
  EXPECT_EQ(category({{{1, 2, 3}, {0, 0, 0}}}), 3);
  EXPECT_EQ(category({{{1, 2, 3}, {1, 0, 0}}}), 3);  // nothing stands before token 0
  EXPECT_EQ(category({{{1, 2, 3}, {0, 0, 1}}}), 0);
}

TEST(evaluation_batches, give_every_label_once) {
  EXPECT_TRUE(rc::check("evaluation", [] {
    const auto samples = data_test::random_samples();
    const auto options = data_test::random_options();
    const auto rows = static_cast<std::size_t>(*rc::gen::inRange(1, 5));
    const esft::evaluation_batches<> batches(samples, options, rows, data_test::pad_id);
    std::multiset<std::int32_t> labels;
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const auto batch = batches[i];
      RC_ASSERT(!batch.tokens.empty() && batch.tokens.size() <= rows * options.length && batch.tokens.size() % options.length == 0U);
      for (const auto label : batch.labels) {
        if (label != esft::ignored_label) labels.insert(label);
      }
    }
    std::multiset<std::int32_t> expected;
    const bool tail = options.mode == esft::packing_mode::whole && options.too_long == esft::long_document::tail;
    for (const auto& sample : samples) {
      const std::size_t dropped = tail && sample.tokens.size() > options.length ? sample.tokens.size() - options.length : 0;
      for (std::size_t i = dropped + 1; i < sample.tokens.size(); ++i) {
        if (sample.learned[i] != 0) expected.insert(sample.tokens[i]);
      }
    }
    RC_ASSERT(labels == expected);
    RC_ASSERT(batches.report().learned_tokens == expected.size());
  }));
}

TEST(batch_schedule, more_tokens_than_can_be_counted_are_refused) {
  constexpr auto most = static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max());
  const auto schedule = [](std::size_t rows, std::size_t length) {
    return esft::batch_schedule<>(esft::packed_dataset<>(texts(9), {.length = length}, 1, 0), rows, words.pad);
  };
  EXPECT_NO_THROW(static_cast<void>(schedule(most / 16, 16)));
  EXPECT_THROW(static_cast<void>(schedule(most / 16 + 1, 16)), esft::usage_error);
  EXPECT_THROW(static_cast<void>(schedule(std::numeric_limits<std::size_t>::max(), 16)), esft::usage_error);
  EXPECT_THROW(static_cast<void>(schedule(1, most + 1)), esft::usage_error);
}

TEST(evaluation_batches, hold_all_rows_however_many_are_asked_for) {
  for (const std::size_t rows : {std::size_t{1000}, std::numeric_limits<std::size_t>::max()}) {
    const esft::evaluation_batches<> batches(texts(9), {.length = 16}, rows, words.pad);
    ASSERT_EQ(batches.size(), 1U);
    EXPECT_EQ(batches[0].tokens.size(), batches.rows().size() * 16);
  }
}

TEST(evaluation_batches, of_nothing_are_none) {
  const esft::evaluation_batches<> none({}, {.length = 8}, 2, words.pad);
  EXPECT_EQ(none.size(), 0U);
  EXPECT_THROW((void)none[0], esft::contract_violation);
  const esft::evaluation_batches<> one(texts(1), {.length = 8}, 2, words.pad);
  ASSERT_EQ(one.size(), 1U);
  EXPECT_EQ(one[0].tokens.size(), 8U);
}

/// A source that makes its documents when asked.
struct counting_source {
  [[nodiscard]] std::size_t size() const { return 5; }
  esft::training_sample operator[](std::size_t i) const { return esft::render_text(words, std::to_string(i)); }
};
static_assert(esft::token_source<counting_source>);

TEST(batch_schedule, takes_a_source_that_returns_by_value) {
  const esft::batch_schedule<counting_source> lazy(esft::packed_dataset<counting_source>({}, {.length = 6}, 4), 2, words.pad);
  std::vector<esft::training_sample> stored;
  for (std::size_t i = 0; i < 5; ++i) stored.push_back(counting_source{}[i]);
  const esft::batch_schedule<> eager(esft::packed_dataset<>(stored, {.length = 6}, 4), 2, words.pad);
  for (std::uint64_t step = 0; step < 6; ++step) EXPECT_TRUE(data_test::same(lazy.batch(step), eager.batch(step)));
}

}  // namespace batch_tests
