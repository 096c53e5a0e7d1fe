// SPDX-License-Identifier: Apache-2.0
// What every scorer promises, run on every built-in scorer with both means.
#include <esft/relevance.hpp>

#include "synthetic.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace {

using esft::layer_index;
using esft::sample_mean;
using esft_test::owned_record;
using esft_test::random_record;

template <class List>
struct as_gtest;
template <class... Types>
struct as_gtest<esft::type_list<Types...>> {
  using type = ::testing::Types<Types...>;
};

template <class Scorer>
class scorer_laws : public ::testing::Test {};
TYPED_TEST_SUITE(scorer_laws, typename as_gtest<esft::builtin_scorers>::type);

constexpr auto means = {sample_mean::pooled, sample_mean::per_sample};

template <class Scorer>
esft::score_table score(const std::vector<owned_record>& records, sample_mean mean) {
  Scorer scorer({mean});
  for (const auto& record : records) scorer.observe(record.view());
  return scorer.scores();
}

/// Random records of three layers; equal token counts per layer are made by sharing the samples of the first one.
std::vector<owned_record> random_stream(std::uint64_t seed) {
  std::vector<owned_record> records;
  for (std::uint64_t batch = 0; batch < 3; ++batch) {
    for (std::int32_t layer = 1; layer <= 3; ++layer) {
      records.push_back(random_record(seed * 31 + batch, layer_index(layer), 8, 3, 20, 4));
      if (layer > 1) records.back().sample = records[records.size() - 2].sample;
    }
  }
  return records;
}

void require_close(const esft::score_table& a, const esft::score_table& b, double tolerance) {
  RC_ASSERT(a.tokens == b.tokens);
  RC_ASSERT(a.layers.size() == b.layers.size());
  for (const auto& [index, layer] : a.layers) {
    const auto& other = b.layers.at(index);
    RC_ASSERT(layer.counts == other.counts);
    RC_ASSERT(layer.total_count == other.total_count);
    RC_ASSERT(layer.scores.size() == other.scores.size());
    for (std::size_t e = 0; e < layer.scores.size(); ++e) RC_ASSERT(std::abs(layer.scores[e] - other.scores[e]) <= tolerance);
  }
}

TYPED_TEST(scorer_laws, models_the_concept) {
  static_assert(esft::relevance_scorer<TypeParam>);
  EXPECT_FALSE(TypeParam::name.empty());
}

TYPED_TEST(scorer_laws, merging_equals_observing_everything) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means) {
      const auto records = random_stream(seed);
      TypeParam left({mean});
      TypeParam right({mean});
      for (std::size_t i = 0; i < records.size(); ++i) (i < 3 ? left : right).observe(records[i].view());
      left.merge(right);
      require_close(left.scores(), score<TypeParam>(records, mean), 1e-13);
      TypeParam empty({mean});
      empty.merge(left);
      require_close(empty.scores(), left.scores(), 0);
    }
  }));
}

TYPED_TEST(scorer_laws, the_order_of_samples_does_not_matter) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means) {
      auto records = random_stream(seed);
      const auto forward = score<TypeParam>(records, mean);
      std::reverse(records.begin(), records.end());
      require_close(score<TypeParam>(records, mean), forward, 1e-13);
    }
  }));
}

TYPED_TEST(scorer_laws, padding_never_counts) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means) {
      auto records = random_stream(seed);
      const auto before = score<TypeParam>(records, mean);
      for (auto& record : records) {  // padding may hold anything, it was never computed
        record.add({{-7, std::numeric_limits<float>::quiet_NaN()}, {99, -1.0F}, {99, 1e30F}}, -1);
      }
      require_close(score<TypeParam>(records, mean), before, 0);
    }
  }));
}

TYPED_TEST(scorer_laws, permuting_experts_permutes_the_scores) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    std::vector<std::int32_t> to(8);
    std::iota(to.begin(), to.end(), 0);
    esft::shuffle(to, esft::counter_rng(seed, esft::rng_stream::test, 77));
    for (const auto mean : means) {
      auto records = random_stream(seed);
      const auto before = score<TypeParam>(records, mean);
      for (auto& record : records) {
        for (auto& id : record.ids) id = to[static_cast<std::size_t>(id)];
      }
      const auto after = score<TypeParam>(records, mean);
      for (const auto& [index, layer] : before.layers) {
        for (std::size_t e = 0; e < 8; ++e) RC_ASSERT(after.layers.at(index).scores[static_cast<std::size_t>(to[e])] == layer.scores[e]);
      }
    }
  }));
}

TYPED_TEST(scorer_laws, the_same_stream_gives_the_same_bits) {
  for (const auto mean : means) {
    const auto a = score<TypeParam>(random_stream(5), mean);
    const auto b = score<TypeParam>(random_stream(5), mean);
    for (const auto& [index, layer] : a.layers) EXPECT_EQ(layer.scores, b.layers.at(index).scores);
  }
}

