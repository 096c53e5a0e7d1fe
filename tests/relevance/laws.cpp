// SPDX-License-Identifier: Apache-2.0
// What every scorer promises, run on every built-in scorer with every mean that it has.
#include <esft/relevance.hpp>

#include "synthetic.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace laws_tests {

using esft::layer_index;
using esft::observes;
using esft::sample_mean;
using esft_test::observation;
using esft_test::random_observation;
using esft_test::show;

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr float infinite = std::numeric_limits<float>::infinity();

template <class Scorer>
constexpr bool reads_tokens = observes<Scorer, esft::routing_record> || observes<Scorer, esft::expert_output_record>;

template <class Chosen, class... Types>
struct only_token_scorers {
  using type = Chosen;
};
template <class... Chosen, class First, class... Rest>
struct only_token_scorers<::testing::Types<Chosen...>, First, Rest...>
    : std::conditional_t<reads_tokens<First>, only_token_scorers<::testing::Types<Chosen..., First>, Rest...>,
                         only_token_scorers<::testing::Types<Chosen...>, Rest...>> {};

template <class List>
struct as_gtest;
template <class... Types>
struct as_gtest<esft::type_list<Types...>> {
  using all = ::testing::Types<Types...>;
  using of_tokens = typename only_token_scorers<::testing::Types<>, Types...>::type;
};

/// All scorers.
template <class Scorer>
class scorer_laws : public ::testing::Test {};
TYPED_TEST_SUITE(scorer_laws, as_gtest<esft::builtin_scorers>::all);

/// Those that read routing decisions of tokens; the others see passes and weights, in which there is no padding.
template <class Scorer>
class token_scorer_laws : public ::testing::Test {};
TYPED_TEST_SUITE(token_scorer_laws, as_gtest<esft::builtin_scorers>::of_tokens);

template <class Scorer>
std::vector<sample_mean> means() {
  try {
    static_cast<void>(Scorer({sample_mean::per_sample}));
    return {sample_mean::pooled, sample_mean::per_sample};
  } catch (const esft::usage_error&) {
    return {sample_mean::pooled};
  }
}

template <class Scorer>
esft::score_table score(const std::vector<observation>& stream, sample_mean mean) {
  Scorer scorer({mean});
  for (const auto& seen : stream) show(scorer, seen);
  return scorer.scores();
}

/// Random observations of three layers; equal token counts per layer are made by sharing the samples of the first one.
std::vector<observation> random_stream(std::uint64_t seed) {
  std::vector<observation> stream;
  for (std::uint64_t batch = 0; batch < 3; ++batch) {
    for (std::int32_t layer = 1; layer <= 3; ++layer) {
      stream.push_back(random_observation(seed * 31 + batch, layer_index(layer), 8, 3, 20, 4));
      if (layer == 1) continue;
      stream.back().routing.sample = stream[stream.size() - 2].routing.sample;
      stream.back().learned = stream[stream.size() - 2].learned;
    }
  }
  return stream;
}

void require_close(const esft::score_table& a, const esft::score_table& b, double tolerance) {
  RC_ASSERT(a.tokens == b.tokens);
  RC_ASSERT(a.layers.size() == b.layers.size());
  for (const auto& [index, layer] : a.layers) {
    const auto& other = b.layers.at(index);
    RC_ASSERT(layer.counts == other.counts);
    RC_ASSERT(layer.total_count == other.total_count);
    RC_ASSERT(layer.scores.size() == other.scores.size());
    for (std::size_t e = 0; e < layer.scores.size(); ++e) {
      RC_ASSERT(std::abs(layer.scores[e] - other.scores[e]) <= tolerance * std::max(1.0, std::abs(other.scores[e])));
    }
  }
}

TYPED_TEST(scorer_laws, models_the_concept) {
  static_assert(esft::relevance_scorer<TypeParam>);
  EXPECT_FALSE(TypeParam::name.empty());
  constexpr int kinds = int{observes<TypeParam, esft::routing_record>} + int{observes<TypeParam, esft::expert_output_record>} +
                        int{observes<TypeParam, esft::expert_gradient_record>} + int{observes<TypeParam, esft::expert_weights_record>};
  EXPECT_EQ(kinds, 1) << "a scorer reads one kind of record";
}

