// SPDX-License-Identifier: Apache-2.0
#include <esft/data/packing.hpp>

#include "data/samples.hpp"

#include <algorithm>
#include <map>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>

namespace packing_tests {

using esft::ignored_label;
using esft::long_document;
using esft::packing_mode;

esft::training_sample learned_document(std::int32_t first, std::size_t size) {
  esft::training_sample sample;
  for (std::size_t i = 0; i < size; ++i) sample.tokens.push_back(first + static_cast<std::int32_t>(i));
  sample.learned.assign(size, 1);
  return sample;
}

TEST(packing, every_token_is_placed_exactly_once_and_in_order) {
  EXPECT_TRUE(rc::check("tokens of a packing", [] {
    const auto samples = data_test::random_samples();
    const auto options = data_test::random_options();
    const auto rows = esft::pack(samples, options);
    const auto batch = data_test::assemble(samples, rows);
    RC_ASSERT(batch.tokens.size() == rows.size() * options.length);

    std::map<std::size_t, std::vector<std::int32_t>> found;  // document -> its tokens as they occur in the rows
    std::size_t dropped = 0;
    std::size_t padding = 0;
    for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
      if (batch.sample[t] < 0) {
        RC_ASSERT(batch.tokens[t] == data_test::pad_id);
        ++padding;
      } else {
        found[static_cast<std::size_t>(batch.tokens[t] / 1000 - 1)].push_back(batch.tokens[t]);
      }
    }
    const bool tail_only = options.mode == packing_mode::whole && options.too_long == long_document::tail;
    for (std::size_t d = 0; d < samples.size(); ++d) {
      const auto& all = samples[d].tokens;
      const std::size_t kept = tail_only ? std::min(all.size(), options.length) : all.size();
      dropped += all.size() - kept;
      // pieces of a divided document may lie in rows of any order: each piece keeps its order, together they are the document
      auto tokens = found[d];
      if (options.mode == packing_mode::whole) std::sort(tokens.begin(), tokens.end());
      RC_ASSERT(tokens == std::vector<std::int32_t>(all.end() - static_cast<std::ptrdiff_t>(kept), all.end()));
    }
    RC_ASSERT(rows.report().documents == samples.size());
    RC_ASSERT(rows.report().dropped_tokens == dropped);
    RC_ASSERT(rows.report().padding == padding);
    RC_ASSERT(rows.report().tokens + padding == batch.tokens.size());
  }));
}

TEST(packing, labels_are_the_next_learned_token_of_the_same_document_and_nothing_else) {
  EXPECT_TRUE(rc::check("labels of a packing", [] {
    const auto samples = data_test::random_samples();
    const auto options = data_test::random_options();
    const auto rows = esft::pack(samples, options);
    const auto batch = data_test::assemble(samples, rows);
    std::size_t learned = 0;
    for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
      if (batch.sample[t] < 0) {
        RC_ASSERT(batch.labels[t] == ignored_label);
        continue;
      }
      const auto& sample = samples[static_cast<std::size_t>(batch.tokens[t] / 1000 - 1)];
      const auto next = static_cast<std::size_t>(batch.tokens[t] % 1000) + 1;
      const bool carries_loss = next < sample.tokens.size() && sample.learned[next] != 0;
      RC_ASSERT(batch.labels[t] == (carries_loss ? sample.tokens[next] : ignored_label));
      learned += carries_loss ? 1U : 0U;
    }
    RC_ASSERT(rows.report().learned_tokens == learned);
  }));
}

TEST(packing, a_token_attends_within_its_own_piece_and_row_only) {
  EXPECT_TRUE(rc::check("attention range of a packing", [] {
    const auto samples = data_test::random_samples();
    const auto options = data_test::random_options();
    const auto rows = esft::pack(samples, options);
    const auto batch = data_test::assemble(samples, rows);
    std::int32_t last_number = -1;
    for (std::size_t t = 0; t < batch.tokens.size(); ++t) {
      const auto begin = static_cast<std::size_t>(batch.key_begin[t]);
      RC_ASSERT(begin <= t);
      RC_ASSERT(begin / options.length == t / options.length);
      if (batch.sample[t] < 0) {
        RC_ASSERT(begin == t);
        RC_ASSERT(batch.position[t] == 0);
        continue;
      }
      RC_ASSERT(static_cast<std::size_t>(batch.position[t]) == t - begin);
      for (std::size_t k = begin; k <= t; ++k) {
        RC_ASSERT(batch.sample[k] == batch.sample[t]);
        RC_ASSERT(batch.tokens[k] == batch.tokens[t] - static_cast<std::int32_t>(t - k));
      }
      if (begin == t) RC_ASSERT(batch.sample[t] == ++last_number);  // pieces are numbered without gaps
    }
  }));
}