TYPED_TEST(scorer_laws, no_sample_numbers_means_one_sample) {
  auto record = random_record(9, layer_index(1), 8, 3, 20, 4);
  std::fill(record.sample.begin(), record.sample.end(), 0);
  for (const auto mean : means) {
    const auto numbered = score<TypeParam>({record}, mean);
    auto bare = record;
    bare.sample.clear();
    EXPECT_EQ(score<TypeParam>({bare}, mean).layers.at(layer_index(1)).scores, numbered.layers.at(layer_index(1)).scores);
  }
}

TYPED_TEST(scorer_laws, a_layer_without_real_tokens_is_an_error) {
  auto record = random_record(1, layer_index(4), 8, 3, 6, 2);
  TypeParam scorer;
  EXPECT_THROW(static_cast<void>(scorer.scores()), esft::error);
  std::fill(record.sample.begin(), record.sample.end(), -1);
  scorer.observe(record.view());
  try {
    static_cast<void>(scorer.scores());
    FAIL() << "scores of a layer that saw only padding";
  } catch (const esft::error& failure) {
    EXPECT_NE(std::string(failure.what()).find("layer 4"), std::string::npos);
  }
  std::fill(record.sample.begin(), record.sample.end(), 0);
  scorer.observe(record.view());
  EXPECT_EQ(scorer.scores().tokens, 6);
}

TYPED_TEST(scorer_laws, layers_with_different_token_counts_are_an_error) {
  TypeParam scorer;
  auto first = random_record(1, layer_index(1), 8, 3, 6, 1);
  auto second = random_record(1, layer_index(2), 8, 3, 5, 1);
  std::fill(first.sample.begin(), first.sample.end(), 0);
  std::fill(second.sample.begin(), second.sample.end(), 0);
  scorer.observe(first.view());
  scorer.observe(second.view());
  EXPECT_THROW(static_cast<void>(scorer.scores()), esft::error);
}

TYPED_TEST(scorer_laws, a_broken_record_is_refused_and_changes_nothing) {
  const auto good = random_record(1, layer_index(1), 8, 3, 6, 2);
  for (const auto mean : means) {
    const auto expected = score<TypeParam>({good}, mean).layers.at(layer_index(1)).scores;
    TypeParam scorer({mean});
    scorer.observe(good.view());
    const auto refused = [&](auto spoil) {
      auto bad = good;
      std::fill(bad.sample.begin(), bad.sample.end(), 0);
      spoil(bad);
      EXPECT_ANY_THROW(scorer.observe(bad.view()));
      EXPECT_EQ(scorer.scores().layers.at(layer_index(1)).scores, expected);
    };
    refused([](owned_record& r) { r.ids[4] = 8; });
    refused([](owned_record& r) { r.ids[4] = -1; });
    refused([](owned_record& r) { r.ids[4] = r.ids[3]; });
    refused([](owned_record& r) { r.weights[7] = std::numeric_limits<float>::quiet_NaN(); });
    refused([](owned_record& r) { r.weights[7] = std::numeric_limits<float>::infinity(); });
    refused([](owned_record& r) { r.weights[7] = -0.5F; });
    refused([](owned_record& r) { r.weights.pop_back(); });
    refused([](owned_record& r) { r.ids.pop_back(); });
    refused([](owned_record& r) { r.sample.pop_back(); });
    refused([](owned_record& r) { r.experts = 9; });
    refused([](owned_record& r) { r.active = 0; });
  }
}

TYPED_TEST(scorer_laws, scorers_with_different_means_do_not_merge) {
  TypeParam pooled({sample_mean::pooled});
  EXPECT_THROW(pooled.merge(TypeParam({sample_mean::per_sample})), esft::contract_violation);
  EXPECT_NO_THROW(pooled.merge(TypeParam({sample_mean::pooled})));
}

TYPED_TEST(scorer_laws, layers_of_different_models_do_not_merge) {
  TypeParam eight;
  eight.observe(random_record(1, layer_index(1), 8, 3, 6, 2).view());
  const auto expected = eight.scores().layers.at(layer_index(1)).scores;
  TypeParam nine;
  nine.observe(random_record(1, layer_index(0), 8, 3, 6, 2).view());
  nine.observe(random_record(1, layer_index(1), 9, 3, 6, 2).view());
  EXPECT_THROW(eight.merge(nine), esft::error);
  EXPECT_EQ(eight.scores().layers.at(layer_index(1)).scores, expected);
  EXPECT_EQ(eight.scores().layers.size(), 1U);
}

TEST(token_score_law, every_layer_sums_to_one) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means) {
      const auto table = score<esft::token_selection_ratio>(random_stream(seed), mean);
      for (const auto& [index, layer] : table.layers) {
        RC_ASSERT(std::abs(std::accumulate(layer.scores.begin(), layer.scores.end(), 0.0) - 1.0) < 1e-12);
        if (mean == sample_mean::pooled) {
          RC_ASSERT(std::accumulate(layer.counts.begin(), layer.counts.end(), std::int64_t{0}) == layer.total_count);
        }
      }
    }
  }));
}

}  // namespace