TYPED_TEST(scorer_laws, scores_are_what_policies_take) {
  for (const auto mean : means<TypeParam>()) {
    const auto table = score<TypeParam>(random_stream(3), mean);
    EXPECT_EQ(table.layers.size(), 3U);
    for (const auto& [index, layer] : table.layers) {
      EXPECT_EQ(layer.scores.size(), 8U);
      double sum = 0;
      for (const double value : layer.scores) {
        EXPECT_TRUE(std::isfinite(value) && value >= 0) << value;
        sum += value;
      }
      EXPECT_GT(sum, 0);
    }
  }
}

TYPED_TEST(scorer_laws, merging_equals_observing_everything) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means<TypeParam>()) {
      const auto stream = random_stream(seed);
      TypeParam left({mean});
      TypeParam right({mean});
      for (std::size_t i = 0; i < stream.size(); ++i) show(i < 3 ? left : right, stream[i]);
      left.merge(right);
      require_close(left.scores(), score<TypeParam>(stream, mean), 1e-13);
      TypeParam empty({mean});
      empty.merge(left);
      require_close(empty.scores(), left.scores(), 0);
    }
  }));
}

TYPED_TEST(scorer_laws, the_order_of_samples_does_not_matter) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means<TypeParam>()) {
      auto stream = random_stream(seed);
      const auto forward = score<TypeParam>(stream, mean);
      std::reverse(stream.begin(), stream.end());
      require_close(score<TypeParam>(stream, mean), forward, 1e-13);
    }
  }));
}

TYPED_TEST(scorer_laws, permuting_experts_permutes_the_scores) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    std::vector<std::int32_t> to(8);
    std::iota(to.begin(), to.end(), 0);
    esft::shuffle(to, esft::counter_rng(seed, esft::rng_stream::test, 77));
    for (const auto mean : means<TypeParam>()) {
      auto stream = random_stream(seed);
      const auto before = score<TypeParam>(stream, mean);
      for (auto& seen : stream) {
        for (auto& id : seen.routing.ids) id = to[static_cast<std::size_t>(id)];
        const auto tensors = seen.tensors;
        for (std::size_t e = 0; e < 8; ++e) seen.tensors[static_cast<std::size_t>(to[e])] = tensors[e];
      }
      const auto after = score<TypeParam>(stream, mean);
      for (const auto& [index, layer] : before.layers) {
        for (std::size_t e = 0; e < 8; ++e) RC_ASSERT(after.layers.at(index).scores[static_cast<std::size_t>(to[e])] == layer.scores[e]);
      }
    }
  }));
}

TYPED_TEST(scorer_laws, the_same_stream_gives_the_same_bits) {
  for (const auto mean : means<TypeParam>()) {
    const auto a = score<TypeParam>(random_stream(5), mean);
    const auto b = score<TypeParam>(random_stream(5), mean);
    for (const auto& [index, layer] : a.layers) EXPECT_EQ(layer.scores, b.layers.at(index).scores);
  }
}

TYPED_TEST(scorer_laws, nothing_observed_is_an_error) {
  TypeParam scorer;
  EXPECT_THROW(static_cast<void>(scorer.scores()), esft::error);
  show(scorer, random_observation(1, layer_index(4), 8, 3, 6, 2));
  EXPECT_NO_THROW(static_cast<void>(scorer.scores()));
}

TYPED_TEST(scorer_laws, scorers_with_different_means_do_not_merge) {
  if (means<TypeParam>().size() == 1) {
    try {
      static_cast<void>(TypeParam({sample_mean::per_sample}));
      FAIL() << "a mean that the scorer does not have";
    } catch (const esft::usage_error& refused) {
      EXPECT_NE(std::string(refused.what()).find(TypeParam::name), std::string::npos) << refused.what();
    }
    return;
  }
  TypeParam pooled({sample_mean::pooled});
  EXPECT_THROW(pooled.merge(TypeParam({sample_mean::per_sample})), esft::contract_violation);
  EXPECT_NO_THROW(pooled.merge(TypeParam({sample_mean::pooled})));
}