TEST(packing, no_row_is_padding_alone_and_whole_documents_stay_whole) {
  EXPECT_TRUE(rc::check("rows of a packing", [] {
    const auto samples = data_test::random_samples();
    const auto options = data_test::random_options();
    const auto rows = esft::pack(samples, options);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      RC_ASSERT(!rows.row(r).empty());
      for (const auto& part : rows.row(r)) {
        RC_ASSERT(part.count > 0U);
        const std::size_t size = samples[part.document].tokens.size();
        if (options.mode == packing_mode::whole && size <= options.length) RC_ASSERT(part.count == size);
      }
    }
    if (options.mode == packing_mode::split) RC_ASSERT(rows.report().padding < options.length);
  }));
}

TEST(packing, a_full_last_row_is_not_followed_by_one_of_padding) {
  for (const auto mode : {packing_mode::whole, packing_mode::split}) {
    const std::vector<esft::training_sample> samples{learned_document(10, 4), learned_document(20, 4)};
    const auto rows = esft::pack(samples, {.length = 4, .mode = mode});
    EXPECT_EQ(rows.size(), 2U);
    EXPECT_EQ(rows.report().padding, 0U);
  }
}

TEST(packing, one_long_document_is_cut_and_still_predicts_across_the_cut) {
  const std::vector<esft::training_sample> samples{learned_document(10, 5)};
  for (const auto mode : {packing_mode::whole, packing_mode::split}) {
    const auto rows = esft::pack(samples, {.length = 2, .mode = mode});
    const auto batch = data_test::assemble(samples, rows);
    EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{10, 11, 12, 13, 14, data_test::pad_id}));
    EXPECT_EQ(batch.labels, (std::vector<std::int32_t>{11, 12, 13, 14, ignored_label, ignored_label}));
    EXPECT_EQ(batch.position, (std::vector<std::int32_t>{0, 1, 0, 1, 0, 0}));
    EXPECT_EQ(batch.key_begin, (std::vector<std::int32_t>{0, 0, 2, 2, 4, 5}));
    EXPECT_EQ(batch.sample, (std::vector<std::int32_t>{0, 0, 1, 1, 2, -1}));
    EXPECT_EQ(rows.report().divided, 1U);
    EXPECT_EQ(rows.report().learned_tokens, 4U);
  }
}

TEST(packing, keeping_the_tail_reports_what_it_drops) {
  const std::vector<esft::training_sample> samples{learned_document(10, 5)};
  const auto rows = esft::pack(samples, {.length = 2, .mode = packing_mode::whole, .too_long = long_document::tail});
  EXPECT_EQ(data_test::assemble(samples, rows).tokens, (std::vector<std::int32_t>{13, 14}));
  EXPECT_EQ(rows.report().shortened, 1U);
  EXPECT_EQ(rows.report().dropped_tokens, 3U);
  EXPECT_EQ(rows.report().learned_tokens, 1U);
}

TEST(packing, best_fit_takes_the_fullest_row_with_room) {
  const std::vector<esft::training_sample> samples{learned_document(10, 5), learned_document(20, 7), learned_document(30, 3)};
  const auto rows = esft::pack(samples, {.length = 10, .mode = packing_mode::whole});
  ASSERT_EQ(rows.size(), 2U);
  ASSERT_EQ(rows.row(1).size(), 2U);
  EXPECT_EQ(rows.row(1)[1].document, 2U);  // 3 of the 3 free beside document 1, not 3 of the 5 beside document 0
}

TEST(packing, nothing_and_empty_documents_give_no_row_and_are_counted) {
  const std::vector<esft::training_sample> none;
  EXPECT_EQ(esft::pack(none, {}).size(), 0U);
  const std::vector<esft::training_sample> samples{{}, learned_document(10, 3), {}};
  const auto rows = esft::pack(samples, {.length = 4});
  EXPECT_EQ(rows.size(), 1U);
  EXPECT_EQ(rows.report().empty, 2U);
  EXPECT_EQ(rows.report().tokens, 3U);
}

TEST(packing, impossible_requests_break_the_contract) {
  const std::vector<esft::training_sample> good{learned_document(10, 3)};
  EXPECT_THROW((void)esft::pack(good, {.length = 0}), esft::contract_violation);
  std::vector<esft::training_sample> unequal = good;
  unequal[0].learned.pop_back();
  EXPECT_THROW((void)esft::pack(unequal, {.length = 4}), esft::contract_violation);
  EXPECT_NO_THROW((void)esft::pack(good, {.length = 1}));
}

}  // namespace packing_tests