TYPED_TEST(scorer_laws, layers_of_different_models_do_not_merge) {
  TypeParam eight;
  show(eight, random_observation(1, layer_index(1), 8, 3, 6, 2));
  const auto expected = eight.scores().layers.at(layer_index(1)).scores;
  TypeParam nine;
  show(nine, random_observation(1, layer_index(0), 8, 3, 6, 2));
  show(nine, random_observation(1, layer_index(1), 9, 3, 6, 2));
  EXPECT_THROW(eight.merge(nine), esft::error);
  EXPECT_EQ(eight.scores().layers.at(layer_index(1)).scores, expected);
  EXPECT_EQ(eight.scores().layers.size(), 1U);
}

TYPED_TEST(scorer_laws, a_broken_record_is_refused_and_changes_nothing) {
  const auto good = random_observation(1, layer_index(1), 8, 3, 6, 2);
  for (const auto mean : means<TypeParam>()) {
    const auto expected = score<TypeParam>({good}, mean).layers.at(layer_index(1)).scores;
    TypeParam scorer({mean});
    show(scorer, good);
    const auto refused = [&](auto spoil) {
      auto bad = good;
      std::fill(bad.routing.sample.begin(), bad.routing.sample.end(), 0);
      spoil(bad);
      EXPECT_ANY_THROW(show(scorer, bad));
      EXPECT_EQ(scorer.scores().layers.at(layer_index(1)).scores, expected);
    };
    if constexpr (reads_tokens<TypeParam>) {
      refused([](observation& o) { o.routing.ids[4] = 8; });
      refused([](observation& o) { o.routing.ids[4] = -2; });
      refused([](observation& o) { o.routing.ids[4] = o.routing.ids[3]; });
      refused([](observation& o) { o.routing.weights[7] = not_a_number; });
      refused([](observation& o) { o.routing.weights[7] = infinite; });
      refused([](observation& o) { o.routing.weights[7] = -0.5F; });
      refused([](observation& o) { o.routing.weights.pop_back(); });
      refused([](observation& o) { o.routing.ids.pop_back(); });
      refused([](observation& o) { o.routing.sample.pop_back(); });
      refused([](observation& o) { o.routing.experts = 9; });
      refused([](observation& o) { o.routing.active = 0; });
    }
    if constexpr (observes<TypeParam, esft::expert_output_record>) {
      refused([](observation& o) { o.norms[7] = not_a_number; });
      refused([](observation& o) { o.norms[7] = infinite; });
      refused([](observation& o) { o.norms[7] = -0.5F; });
      refused([](observation& o) { o.norms.pop_back(); });
    }
    if constexpr (!reads_tokens<TypeParam>) {
      refused([](observation& o) { o.tensors[0].gate_up.pop_back(); });
      refused([](observation& o) { o.tensors[0].down.pop_back(); });
      refused([](observation& o) { o.routing.layer = layer_index(-1); });
      refused([](observation& o) { o.tensors.resize(7); });  // seven experts where there were eight
    }
    if constexpr (observes<TypeParam, esft::expert_gradient_record>) {
      refused([](observation& o) { o.tensors[0].gate_up_gradient[3] = not_a_number; });
      refused([](observation& o) { o.tensors[0].down_gradient[5] = infinite; });
      refused([](observation& o) { o.tensors[0].gate_up_gradient.pop_back(); });
      refused([](observation& o) { o.tensors[0].down_gradient.pop_back(); });
      refused([](observation& o) { o.learned = 0; });
    }
    if constexpr (observes<TypeParam, esft::expert_weights_record>) {
      refused([](observation& o) { o.tensors[0].gate_up[3] = not_a_number; });
      refused([](observation& o) { o.tensors[0].down[5] = infinite; });
    }
  }
}

TYPED_TEST(token_scorer_laws, padding_never_counts) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means<TypeParam>()) {
      auto stream = random_stream(seed);
      const auto before = score<TypeParam>(stream, mean);
      for (auto& seen : stream) {  // padding may hold anything, it was never computed
        seen.routing.add({{-7, not_a_number}, {99, -1.0F}, {99, 1e30F}}, -1);
        seen.norms.insert(seen.norms.end(), {not_a_number, -1.0F, infinite});
      }
      require_close(score<TypeParam>(stream, mean), before, 0);
    }
  }));
}

TYPED_TEST(token_scorer_laws, an_empty_slot_is_one_that_an_expert_of_no_weight_had) {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means<TypeParam>()) {
      auto with = random_stream(seed);
      auto without = with;
      for (std::size_t n = 0; n < with.size(); ++n) {
        for (std::size_t slot = 0; slot < with[n].routing.ids.size(); ++slot) {
          if (with[n].routing.ids[slot] != 7) continue;
          with[n].routing.weights[slot] = 0;
          without[n].routing.ids[slot] = esft::no_expert;
          without[n].routing.weights[slot] = not_a_number;  // never computed
          without[n].norms[slot] = not_a_number;
        }
      }
      const auto expected = score<TypeParam>(with, mean);
      for (const auto& [index, layer] : score<TypeParam>(without, mean).layers) {
        for (std::size_t e = 0; e < 7; ++e) RC_ASSERT(layer.scores[e] == expected.layers.at(index).scores[e]);
        RC_ASSERT(layer.scores[7] == 0);
      }
    }
  }));
}

TYPED_TEST(token_scorer_laws, no_sample_numbers_means_one_sample) {
  auto seen = random_observation(9, layer_index(1), 8, 3, 20, 4);
  std::fill(seen.routing.sample.begin(), seen.routing.sample.end(), 0);
  for (const auto mean : means<TypeParam>()) {
    const auto numbered = score<TypeParam>({seen}, mean);
    auto bare = seen;
    bare.routing.sample.clear();
    EXPECT_EQ(score<TypeParam>({bare}, mean).layers.at(layer_index(1)).scores, numbered.layers.at(layer_index(1)).scores);
  }
}

TYPED_TEST(token_scorer_laws, a_layer_without_real_tokens_is_an_error) {
  auto seen = random_observation(1, layer_index(4), 8, 3, 6, 2);
  TypeParam scorer;
  std::fill(seen.routing.sample.begin(), seen.routing.sample.end(), -1);
  show(scorer, seen);
  try {
    static_cast<void>(scorer.scores());
    FAIL() << "scores of a layer that saw only padding";
  } catch (const esft::error& failure) {
    EXPECT_NE(std::string(failure.what()).find("layer 4"), std::string::npos);
  }
  std::fill(seen.routing.sample.begin(), seen.routing.sample.end(), 0);
  show(scorer, seen);
  EXPECT_EQ(scorer.scores().tokens, 6);
}

TYPED_TEST(token_scorer_laws, layers_with_different_token_counts_are_an_error) {
  TypeParam scorer;
  auto first = random_observation(1, layer_index(1), 8, 3, 6, 1);
  auto second = random_observation(1, layer_index(2), 8, 3, 5, 1);
  std::fill(first.routing.sample.begin(), first.routing.sample.end(), 0);
  std::fill(second.routing.sample.begin(), second.routing.sample.end(), 0);
  show(scorer, first);
  show(scorer, second);
  EXPECT_THROW(static_cast<void>(scorer.scores()), esft::error);
}

TEST(expert_scorer_law, experts_that_were_observed_unequally_often_are_an_error) {
  const auto seen = random_observation(1, layer_index(2), 8, 3, 6, 1);
  esft::fisher scorer;
  for (std::size_t e = 0; e < 7; ++e) scorer.observe(seen.gradients(e));
  EXPECT_THROW(static_cast<void>(scorer.scores()), esft::error);
  scorer.observe(seen.gradients(7));
  EXPECT_EQ(scorer.scores().tokens, seen.learned);
  scorer.observe(seen.gradients(0));
  EXPECT_THROW(static_cast<void>(scorer.scores()), esft::error);
}

template <class Scorer>
void expect_sums_of_one() {
  EXPECT_TRUE(rc::check([](std::uint32_t seed) {
    for (const auto mean : means<Scorer>()) {
      for (const auto& [index, layer] : score<Scorer>(random_stream(seed), mean).layers) {
        RC_ASSERT(std::abs(std::accumulate(layer.scores.begin(), layer.scores.end(), 0.0) - 1.0) < 1e-12);
        if (!layer.counts.empty()) {
          RC_ASSERT(std::accumulate(layer.counts.begin(), layer.counts.end(), std::int64_t{0}) == layer.total_count);
        }
      }
    }
  }));
}
TEST(share_law, token_scores_of_a_layer_sum_to_one) { expect_sums_of_one<esft::token_selection_ratio>(); }
TEST(share_law, weighted_frequencies_of_a_layer_sum_to_one) { expect_sums_of_one<esft::weighted_frequency>(); }

}  // namespace laws_tests
